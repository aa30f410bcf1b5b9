"""What programs in Python do, with boto3 and its transfer manager."""

import hashlib
import os
import ssl
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20
endpoint, bucket, folder = os.environ["S3_ENDPOINT"], os.environ["S3_BUCKET"], os.environ["S3_FOLDER"]
authority = os.environ.get("S3_CA") or None


def client(style):
    config = Config(s3={"addressing_style": style}, signature_version="s3v4", retries={"max_attempts": 1})
    return boto3.client("s3", endpoint_url=endpoint, config=config, verify=authority)


def fetch(url, data=None, method="GET", headers={}):
    context = ssl.create_default_context(cafile=authority) if authority else None
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, context=context) as answer:
        return answer.read()


def refused(code, call, **words):
    try:
        call(**words)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return
    raise AssertionError(f"{code} was expected")


s3 = client("path")
s3.create_bucket(Bucket=bucket)
assert bucket in [it["Name"] for it in s3.list_buckets()["Buckets"]]

# One piece, and what is said of it.
key = "spät/a b+c&d=e%.txt"
put = s3.put_object(Bucket=bucket, Key=key, Body=b"hello", ContentType="text/plain", Metadata={"who": "boto3"})
assert put["ETag"] == '"' + hashlib.md5(b"hello").hexdigest() + '"', put
head = s3.head_object(Bucket=bucket, Key=key)
assert (head["ContentLength"], head["ContentType"], head["Metadata"]) == (5, "text/plain", {"who": "boto3"}), head
got = s3.get_object(Bucket=bucket, Key=key, Range="bytes=1-3")
assert (got["Body"].read(), got["ContentRange"]) == (b"ell", "bytes 1-3/5"), got
refused("NoSuchKey", s3.get_object, Bucket=bucket, Key="nothing")
refused("PreconditionFailed", s3.put_object, Bucket=bucket, Key=key, Body=b"x", IfNoneMatch="*")
refused("304", s3.head_object, Bucket=bucket, Key=key, IfNoneMatch=put["ETag"])
for sum in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
    try:
        s3.put_object(Bucket=bucket, Key="sums/" + sum, Body=b"hello", ChecksumAlgorithm=sum)
    except Exception as error:
        # The last ones need a library of their own.
        assert "MissingDependency" in type(error).__name__, error
        continue
    got = s3.get_object(Bucket=bucket, Key="sums/" + sum, ChecksumMode="ENABLED")
    assert got["Body"].read() == b"hello" and got["Checksum" + sum], got

# Many pieces.
large = os.path.join(folder, "large")
with open(large, "wb") as file:
    file.write(os.urandom(17 * MIB + 5))
pieces = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=4)
s3.upload_file(large, bucket, "large", Config=pieces)
s3.download_file(bucket, "large", large + ".back", Config=pieces)
assert open(large, "rb").read() == open(large + ".back", "rb").read()
assert s3.head_object(Bucket=bucket, Key="large")["ETag"].endswith('-4"')
s3.copy({"Bucket": bucket, "Key": "large"}, bucket, "copied", Config=pieces)
assert s3.head_object(Bucket=bucket, Key="copied")["ContentLength"] == 17 * MIB + 5
upload = s3.create_multipart_upload(Bucket=bucket, Key="given up")["UploadId"]
s3.upload_part(Bucket=bucket, Key="given up", UploadId=upload, PartNumber=1, Body=b"x")
assert [it["UploadId"] for it in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
s3.abort_multipart_upload(Bucket=bucket, Key="given up", UploadId=upload)
assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)

# Lists, page by page, and folders.
for number in range(25):
    s3.put_object(Bucket=bucket, Key=f"many/{number:02}/x", Body=b"")
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="many/", PaginationConfig={"PageSize": 7})
assert [it["Key"] for page in pages for it in page["Contents"]] == [f"many/{number:02}/x" for number in range(25)]
folders = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
assert {it["Prefix"] for it in folders["CommonPrefixes"]} == {"many/", "spät/", "sums/"}, folders
assert {it["Key"] for it in folders["Contents"]} == {"copied", "large"}, folders

# Signed by one, used by another who has no key.
url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=60)
assert fetch(url) == b"hello"
put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "signed"}, ExpiresIn=60)
fetch(put, b"by a stranger", "PUT")
assert s3.get_object(Bucket=bucket, Key="signed")["Body"].read() == b"by a stranger"
try:
    fetch(url.split("?")[0])
    raise AssertionError("without a signature nothing is given")
except urllib.error.HTTPError as error:
    assert error.code == 403, error

# What was is kept.
s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
one = s3.put_object(Bucket=bucket, Key="versions", Body=b"one")["VersionId"]
s3.put_object(Bucket=bucket, Key="versions", Body=b"two")
s3.delete_object(Bucket=bucket, Key="versions")
refused("NoSuchKey", s3.get_object, Bucket=bucket, Key="versions")
assert s3.get_object(Bucket=bucket, Key="versions", VersionId=one)["Body"].read() == b"one"

s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
assert s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"] == [{"Key": "a", "Value": "b"}]

if os.environ.get("S3_HOSTS"):
    hosts = client("virtual")
    assert hosts.get_object(Bucket=bucket, Key=key)["Body"].read() == b"hello"

# Away with all of it.
refused("BucketNotEmpty", s3.delete_bucket, Bucket=bucket)
for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
    there = page.get("Versions", []) + page.get("DeleteMarkers", [])
    gone = s3.delete_objects(
        Bucket=bucket,
        Delete={"Objects": [{"Key": it["Key"], "VersionId": it["VersionId"]} for it in there], "Quiet": True},
    )
    assert "Errors" not in gone, gone
s3.delete_bucket(Bucket=bucket)
refused("NoSuchBucket", s3.list_objects_v2, Bucket=bucket)
