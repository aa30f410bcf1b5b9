# s3cmd.
set -eu
cd "$S3_FOLDER"
cat > config <<CONFIG
[default]
access_key = $AWS_ACCESS_KEY_ID
secret_key = $AWS_SECRET_ACCESS_KEY
bucket_location = $AWS_DEFAULT_REGION
host_base = ${S3_ENDPOINT#*://}
host_bucket = ${S3_ENDPOINT#*://}
use_https = ${S3_CA:+True}
signurl_use_https = ${S3_CA:+True}
ca_certs_file = ${S3_CA:-}
multipart_chunk_size_mb = 5
progress_meter = False
max_retries = 1
CONFIG
[ -n "${S3_CA:-}" ] || sed -i -e 's/use_https = $/use_https = False/' -e '/^ca_certs/d' config
s3="s3cmd -c config"
mkdir -p tree && echo one > tree/one && echo two > "tree/two words" && head -c 11000001 /dev/urandom > large
$s3 mb s3://$S3_BUCKET
$s3 put large s3://$S3_BUCKET/large
$s3 get s3://$S3_BUCKET/large back
cmp large back
$s3 sync tree/ s3://$S3_BUCKET/tree/
mkdir out && $s3 sync s3://$S3_BUCKET/tree/ out/
diff -r tree out
[ "$($s3 ls -r s3://$S3_BUCKET | wc -l)" = 3 ]
$s3 cp s3://$S3_BUCKET/tree/one s3://$S3_BUCKET/copied
$s3 info s3://$S3_BUCKET/copied | grep -q 'File size: *4'
curl -fsS ${S3_CA:+--cacert $S3_CA} "$($s3 signurl s3://$S3_BUCKET/copied +60)" | cmp - tree/one
$s3 setacl --acl-public s3://$S3_BUCKET/copied
curl -fsS ${S3_CA:+--cacert $S3_CA} "$S3_ENDPOINT/$S3_BUCKET/copied" | cmp - tree/one
! $s3 info s3://$S3_BUCKET/nothing 2>/dev/null
$s3 del -r -f s3://$S3_BUCKET
$s3 rb s3://$S3_BUCKET
