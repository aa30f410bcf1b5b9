//! The rules of the object store through HTTP: who may, what is sealed, what browsers are told.

use data_encoding::BASE64;

use super::*;

impl World {
    /// Does something as Ann, which goes well.
    async fn ann(&self, ask: Ask<'_>) -> Answer {
        let answer = self.ann.send(ask).await;
        assert!(answer.status < 300, "{}", answer.text());
        answer
    }

    async fn anybody(&self, ask: Ask<'_>) -> Answer {
        anonymous(self.town.addr, ask).await
    }
}

fn policy(effect: &str, action: &str, resource: &str, condition: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"{effect}","Principal":{{"AWS":"*"}},"Action":"{action}","Resource":"arn:aws:s3:::{resource}","Condition":{condition}}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_kept_as_it_was_put_and_opens_what_it_says() {
    let world = World::new().await;
    world.ann(ask("PUT", "/box/open/a").body("a")).await;
    world.ann(ask("PUT", "/box/shut/a").body("a")).await;
    assert_eq!(world.ann.send(ask("GET", "/box?policy")).await.code(), code(404, "NoSuchBucketPolicy"));
    let text = policy("Allow", "s3:GetObject", "box/open/*", r#"{"StringLike":{"aws:Referer":"http://good/*"}}"#);
    world.ann(ask("PUT", "/box?policy").body(text.clone())).await;
    assert_eq!(world.ann.send(ask("GET", "/box?policy")).await.text(), text);
    let good = |at| ask("GET", at).with("referer", "http://good/x");
    assert_eq!(world.anybody(good("/box/open/a")).await.text(), "a");
    assert_eq!(world.anybody(good("/box/shut/a")).await.code(), code(403, "AccessDenied"));
    assert_eq!(world.bob.send(ask("GET", "/box/open/a")).await.code(), code(403, "AccessDenied"));
    assert_eq!(world.bob.send(ask("GET", "/box?policy")).await.code(), code(403, "AccessDenied"));
    let deny = policy("Deny", "s3:*", "box*", "{}");
    world.ann(ask("PUT", "/box?policy").body(deny)).await;
    assert_eq!(world.ann.send(ask("GET", "/box/open/a")).await.code(), code(403, "AccessDenied"));
    world.ann(ask("DELETE", "/box?policy")).await;
    assert_eq!(world.ann(ask("GET", "/box/open/a")).await.text(), "a");
    for bad in ["{}", "x", &policy("Allow", "s3:GetObject", "other/*", "{}")] {
        let put = ask("PUT", "/box?policy").body(bad);
        assert_eq!(world.ann.send(put).await.code(), code(400, "MalformedPolicy"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_are_kept_one_by_one_and_blocked_where_the_bucket_says_so() {
    let world = World::new().await;
    world.ann(ask("PUT", "/box/a").with("x-amz-grant-read", "id=bob").body("a")).await;
    assert_eq!(world.bob.send(ask("GET", "/box/a")).await.text(), "a");
    let list = world.ann.send(ask("GET", "/box/a?acl")).await;
    assert_eq!(
        (list.tag("Permission").as_deref(), list.text().contains("<ID>bob</ID>")),
        (Some("READ"), true),
        "{}",
        list.text()
    );
    assert_eq!(world.bob.send(ask("GET", "/box/a?acl")).await.code(), code(403, "AccessDenied"));
    let nobody = ask("PUT", "/box/a").with("x-amz-grant-read", "id=eve").body("a");
    assert_eq!(world.ann.send(nobody).await.code(), code(400, "InvalidArgument"));
    let mail = ask("PUT", "/box?acl").with("x-amz-grant-read", "emailAddress=a@example.com");
    assert_eq!(world.ann.send(mail).await.code(), code(400, "UnresolvableGrantByEmailAddress"));
    world.ann(ask("PUT", "/box?acl").with("x-amz-acl", "public-read")).await;
    assert_eq!(world.anybody(ask("GET", "/box")).await.status, 200);
    assert!(world.ann(ask("GET", "/box?policyStatus")).await.text().contains("<IsPublic>true</IsPublic>"));
    let block = "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls>\
                 <BlockPublicPolicy>true</BlockPublicPolicy></PublicAccessBlockConfiguration>";
    world.ann(ask("PUT", "/box?publicAccessBlock").body(block)).await;
    assert_eq!(world.anybody(ask("GET", "/box")).await.code(), code(403, "AccessDenied"));
    let again = ask("PUT", "/box?acl").with("x-amz-acl", "public-read");
    assert_eq!(world.ann.send(again).await.code(), code(403, "AccessDenied"));
    let open = ask("PUT", "/box?policy").body(policy("Allow", "s3:GetObject", "box/*", "{}"));
    assert_eq!(world.ann.send(open).await.code(), code(403, "AccessDenied"));
    world.ann(ask("DELETE", "/box?publicAccessBlock")).await;
    assert_eq!(world.anybody(ask("GET", "/box")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_made_once_and_asking_for_the_same_again_changes_nothing() {
    let world = World::new().await;
    world.put("a", "a").await;
    world.ann(ask("PUT", "/box")).await;
    assert_eq!(world.get("a").await.text(), "a");
    let other = || ask("PUT", "/box").with("x-amz-acl", "public-read");
    assert_eq!(world.ann.send(other()).await.code(), code(409, "BucketAlreadyOwnedByYou"));
    world.ann(ask("PUT", "/box?acl").with("x-amz-acl", "public-read")).await;
    world.ann(other()).await;
    assert_eq!(world.ann.send(ask("PUT", "/box")).await.code(), code(409, "BucketAlreadyOwnedByYou"));
    let owned = other().with("x-amz-object-ownership", "BucketOwnerPreferred");
    assert_eq!(world.ann.send(owned).await.code(), code(409, "BucketAlreadyOwnedByYou"));
    assert_eq!(world.bob.send(other()).await.code(), code(409, "BucketAlreadyExists"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_is_theirs_or_the_buckets_as_it_says() {
    let world = World::new().await;
    world.ann(ask("PUT", "/box?acl").with("x-amz-acl", "public-read-write")).await;
    assert_eq!(world.bob.send(ask("PUT", "/box/his").body("b")).await.status, 200);
    assert_eq!(world.ann.send(ask("GET", "/box/his")).await.code(), code(403, "AccessDenied"));
    let owned = |word: &str| {
        format!("<OwnershipControls><Rule><ObjectOwnership>{word}</ObjectOwnership></Rule></OwnershipControls>")
    };
    let enforced = ask("PUT", "/box?ownershipControls").body(owned("BucketOwnerEnforced"));
    assert_eq!(world.ann.send(enforced).await.code(), code(400, "InvalidBucketAclWithObjectOwnership"));
    world.ann(ask("PUT", "/box?ownershipControls").body(owned("BucketOwnerPreferred"))).await;
    let given = ask("PUT", "/box/given").with("x-amz-acl", "bucket-owner-full-control").body("b");
    assert_eq!(world.bob.send(given).await.status, 200);
    assert_eq!(world.ann.send(ask("GET", "/box/given")).await.text(), "b");
    world.ann(ask("PUT", "/box?acl").with("x-amz-acl", "private")).await;
    world.ann(ask("PUT", "/box?ownershipControls").body(owned("BucketOwnerEnforced"))).await;
    assert_eq!(world.ann.send(ask("GET", "/box/his")).await.text(), "b", "all is hers now");
    let listed = ask("PUT", "/box/x").with("x-amz-acl", "public-read").body("x");
    assert_eq!(world.ann.send(listed).await.code(), code(400, "AccessControlListNotSupported"));
}

fn customer<'a>(ask: Ask<'a>, key: u8, md5: &str) -> Ask<'a> {
    ask.with("x-amz-server-side-encryption-customer-algorithm", "AES256")
        .with("x-amz-server-side-encryption-customer-key", BASE64.encode(&[key; 32]))
        .with("x-amz-server-side-encryption-customer-key-md5", md5)
}

/// Of 32 bytes 1, and of 32 bytes 2.
const MD5: [&str; 2] = ["4Funlf7OsLF0HL+vKU+fkg==", "F3apf5enN9TQbA8CaOS4/g=="];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_comes_back_to_whoever_has_the_key() {
    let world = World::new().await;
    for bytes in [0, 1, 5_000, 300_000] {
        let body = noise(bytes);
        let put = customer(ask("PUT", "/box/c"), 1, &md5(1)).body(body.clone());
        let put = world.ann(put).await;
        assert_eq!(put.header("x-amz-server-side-encryption-customer-algorithm"), "AES256");
        let got = world.ann(customer(ask("GET", "/box/c"), 1, &md5(1))).await;
        assert!(got.body == body && got.header("content-length") == bytes.to_string(), "{bytes}");
        assert_eq!(world.ann.send(ask("GET", "/box/c")).await.code(), code(400, "InvalidRequest"));
        let other = world.ann.send(customer(ask("GET", "/box/c"), 2, &md5(2))).await;
        assert_eq!(other.code(), code(400, "InvalidArgument"));
        let sealed =
            world.ann(ask("PUT", "/box/s").with("x-amz-server-side-encryption", "AES256").body(body.clone())).await;
        assert_eq!(sealed.header("x-amz-server-side-encryption"), "AES256");
        let got = world.ann(ask("GET", "/box/s")).await;
        assert!(got.body == body && got.header("x-amz-server-side-encryption") == "AES256");
        let listed = world.ann(ask("GET", "/box?list-type=2&prefix=s")).await;
        assert_eq!(listed.tag("Size"), Some(bytes.to_string()));
    }
    let body = noise(300_000);
    for (first, last) in [(0, 0), (65_535, 65_536), (70_000, 140_000), (299_999, 299_999)] {
        let range = format!("bytes={first}-{last}");
        let part = world.ann(ask("GET", "/box/s").with("range", range)).await;
        assert_eq!((part.status, part.body.to_vec()), (206, body[first..=last].to_vec()));
    }
    assert_eq!(
        world.ann.send(customer(ask("PUT", "/box/x"), 1, &md5(2)).body("x")).await.code(),
        code(400, "InvalidArgument")
    );
    let both = customer(ask("PUT", "/box/x"), 1, &md5(1)).with("x-amz-server-side-encryption", "AES256").body("x");
    assert_eq!(world.ann.send(both).await.code(), code(400, "InvalidArgument"));
    let copied = ask("PUT", "/box/copy").with("x-amz-copy-source", "box/s");
    world.ann(copied).await;
    let got = world.ann(ask("GET", "/box/copy")).await;
    assert!(got.body == body && got.header("x-amz-server-side-encryption").is_empty());
}

fn md5(key: u8) -> String {
    MD5[usize::from(key) - 1].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_sealed_each_for_itself_as_the_bucket_says() {
    let world = World::new().await;
    let default = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm>\
                   <KMSMasterKeyID>k1</KMSMasterKeyID></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
    world.ann(ask("PUT", "/box?encryption").body(default)).await;
    let begun = world.ann(ask("POST", "/box/big?uploads")).await;
    assert_eq!(begun.header("x-amz-server-side-encryption-aws-kms-key-id"), "k1");
    let upload = begun.tag("UploadId").unwrap();
    let bodies = [noise(PART), noise(70_001)];
    let mut listed = String::new();
    for (number, body) in (1..).zip(&bodies) {
        let at = format!("/box/big?partNumber={number}&uploadId={upload}");
        world.ann(ask("PUT", &at).body("something else")).await;
        let etag = world.ann(ask("PUT", &at).body(body.clone())).await.header("etag").replace('"', "&quot;");
        listed += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let at = format!("/box/big?uploadId={upload}");
    let sizes = world.ann(ask("GET", &at)).await.text();
    assert!(sizes.contains("<Size>70001</Size>"), "{sizes}");
    // Also said again to whom the first answer never came.
    for _ in 0..2 {
        let ended = ask("POST", &at).body(format!("<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"));
        assert_eq!(world.ann(ended).await.header("x-amz-server-side-encryption-aws-kms-key-id"), "k1");
    }
    let whole = bodies.concat();
    let got = world.ann(ask("GET", "/box/big")).await;
    assert!(got.body == whole && got.header("x-amz-server-side-encryption") == "aws:kms");
    let across = world.ann(ask("GET", "/box/big").with("range", format!("bytes={}-{}", PART - 3, PART + 65_600))).await;
    assert_eq!(across.body.to_vec(), whole[PART - 3..=PART + 65_600]);
    let second = world.ann(ask("GET", "/box/big?partNumber=2")).await;
    assert_eq!(second.body.to_vec(), bodies[1]);
    let upload = world.ann(ask("POST", "/box/again?uploads")).await.tag("UploadId").unwrap();
    let at = format!("/box/again?partNumber=1&uploadId={upload}");
    let copied = world.ann(ask("PUT", &at).with("x-amz-copy-source", "box/big")).await;
    assert_eq!(copied.header("x-amz-server-side-encryption"), "aws:kms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_told_what_the_bucket_says() {
    let world = World::new().await;
    let rules = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>https://*.example</AllowedOrigin>\
                 <AllowedHeader>x-amz-*</AllowedHeader></CORSRule></CORSConfiguration>";
    assert_eq!(world.ann.send(ask("GET", "/box?cors")).await.code(), code(404, "NoSuchCORSConfiguration"));
    world.ann(ask("PUT", "/box?cors").body(rules)).await;
    let preflight = |origin: &str, method: &str| {
        ask("OPTIONS", "/box/a").with("origin", origin).with("access-control-request-method", method)
    };
    let told =
        world.anybody(preflight("https://a.example", "GET").with("access-control-request-headers", "x-amz-date")).await;
    assert_eq!((told.status, told.header("access-control-allow-origin")), (200, "https://a.example"));
    assert_eq!(world.anybody(preflight("https://a.example", "PUT")).await.code(), code(403, "AccessForbidden"));
    assert_eq!(world.anybody(preflight("http://b", "GET")).await.status, 403);
    assert_eq!(world.anybody(ask("OPTIONS", "/box/a")).await.status, 400);
    let refused = world.anybody(ask("GET", "/box/a").with("origin", "https://a.example")).await;
    assert_eq!((refused.status, refused.header("access-control-allow-methods")), (403, "GET"));
    assert_eq!(world.anybody(ask("GET", "/box/a")).await.header("access-control-allow-origin"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_delete_are_taken_told_and_given_back() {
    let world = World::new().await;
    let rule = |inside: &str| {
        format!("<LifecycleConfiguration><Rule>{inside}<Status>Enabled</Status></Rule></LifecycleConfiguration>")
    };
    let good = rule("<ID>old</ID><Filter><Prefix>tmp/</Prefix></Filter><Expiration><Days>2</Days></Expiration>");
    world.ann(ask("PUT", "/box?lifecycle").body(good)).await;
    let given = world.ann(ask("GET", "/box?lifecycle")).await;
    assert_eq!(
        (given.tag("ID").as_deref(), given.tag("Days").as_deref()),
        (Some("old"), Some("2")),
        "{}",
        given.text()
    );
    let put = world.ann(ask("PUT", "/box/tmp/a").body("a")).await;
    assert!(put.header("x-amz-expiration").ends_with("rule-id=\"old\""), "{}", put.header("x-amz-expiration"));
    assert_eq!(world.ann(ask("HEAD", "/box/tmp/a")).await.header("x-amz-expiration"), put.header("x-amz-expiration"));
    assert_eq!(world.ann(ask("PUT", "/box/a").body("a")).await.header("x-amz-expiration"), "");
    for (bad, says) in [
        (rule("<Expiration><Days>0</Days></Expiration>"), "InvalidArgument"),
        (rule("<Prefix></Prefix>"), "InvalidRequest"),
        (
            rule(
                "<Filter><Prefix>a</Prefix><And><Prefix>b</Prefix></And></Filter><Expiration><Days>1</Days></Expiration>",
            ),
            "MalformedXML",
        ),
        (
            rule("<Prefix></Prefix><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"),
            "InvalidStorageClass",
        ),
    ] {
        assert_eq!(
            world.ann.send(ask("PUT", "/box?lifecycle").body(bad.clone())).await.code(),
            code(400, says),
            "{bad}"
        );
    }
    world.ann(ask("DELETE", "/box?lifecycle")).await;
    assert_eq!(world.ann.send(ask("GET", "/box?lifecycle")).await.code(), code(404, "NoSuchLifecycleConfiguration"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_deleted_and_what_is_not_stays() {
    let world = World::with_days_of(Day(1_000)).await;
    let rule = |prefix: &str, days: u32| {
        format!(
            "<Rule><Filter><Prefix>{prefix}</Prefix></Filter><Status>Enabled</Status><Expiration><Days>{days}</Days></Expiration>\
             <AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>"
        )
    };
    let sized = "<Rule><Filter><Prefix>sized/</Prefix><ObjectSizeGreaterThan>1</ObjectSizeGreaterThan></Filter><Status>Enabled</Status>\
                 <Expiration><Days>1</Days></Expiration></Rule>";
    let (soon, late) = (rule("soon/", 1), rule("late/", 1_000_000));
    let rules = format!("<LifecycleConfiguration>{sized}{soon}{late}</LifecycleConfiguration>");
    for key in ["soon/a", "late/a", "b", "sized/small"] {
        world.put(key, "x").await;
    }
    world.put("sized/large", "xx").await;
    let upload = world.ann(ask("POST", "/box/soon/big?uploads")).await.tag("UploadId").unwrap();
    world.ann(ask("PUT", "/box?lifecycle").body(rules)).await;
    let at = format!("/box/soon/big?uploadId={upload}");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    for at in ["/box/soon/a", "/box/sized/large", &at] {
        while world.ann.send(ask("GET", at)).await.status == 200 {
            assert!(tokio::time::Instant::now() < deadline, "{at} is not deleted");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    for key in ["late/a", "b", "sized/small"] {
        assert_eq!(world.get(key).await.status, 200, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_kept_as_long_as_it_is_locked() {
    let world = World::new().await;
    world.ann(ask("PUT", "/locked").with("x-amz-bucket-object-lock-enabled", "true")).await;
    let default = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode>\
                   <Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    world.ann(ask("PUT", "/locked?object-lock").body(default)).await;
    assert_eq!(world.ann(ask("GET", "/locked?object-lock")).await.tag("Days").as_deref(), Some("1"));
    let version = world.ann(ask("PUT", "/locked/a").body("a")).await.header("x-amz-version-id").to_owned();
    let at = format!("/locked/a?versionId={version}");
    let kept = world.ann(ask("GET", "/locked/a?retention")).await;
    assert_eq!(kept.tag("Mode").as_deref(), Some("GOVERNANCE"), "{}", kept.text());
    assert_eq!(world.ann.send(ask("DELETE", &at)).await.code(), code(403, "AccessDenied"));
    let hold = "<LegalHold><Status>ON</Status></LegalHold>";
    world.ann(ask("PUT", "/locked/a?legal-hold").body(hold)).await;
    assert_eq!(world.ann(ask("GET", "/locked/a?legal-hold")).await.tag("Status").as_deref(), Some("ON"));
    let bypass = || ask("DELETE", &at).with("x-amz-bypass-governance-retention", "true");
    assert_eq!(world.ann.send(bypass()).await.code(), code(403, "AccessDenied"), "it is held");
    world.ann(ask("PUT", "/locked/a?legal-hold").body("<LegalHold><Status>OFF</Status></LegalHold>")).await;
    world.ann(bypass()).await;
    assert_eq!(
        world.ann.send(ask("GET", "/box?object-lock")).await.code(),
        code(404, "ObjectLockConfigurationNotFoundError")
    );
}
