//! Whom buckets tell, through HTTP.

use super::*;

fn configuration(inside: &str) -> String {
    format!("<NotificationConfiguration>{inside}</NotificationConfiguration>")
}

fn topic(arn: &str, more: &str) -> String {
    configuration(&format!("<TopicConfiguration><Topic>{arn}</Topic>{more}</TopicConfiguration>"))
}

const HOOK: &str = "arn:hirsel:webhook:::https://hook.example/a";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_says_whom_it_tells_and_takes_only_what_it_can_tell() {
    let world = World::new().await;
    let put = |body: String| ask("PUT", "/box?notification").body(body);
    let none = world.ann.send(ask("GET", "/box?notification")).await;
    assert_eq!((none.status, none.tag("Topic")), (200, None));
    let filter = "<Filter><S3Key><FilterRule><Name>Prefix</Name><Value>pics/</Value></FilterRule>\
                  <FilterRule><Name>suffix</Name><Value>.jpg</Value></FilterRule></S3Key></Filter>";
    let good = topic(HOOK, &format!("<Id>mine</Id><Event>s3:ObjectCreated:*</Event>{filter}"));
    assert_eq!(world.bob.send(put(good.clone())).await.code(), code(403, "AccessDenied"));
    let answer = world.ann.send(put(good)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let given = world.ann.send(ask("GET", "/box?notification")).await.text();
    for part in [HOOK, "<Id>mine</Id>", "s3:ObjectCreated:*", "<Value>pics/</Value>", "<Value>.jpg</Value>"] {
        assert!(given.contains(part), "{part} in {given}");
    }
    // It is in the way of nobody.
    world.put("pics/a.jpg", "a").await;
    for bad in [
        topic("arn:aws:sns:us-east-1:1:t", "<Event>s3:ObjectCreated:*</Event>"),
        topic(HOOK, "<Event>s3:ObjectRestore:*</Event>"),
        topic(HOOK, &format!("<Event>s3:ObjectCreated:*</Event>{}", filter.replace("suffix", "Prefix"))),
        topic(HOOK, &format!("<Event>s3:ObjectCreated:*</Event>{}", filter.replace("suffix", "size"))),
        configuration(&format!(
            "<QueueConfiguration><Queue>{HOOK}</Queue><Event>s3:ObjectCreated:*</Event></QueueConfiguration>"
        )),
    ] {
        assert_eq!(world.ann.send(put(bad.clone())).await.code(), code(400, "InvalidArgument"), "{bad}");
    }
    assert!(world.ann.send(ask("GET", "/box?notification")).await.text().contains("<Id>mine</Id>"));
    assert_eq!(world.ann.send(put(configuration(""))).await.status, 200);
    assert_eq!(world.ann.send(ask("GET", "/box?notification")).await.tag("Topic"), None);
}
