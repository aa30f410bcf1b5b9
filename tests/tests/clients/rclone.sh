# rclone: copy, check, size, sync.
set -eu
export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_S3_TYPE=s3 RCLONE_CONFIG_S3_PROVIDER=Other RCLONE_CONFIG_S3_ENV_AUTH=true
export RCLONE_CONFIG_S3_ENDPOINT=$S3_ENDPOINT RCLONE_CONFIG_S3_REGION=$AWS_DEFAULT_REGION RCLONE_LOW_LEVEL_RETRIES=1 RCLONE_RETRIES=1
s3="rclone ${S3_CA:+--ca-cert $S3_CA} --s3-upload-cutoff 5M --s3-chunk-size 5M"
cd "$S3_FOLDER"
mkdir -p tree/deep
for number in 1 2 3 4 5 6 7 8; do echo "$number" > "tree/deep/file $number"; done
head -c 12000001 /dev/urandom > tree/large
$s3 mkdir s3:$S3_BUCKET
$s3 copy tree s3:$S3_BUCKET/tree
$s3 check --download tree s3:$S3_BUCKET/tree
$s3 check tree s3:$S3_BUCKET/tree
[ "$($s3 size --json s3:$S3_BUCKET)" = "$(rclone size --json tree)" ]
rm "tree/deep/file 3" && echo new > "tree/deep/file 4" && echo more > tree/more
$s3 sync tree s3:$S3_BUCKET/tree
$s3 check tree s3:$S3_BUCKET/tree
$s3 copy s3:$S3_BUCKET/tree back
diff -r tree back
[ "$($s3 lsf -R --files-only s3:$S3_BUCKET | wc -l)" = 9 ]
$s3 moveto s3:$S3_BUCKET/tree/more s3:$S3_BUCKET/moved
[ "$($s3 cat s3:$S3_BUCKET/moved)" = more ]
$s3 purge s3:$S3_BUCKET
! $s3 lsd s3:$S3_BUCKET 2>/dev/null
