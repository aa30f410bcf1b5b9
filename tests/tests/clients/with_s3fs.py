"""Buckets as file systems, as programs for data have them (fsspec)."""

import os

import s3fs

MIB = 1 << 20
bucket = os.environ["S3_BUCKET"]
words = {"endpoint_url": os.environ["S3_ENDPOINT"]}
if os.environ.get("S3_CA"):
    words["verify"] = os.environ["S3_CA"]
fs = s3fs.S3FileSystem(client_kwargs=words, default_block_size=5 * MIB)
fs.mkdir(bucket)
large = os.urandom(12 * MIB)
with fs.open(f"{bucket}/data/large.bin", "wb") as file:
    for piece in range(12):
        file.write(large[piece * MIB : (piece + 1) * MIB])
with fs.open(f"{bucket}/data/words.txt", "w") as file:
    file.write("one\ntwo\n")
fs.invalidate_cache()
with fs.open(f"{bucket}/data/large.bin", "rb") as file:
    file.seek(7 * MIB)
    assert file.read(1000) == large[7 * MIB : 7 * MIB + 1000]
assert fs.cat(f"{bucket}/data/large.bin") == large
with fs.open(f"{bucket}/data/words.txt", "r") as file:
    assert file.readlines() == ["one\n", "two\n"]
assert sorted(fs.ls(f"{bucket}/data")) == [f"{bucket}/data/large.bin", f"{bucket}/data/words.txt"]
assert fs.info(f"{bucket}/data/large.bin")["size"] == 12 * MIB
fs.mv(f"{bucket}/data/words.txt", f"{bucket}/other/words.txt")
assert sorted(fs.find(bucket)) == [f"{bucket}/data/large.bin", f"{bucket}/other/words.txt"]
assert fs.glob(f"{bucket}/*/*.txt") == [f"{bucket}/other/words.txt"]
fs.rm(bucket, recursive=True)
assert not fs.exists(bucket)
