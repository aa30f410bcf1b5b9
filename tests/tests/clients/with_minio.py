"""The client that users of MinIO have."""

import io
import os
from datetime import timedelta
from urllib.parse import urlparse

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject

MIB = 1 << 20
endpoint, bucket = urlparse(os.environ["S3_ENDPOINT"]), os.environ["S3_BUCKET"]
pool = urllib3.PoolManager(ca_certs=os.environ.get("S3_CA") or None, retries=False)
s3 = Minio(
    endpoint=endpoint.netloc,
    access_key=os.environ["AWS_ACCESS_KEY_ID"],
    secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    secure=endpoint.scheme == "https",
    region=os.environ["AWS_DEFAULT_REGION"],
    http_client=pool,
)
s3.make_bucket(bucket_name=bucket)
assert s3.bucket_exists(bucket_name=bucket)
s3.put_object(bucket_name=bucket, object_name="a/small", data=io.BytesIO(b"hello"), length=5, metadata={"who": "minio"})
large = os.urandom(11 * MIB + 7)
s3.put_object(bucket_name=bucket, object_name="large", data=io.BytesIO(large), length=-1, part_size=5 * MIB)
answer = s3.get_object(bucket_name=bucket, object_name="large")
assert answer.read() == large
answer.close()
answer = s3.get_object(bucket_name=bucket, object_name="large", offset=6 * MIB, length=100)
assert answer.read() == large[6 * MIB : 6 * MIB + 100]
answer.close()
told = s3.stat_object(bucket_name=bucket, object_name="a/small")
assert (told.size, told.metadata["x-amz-meta-who"]) == (5, "minio"), told.metadata
s3.copy_object(bucket_name=bucket, object_name="b/copied", source=CopySource(bucket_name=bucket, object_name="a/small"))
names = [it.object_name for it in s3.list_objects(bucket_name=bucket, recursive=True)]
assert names == ["a/small", "b/copied", "large"], names
folders = sorted(it.object_name for it in s3.list_objects(bucket_name=bucket))
assert folders == ["a/", "b/", "large"], folders
url = s3.presigned_get_object(bucket_name=bucket, object_name="a/small", expires=timedelta(minutes=1))
assert pool.request("GET", url).data == b"hello"
gone = s3.remove_objects(bucket_name=bucket, delete_object_list=[DeleteObject(name) for name in names])
assert list(gone) == []
s3.remove_bucket(bucket_name=bucket)
assert not s3.bucket_exists(bucket_name=bucket)
