# The command line of AWS. $AWS is the program.
set -eu
s3="$AWS --endpoint-url $S3_ENDPOINT ${S3_CA:+--ca-bundle $S3_CA}"
cd "$S3_FOLDER"
mkdir -p site/css && echo '<h1>home</h1>' > site/index.html && echo 'h1 {}' > site/css/a.css
head -c 20000003 /dev/urandom > large
$s3 s3 mb s3://$S3_BUCKET
$s3 s3 cp large s3://$S3_BUCKET/large --no-progress
$s3 s3 cp s3://$S3_BUCKET/large back --no-progress
cmp large back
echo piped | $s3 s3 cp - s3://$S3_BUCKET/piped
[ "$($s3 s3 cp s3://$S3_BUCKET/piped -)" = piped ]
$s3 s3 sync site s3://$S3_BUCKET/site --no-progress
[ -z "$($s3 s3 sync site s3://$S3_BUCKET/site --no-progress)" ]
rm site/css/a.css
$s3 s3 sync site s3://$S3_BUCKET/site --delete --no-progress
[ "$($s3 s3 ls --recursive s3://$S3_BUCKET/ | awk '{ print $4 }' | tr '\n' ' ')" = "large piped site/index.html " ]
curl -fsS ${S3_CA:+--cacert $S3_CA} "$($s3 s3 presign s3://$S3_BUCKET/site/index.html --expires-in 60)" | cmp - site/index.html
[ "$($s3 s3api head-object --bucket $S3_BUCKET --key site/index.html --query ContentType --output text)" = text/html ]
! $s3 s3api head-object --bucket $S3_BUCKET --key nothing 2>/dev/null
$s3 s3 mv s3://$S3_BUCKET/piped s3://$S3_BUCKET/moved
$s3 s3 rb --force s3://$S3_BUCKET
! $s3 s3 ls s3://$S3_BUCKET 2>/dev/null
