//! Buckets as web sites, through HTTP.

use super::town::SITE;
use super::*;

impl World {
    /// Asks the site of the bucket, as a browser does.
    async fn site(&self, ask: Ask<'_>) -> Answer {
        let host = format!("box.{SITE}:8080");
        anonymous(self.town.addr, Ask { host: Some(&host), ..ask }).await
    }

    async fn is_site(&self, says: &str) {
        let document = format!("<WebsiteConfiguration>{says}</WebsiteConfiguration>");
        let answer = self.ann.send(ask("PUT", "/box?website").body(document)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    async fn page(&self, key: &str, body: &str) {
        let at = format!("/box/{key}");
        let put = ask("PUT", &at).with("x-amz-acl", "public-read").with("content-type", "text/html").body(body);
        assert_eq!(self.ann.send(put).await.status, 200);
    }
}

const INDEX: &str = "<IndexDocument><Suffix>index.html</Suffix></IndexDocument>";
const ERROR: &str = "<ErrorDocument><Key>oops.html</Key></ErrorDocument>";

fn routing(rules: &str) -> String {
    format!("{INDEX}<RoutingRules>{rules}</RoutingRules>")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_says_of_itself_whether_it_is_a_site() {
    let world = World::new().await;
    let none = || code(404, "NoSuchWebsiteConfiguration");
    assert_eq!(world.ann.send(ask("GET", "/box?website")).await.code(), none());
    assert_eq!(world.bob.send(ask("GET", "/box?website")).await.code(), code(403, "AccessDenied"));
    let site = world.site(ask("GET", "/")).await;
    assert_eq!((site.status, site.header("x-amz-error-code")), (404, "NoSuchWebsiteConfiguration"));
    world.is_site(&format!("{INDEX}{ERROR}")).await;
    let given = world.ann.send(ask("GET", "/box?website")).await;
    assert_eq!((given.tag("Suffix").as_deref(), given.tag("Key").as_deref()), (Some("index.html"), Some("oops.html")));
    for bad in [
        "",
        "<IndexDocument><Suffix>a/b</Suffix></IndexDocument>",
        "<IndexDocument><Suffix>i</Suffix></IndexDocument><RedirectAllRequestsTo><HostName>h</HostName></RedirectAllRequestsTo>",
        "<RedirectAllRequestsTo><HostName>h</HostName><Protocol>ftp</Protocol></RedirectAllRequestsTo>",
        &routing("<RoutingRule><Redirect><HttpRedirectCode>x</HttpRedirectCode></Redirect></RoutingRule>"),
        &routing("<RoutingRule><Condition></Condition><Redirect><HostName>h</HostName></Redirect></RoutingRule>"),
    ] {
        let put = ask("PUT", "/box?website").body(format!("<WebsiteConfiguration>{bad}</WebsiteConfiguration>"));
        assert_eq!(world.ann.send(put).await.code(), code(400, "InvalidArgument"), "{bad}");
    }
    assert_eq!(world.ann.send(ask("DELETE", "/box?website")).await.status, 204);
    assert_eq!(world.ann.send(ask("GET", "/box?website")).await.code(), none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_shown_to_anybody_whom_the_bucket_lets_get_them() {
    let world = World::new().await;
    world.is_site(INDEX).await;
    world.page("index.html", "front").await;
    world.page("docs/index.html", "docs").await;
    world.page("a%20%2B%C3%A4", "odd").await;
    world.put("secret", "s").await;
    for (at, shown) in [("/", "front"), ("/docs/", "docs"), ("/docs/index.html", "docs"), ("/a%20+%C3%A4?x=y", "odd")] {
        let page = world.site(ask("GET", at)).await;
        assert_eq!((page.status, page.text().as_str(), page.header("content-type")), (200, shown, "text/html"), "{at}");
    }
    let folder = world.site(ask("GET", "/docs")).await;
    assert_eq!((folder.status, folder.header("location")), (302, "/docs/"));
    let head = world.site(ask("HEAD", "/")).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "5", 0));
    let part = world.site(ask("GET", "/").with("range", "bytes=1-2")).await;
    assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (206, "ro", "bytes 1-2/5"));
    let same = world.site(ask("GET", "/").with("if-none-match", head.header("etag"))).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    // What is not public is not shown, however it is asked for, and neither is said what there is not.
    for ask in [ask("GET", "/secret"), ask("GET", "/none"), ask("GET", "/secret").with("authorization", "AWS a:b")] {
        let refused = world.site(ask).await;
        assert_eq!((refused.status, refused.header("x-amz-error-code")), (403, "AccessDenied"));
        assert_eq!(refused.header("content-type"), "text/html; charset=utf-8");
        assert!(refused.text().contains("<h1>403 Forbidden</h1>"), "{}", refused.text());
    }
    let signed = world.ann.presigned("/secret", 60, 0);
    assert_eq!(world.site(ask("GET", &signed)).await.status, 403, "a site knows nobody");
    for method in ["PUT", "POST", "DELETE"] {
        let refused = world.site(ask(method, "/index.html").body("x")).await;
        assert_eq!((refused.status, refused.header("x-amz-error-code")), (405, "MethodNotAllowed"), "{method}");
    }
    assert_eq!(world.site(ask("GET", "/")).await.text(), "front");
    let get = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::box/*"}]}"#;
    assert_eq!(world.ann.send(ask("PUT", "/box?policy").body(get)).await.status, 204);
    assert_eq!(world.site(ask("GET", "/secret")).await.text(), "s");
    assert_eq!(world.site(ask("GET", "/none")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_hosts_are_other_buckets_or_s3() {
    let world = World::new().await;
    world.is_site(INDEX).await;
    world.page("index.html", "front").await;
    for (host, status, says) in [
        (format!("none.{SITE}"), 404, "NoSuchBucket"),
        (format!("a%b.{SITE}"), 404, "NoSuchBucket"),
        (SITE.to_owned(), 404, "NoSuchBucket"),
        (format!("BOX.{SITE}."), 200, "front"),
    ] {
        let answer = anonymous(world.town.addr, Ask { host: Some(&host), ..ask("GET", "/") }).await;
        assert!(answer.status == status && answer.text().contains(says), "{host}: {}", answer.text());
    }
    // The bucket of the name itself.
    let own = format!("/{SITE}");
    assert_eq!(world.ann.send(ask("PUT", &own)).await.status, 200);
    let put = format!("{own}?website");
    let document = format!("<WebsiteConfiguration>{INDEX}</WebsiteConfiguration>");
    assert_eq!(world.ann.send(ask("PUT", &put).body(document)).await.status, 200);
    let put = format!("{own}/index.html");
    assert_eq!(world.ann.send(ask("PUT", &put).with("x-amz-acl", "public-read").body("own")).await.status, 200);
    assert_eq!(anonymous(world.town.addr, Ask { host: Some(SITE), ..ask("GET", "/") }).await.text(), "own");
    let by_host = format!("box.{HOST}");
    let listing = anonymous(world.town.addr, Ask { host: Some(&by_host), ..ask("GET", "/") }).await;
    assert_eq!(listing.code(), code(403, "AccessDenied"), "S3 itself lists there, and shows no page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_shown_as_the_site_wants_it_or_in_words_of_our_own() {
    let world = World::new().await;
    world.is_site(&format!("{INDEX}{ERROR}")).await;
    let lost = world.site(ask("GET", "/%3Cb%3E")).await;
    assert_eq!(lost.status, 403);
    let text = lost.text();
    assert!(
        text.contains("<li>Code: AccessDenied</li>") && text.contains("Retrieve a Custom Error Document"),
        "{text}"
    );
    assert!(!text.contains("<b>"), "{text}");
    world.page("oops.html", "sorry").await;
    let shown = world.site(ask("GET", "/none").with("range", "bytes=0-0").with("if-none-match", "*")).await;
    assert_eq!((shown.status, shown.text().as_str(), shown.header("content-type")), (403, "sorry", "text/html"));
    assert_eq!(shown.header("x-amz-error-code"), "AccessDenied");
    let open = ask("PUT", "/box?acl").with("x-amz-acl", "public-read");
    assert_eq!(world.ann.send(open).await.status, 200);
    let head = world.site(ask("HEAD", "/none")).await;
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_sent_where_rules_or_objects_say() {
    let world = World::new().await;
    let rules = "<RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals></Condition>\
         <Redirect><ReplaceKeyPrefixWith>new/</ReplaceKeyPrefixWith></Redirect></RoutingRule>\
         <RoutingRule><Condition><HttpErrorCodeReturnedEquals>403</HttpErrorCodeReturnedEquals></Condition><Redirect>\
         <HostName>help.example</HostName><Protocol>https</Protocol><ReplaceKeyWith>help</ReplaceKeyWith>\
         <HttpRedirectCode>302</HttpRedirectCode></Redirect></RoutingRule>";
    world.is_site(&routing(rules)).await;
    world.page("here", "here").await;
    let moved = |at: &str| {
        ask("PUT", "/box/moved").with("x-amz-acl", "public-read").with("x-amz-website-redirect-location", at)
    };
    assert_eq!(world.ann.send(moved("/here").body("m")).await.status, 200);
    assert_eq!(world.ann.send(moved("there")).await.code(), code(400, "InvalidRedirectLocation"));
    let own = format!("http://box.{SITE}:8080/new/a%20b");
    for (at, status, location) in [
        ("/old/a%20b", 301, own.as_str()),
        ("/none", 302, "https://help.example/help"),
        ("/moved", 301, "/here"),
        ("/here", 200, ""),
    ] {
        let sent = world.site(ask("GET", at)).await;
        assert_eq!((sent.status, sent.header("location")), (status, location), "{at}");
    }
    let secure = world.site(ask("GET", "/old/x").with("x-forwarded-proto", "https")).await;
    assert!(secure.header("location").starts_with("https://box."), "{}", secure.header("location"));
    assert_eq!(world.get("moved").await.header("x-amz-website-redirect-location"), "/here", "S3 itself sends nobody");
    world.is_site("<RedirectAllRequestsTo><HostName>www.example</HostName></RedirectAllRequestsTo>").await;
    let sent = world.site(ask("GET", "/a/b")).await;
    assert_eq!((sent.status, sent.header("location")), (301, "http://www.example/a/b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_may_use_a_site_from_elsewhere_as_the_bucket_says() {
    let world = World::new().await;
    world.is_site(INDEX).await;
    world.page("index.html", "front").await;
    let rules = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>https://a.example</AllowedOrigin></CORSRule></CORSConfiguration>";
    assert_eq!(world.ann.send(ask("PUT", "/box?cors").body(rules)).await.status, 200);
    let told = world.site(ask("GET", "/").with("origin", "https://a.example")).await;
    assert_eq!((told.text().as_str(), told.header("access-control-allow-origin")), ("front", "https://a.example"));
    let asked = ask("OPTIONS", "/").with("origin", "https://a.example").with("access-control-request-method", "GET");
    assert_eq!(world.site(asked).await.status, 200);
}
