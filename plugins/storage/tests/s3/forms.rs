//! Objects that browsers send as forms.

use super::*;

impl World {
    async fn form(&self, conditions: &str, fields: &[(&str, &str)]) -> Answer {
        let form = self.ann.form(conditions, fields, ("pictures/sheep.txt", "baa"));
        let ask = ask("POST", "/box").with("content-type", "multipart/form-data; boundary=b").body(form);
        anonymous(self.town.addr, ask).await
    }
}

const KEY: &str = r#"{"bucket":"box"},["starts-with","$key","in/"]"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_puts_what_its_policy_allows_and_nothing_else() {
    let world = World::new().await;
    let put = world.form(KEY, &[("key", "in/${filename}")]).await;
    assert_eq!(put.status, 204, "{}", put.text());
    let got = world.get("in/sheep.txt").await;
    assert_eq!((got.text().as_str(), got.header("etag")), ("baa", put.header("etag")));
    let outside = world.form(KEY, &[("key", "${filename}")]).await;
    assert_eq!(outside.code(), code(403, "AccessDenied"));
    let other = world.form(r#"{"bucket":"other"},["starts-with","$key",""]"#, &[("key", "a")]).await;
    assert_eq!(other.code(), code(403, "AccessDenied"));
    let more = world.form(KEY, &[("key", "in/a"), ("acl", "public-read")]).await;
    assert_eq!(more.code(), code(403, "AccessDenied"), "nothing in the policy is about it");
    let large = world.form(&format!("{KEY},[\"content-length-range\",0,2]"), &[("key", "in/a")]).await;
    assert_eq!(large.code(), code(400, "EntityTooLarge"));
    let mut forged = world.ann.clone();
    forged.secret = "guessed".into();
    let form = forged.form(KEY, &[("key", "in/a")], ("a", "a"));
    let forged = ask("POST", "/box").with("content-type", "multipart/form-data; boundary=b").body(form);
    assert_eq!(anonymous(world.town.addr, forged).await.code(), code(403, "SignatureDoesNotMatch"));
    let form = world.ann.form(KEY, &[("key", "in/a")], ("a", "a"));
    let unsigned = String::from_utf8(form).unwrap().replace("x-amz-signature", "x-ignore-it");
    let unsigned = ask("POST", "/box").with("content-type", "multipart/form-data; boundary=b").body(unsigned);
    assert_eq!(anonymous(world.town.addr, unsigned).await.code(), code(400, "InvalidArgument"));
    assert_eq!(world.get("in/a").await.code(), code(404, "NoSuchKey"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_form_says_of_an_object_is_kept() {
    let world = World::new().await;
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1 &amp; 2</Value></Tag></TagSet></Tagging>";
    let fields = [("key", "in/a"), ("tagging", tags), ("Content-Type", "text/x"), ("x-amz-meta-b", "c")];
    let said = r#",["starts-with","$tagging",""],["starts-with","$Content-Type","text/"],{"x-amz-meta-b":"c"}"#;
    let put = world.form(&format!("{KEY}{said}"), &fields).await;
    assert_eq!(put.status, 204, "{}", put.text());
    let got = world.get("in/a").await;
    assert_eq!(
        (got.header("content-type"), got.header("x-amz-meta-b"), got.header("x-amz-tagging-count")),
        ("text/x", "c", "1")
    );
    let tagged = world.ann.send(ask("GET", "/box/in/a?tagging")).await;
    assert_eq!(tagged.tag("Value").as_deref(), Some("1 &amp; 2"), "{}", tagged.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_a_form_says_how_it_is_answered() {
    let world = World::new().await;
    let made = world
        .form(
            &format!("{KEY},{{\"success_action_status\":\"201\"}}"),
            &[("key", "in/a"), ("success_action_status", "201")],
        )
        .await;
    let etag = made.header("etag").to_owned();
    assert_eq!((made.status, made.tag("Key").as_deref(), etag.len()), (201, Some("in/a"), 34), "{}", made.text());
    let back = "http://example.com/done?a=b";
    let conditions = format!("{KEY},[\"starts-with\",\"$success_action_redirect\",\"\"]");
    let sent = world.form(&conditions, &[("key", "in/a"), ("success_action_redirect", back)]).await;
    let at = format!("{back}&bucket=box&key=in%2Fa&etag={}", etag.replace('"', "%22"));
    assert_eq!((sent.status, sent.header("location")), (303, at.as_str()));
}
