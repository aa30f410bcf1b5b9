// What programs in Node.js do, with the SDK for JavaScript.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';

// Where modules lie is said by NODE_PATH, which `import` does not look at.
const require = createRequire(import.meta.url);
const s3 = require('@aws-sdk/client-s3');

const { S3_ENDPOINT: endpoint, S3_BUCKET: Bucket } = process.env;
const client = new s3.S3Client({ endpoint, forcePathStyle: true, maxAttempts: 1 });
const ask = (name, words = {}) => client.send(new s3[`${name}Command`]({ Bucket, ...words }));
const body = async (answer) => Buffer.from(await answer.Body.transformToByteArray());
const refused = (name, words, error) => assert.rejects(ask(name, words), (it) => it.name === error || assert.fail(it));

await ask('CreateBucket');
const Key = 'spät/a b+c&d=e%.txt';
await ask('PutObject', { Key, Body: 'hello', ContentType: 'text/plain', Metadata: { who: 'node' } });
const head = await ask('HeadObject', { Key });
assert.deepEqual([head.ContentLength, head.ContentType, head.Metadata], [5, 'text/plain', { who: 'node' }]);
assert.equal((await body(await ask('GetObject', { Key, Range: 'bytes=1-' }))).toString(), 'ello');
await refused('GetObject', { Key: 'nothing' }, 'NoSuchKey');
await refused('PutObject', { Key, Body: 'x', IfNoneMatch: '*' }, 'PreconditionFailed');

// A stream, whose checksum follows it.
const large = randomBytes(6 << 20);
await ask('PutObject', { Key: 'stream', Body: Readable.from([large]), ContentLength: large.length });
assert.ok((await body(await ask('GetObject', { Key: 'stream' }))).equals(large));

// Parts.
const { UploadId } = await ask('CreateMultipartUpload', { Key: 'parts', ChecksumAlgorithm: 'CRC32' });
const Parts = [];
for (const [number, piece] of [large.subarray(0, 5 << 20), large.subarray(5 << 20)].entries()) {
  const PartNumber = number + 1;
  const part = await ask('UploadPart', { Key: 'parts', UploadId, PartNumber, Body: piece, ChecksumAlgorithm: 'CRC32' });
  Parts.push({ PartNumber, ETag: part.ETag, ChecksumCRC32: part.ChecksumCRC32 });
}
await ask('CompleteMultipartUpload', { Key: 'parts', UploadId, MultipartUpload: { Parts } });
const digest = (bytes) => createHash('sha256').update(bytes).digest('hex');
assert.equal(digest(await body(await ask('GetObject', { Key: 'parts' }))), digest(large));

await ask('CopyObject', { Key: 'copied', CopySource: `${Bucket}/${encodeURIComponent(Key)}` });
const keys = (await ask('ListObjectsV2')).Contents.map((it) => it.Key);
assert.deepEqual(keys, ['copied', 'parts', Key, 'stream']);
const gone = await ask('DeleteObjects', { Delete: { Objects: keys.map((Key) => ({ Key })) } });
assert.equal(gone.Deleted.length, 4);
await ask('DeleteBucket');
await refused('ListObjectsV2', {}, 'NoSuchBucket');
