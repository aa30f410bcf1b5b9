//! Which operations of S3 there are, and where each is: whatever is not named here is answered with `NotImplemented`.

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::front::Front;
use super::serve::{Operation, RequestId};
use super::{
    bucket, configurations, delete, form, get, list, lists, locks, notifications, policies, put, tags, upload, website,
};

macro_rules! operations {
    ($($name:ident: $input:ident => $output:ident, $place:path;)*) => {
        #[async_trait::async_trait]
        impl S3 for Front {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                let id = request.extensions.get::<RequestId>().cloned();
                if let Some(operation) = request.extensions.get::<Operation>() {
                    operation.is(stringify!($name));
                }
                $place(self, request).await.map_err(|mut error| {
                    if let Some(RequestId(id)) = id {
                        error.set_request_id(id);
                    }
                    error
                })
            })*
        }
    };
}

operations! {
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput, upload::abort_multipart_upload;
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput, upload::complete_multipart_upload;
    copy_object: CopyObjectInput => CopyObjectOutput, put::copy_object;
    create_bucket: CreateBucketInput => CreateBucketOutput, bucket::create_bucket;
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput, upload::create_multipart_upload;
    delete_bucket: DeleteBucketInput => DeleteBucketOutput, bucket::delete_bucket;
    delete_bucket_cors: DeleteBucketCorsInput => DeleteBucketCorsOutput, configurations::delete_bucket_cors;
    delete_bucket_encryption: DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput, configurations::delete_bucket_encryption;
    delete_bucket_lifecycle: DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput, configurations::delete_bucket_lifecycle;
    delete_bucket_ownership_controls: DeleteBucketOwnershipControlsInput => DeleteBucketOwnershipControlsOutput, lists::delete_bucket_ownership_controls;
    delete_bucket_policy: DeleteBucketPolicyInput => DeleteBucketPolicyOutput, policies::delete_bucket_policy;
    delete_bucket_tagging: DeleteBucketTaggingInput => DeleteBucketTaggingOutput, tags::delete_bucket_tagging;
    delete_bucket_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput, website::delete_bucket_website;
    delete_object: DeleteObjectInput => DeleteObjectOutput, delete::delete_object;
    delete_object_tagging: DeleteObjectTaggingInput => DeleteObjectTaggingOutput, tags::delete_object_tagging;
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput, delete::delete_objects;
    delete_public_access_block: DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput, policies::delete_public_access_block;
    get_bucket_acl: GetBucketAclInput => GetBucketAclOutput, lists::get_bucket_acl;
    get_bucket_cors: GetBucketCorsInput => GetBucketCorsOutput, configurations::get_bucket_cors;
    get_bucket_encryption: GetBucketEncryptionInput => GetBucketEncryptionOutput, configurations::get_bucket_encryption;
    get_bucket_lifecycle_configuration: GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput, configurations::get_bucket_lifecycle_configuration;
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput, bucket::get_bucket_location;
    get_bucket_notification_configuration: GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput, notifications::get_bucket_notification_configuration;
    get_bucket_ownership_controls: GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput, lists::get_bucket_ownership_controls;
    get_bucket_policy: GetBucketPolicyInput => GetBucketPolicyOutput, policies::get_bucket_policy;
    get_bucket_policy_status: GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput, policies::get_bucket_policy_status;
    get_bucket_tagging: GetBucketTaggingInput => GetBucketTaggingOutput, tags::get_bucket_tagging;
    get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput, bucket::get_bucket_versioning;
    get_bucket_website: GetBucketWebsiteInput => GetBucketWebsiteOutput, website::get_bucket_website;
    get_object: GetObjectInput => GetObjectOutput, get::get_object;
    get_object_acl: GetObjectAclInput => GetObjectAclOutput, lists::get_object_acl;
    get_object_attributes: GetObjectAttributesInput => GetObjectAttributesOutput, get::get_object_attributes;
    get_object_legal_hold: GetObjectLegalHoldInput => GetObjectLegalHoldOutput, locks::get_object_legal_hold;
    get_object_lock_configuration: GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput, locks::get_object_lock_configuration;
    get_object_retention: GetObjectRetentionInput => GetObjectRetentionOutput, locks::get_object_retention;
    get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput, tags::get_object_tagging;
    get_public_access_block: GetPublicAccessBlockInput => GetPublicAccessBlockOutput, policies::get_public_access_block;
    head_bucket: HeadBucketInput => HeadBucketOutput, bucket::head_bucket;
    head_object: HeadObjectInput => HeadObjectOutput, get::head_object;
    list_buckets: ListBucketsInput => ListBucketsOutput, bucket::list_buckets;
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput, list::list_multipart_uploads;
    list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput, list::list_object_versions;
    list_objects: ListObjectsInput => ListObjectsOutput, list::list_objects;
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output, list::list_objects_v2;
    list_parts: ListPartsInput => ListPartsOutput, upload::list_parts;
    post_object: PostObjectInput => PostObjectOutput, form::post_object;
    put_bucket_acl: PutBucketAclInput => PutBucketAclOutput, lists::put_bucket_acl;
    put_bucket_cors: PutBucketCorsInput => PutBucketCorsOutput, configurations::put_bucket_cors;
    put_bucket_encryption: PutBucketEncryptionInput => PutBucketEncryptionOutput, configurations::put_bucket_encryption;
    put_bucket_lifecycle_configuration: PutBucketLifecycleConfigurationInput => PutBucketLifecycleConfigurationOutput, configurations::put_bucket_lifecycle_configuration;
    put_bucket_notification_configuration: PutBucketNotificationConfigurationInput => PutBucketNotificationConfigurationOutput, notifications::put_bucket_notification_configuration;
    put_bucket_ownership_controls: PutBucketOwnershipControlsInput => PutBucketOwnershipControlsOutput, lists::put_bucket_ownership_controls;
    put_bucket_policy: PutBucketPolicyInput => PutBucketPolicyOutput, policies::put_bucket_policy;
    put_bucket_tagging: PutBucketTaggingInput => PutBucketTaggingOutput, tags::put_bucket_tagging;
    put_bucket_versioning: PutBucketVersioningInput => PutBucketVersioningOutput, bucket::put_bucket_versioning;
    put_bucket_website: PutBucketWebsiteInput => PutBucketWebsiteOutput, website::put_bucket_website;
    put_object: PutObjectInput => PutObjectOutput, put::put_object;
    put_object_acl: PutObjectAclInput => PutObjectAclOutput, lists::put_object_acl;
    put_object_legal_hold: PutObjectLegalHoldInput => PutObjectLegalHoldOutput, locks::put_object_legal_hold;
    put_object_lock_configuration: PutObjectLockConfigurationInput => PutObjectLockConfigurationOutput, locks::put_object_lock_configuration;
    put_object_retention: PutObjectRetentionInput => PutObjectRetentionOutput, locks::put_object_retention;
    put_object_tagging: PutObjectTaggingInput => PutObjectTaggingOutput, tags::put_object_tagging;
    put_public_access_block: PutPublicAccessBlockInput => PutPublicAccessBlockOutput, policies::put_public_access_block;
    upload_part: UploadPartInput => UploadPartOutput, upload::upload_part;
    upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput, upload::upload_part_copy;
}
