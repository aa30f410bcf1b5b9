use super::*;
use http::HeaderValue;
use proptest::prelude::*;

/// 06 Nov 1994 08:49:37.
const WALL: WallTime = WallTime(784_111_777_000);
const DATE_NOW: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
const HOUR_AGO: &str = "Sun, 06 Nov 1994 07:49:37 GMT";
const IN_A_MINUTE: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::try_from(*value).unwrap());
    }
    headers
}

fn times() -> Times {
    Times { asked: Timestamp(1_000), came: Timestamp(1_000), wall: WALL }
}

fn seconds(from: u64) -> Timestamp {
    Timestamp(1_000 + from * 1_000)
}

fn kept_by(rules: &Rules, status: u16, lines: &[(&'static str, &str)]) -> Option<Freshness> {
    keep(Asker::default(), StatusCode::from_u16(status).unwrap(), &headers(lines), rules, times())
}

fn kept(lines: &[(&'static str, &str)]) -> Option<Freshness> {
    kept_by(&Rules::default(), 200, lines)
}

fn said(line: &str) -> Option<Freshness> {
    kept(&[("cache-control", line)])
}

/// For how many seconds it is fresh.
fn lifetime(freshness: Option<Freshness>) -> Option<u64> {
    freshness.map(|it| it.lifetime.as_secs())
}

#[test]
fn section_3_what_is_not_for_everybody_is_not_kept() {
    assert!(said("max-age=60").is_some());
    for line in ["no-store", "max-age=60, no-store", "private, max-age=60", "max-age=60, private=\"x\""] {
        assert_eq!(said(line), None, "{line}");
    }
    let fresh = ("cache-control", "max-age=60");
    for status in [100, 206, 304] {
        assert_eq!(kept_by(&Rules::default(), status, &[fresh]), None, "{status}");
    }
    for status in [200, 302, 404, 418, 500] {
        assert!(kept_by(&Rules::default(), status, &[fresh]).is_some(), "{status} says so");
    }
    let cookie = ("set-cookie", "a=1");
    assert_eq!(kept(&[fresh, cookie]), None);
    assert!(kept(&[("cache-control", "public, max-age=60"), cookie]).is_some());
    let silent = Asker { no_store: true, ..Asker::default() };
    assert_eq!(keep(silent, StatusCode::OK, &headers(&[fresh]), &Rules::default(), times()), None);
}

#[test]
fn section_3_5_an_answer_to_somebody_who_is_known_is_kept_if_it_says_that_it_is_for_others() {
    let known = Asker { is_known: true, ..Asker::default() };
    let keeps = |line: &str| {
        keep(known, StatusCode::OK, &headers(&[("cache-control", line)]), &Rules::default(), times()).is_some()
    };
    assert!(!keeps("max-age=60"));
    assert!(keeps("public, max-age=60") && keeps("s-maxage=60") && keeps("max-age=60, must-revalidate"));
    assert!(!keeps("private, s-maxage=60"));
}

#[test]
fn section_4_1_what_depends_on_everything_or_on_too_much_is_not_kept() {
    let with = |vary: &str| kept(&[("cache-control", "max-age=60"), ("vary", vary)]).is_some();
    assert!(with("accept-encoding, X-A") && !with("*") && !with("accept, *"));
    assert!(!with("a, b, c, d, e, f, g, h, i"));
}

#[test]
fn section_4_2_1_what_is_said_for_shared_caches_comes_first_then_max_age_then_expires() {
    let expires = ("expires", IN_A_MINUTE);
    assert_eq!(lifetime(said("s-maxage=7, max-age=60")), Some(7));
    assert_eq!(lifetime(kept(&[DATE_NOW, ("cache-control", "max-age=30"), expires])), Some(30));
    assert_eq!(lifetime(kept(&[DATE_NOW, expires])), Some(60));
    assert_eq!(lifetime(kept(&[expires])), Some(60), "by our own clock, without a date");
    // What is no date is past, and worth nothing without a validator.
    for expires in ["0", "-1", "yesterday", HOUR_AGO] {
        assert_eq!(kept(&[DATE_NOW, ("expires", expires)]), None, "{expires}");
        assert_eq!(lifetime(kept(&[DATE_NOW, ("expires", expires), ("etag", "\"1\"")])), Some(0), "{expires}");
    }
    assert_eq!(lifetime(said("max-age=99999999999")), Some(30 * 24 * 3600), "a month at most");
}

#[test]
fn section_4_2_2_what_says_nothing_is_fresh_as_its_route_says_or_for_a_tenth_of_its_age() {
    let changed = ("last-modified", HOUR_AGO);
    assert_eq!(kept(&[]), None);
    assert_eq!(kept(&[("etag", "\"1\"")]), None);
    assert_eq!(lifetime(kept(&[DATE_NOW, changed])), Some(360));
    assert!(kept(&[DATE_NOW, changed]).unwrap().is_implicit);
    let long_ago = ("last-modified", "Tue, 06 Nov 1984 08:49:37 GMT");
    assert_eq!(lifetime(kept(&[DATE_NOW, long_ago])), Some(3600), "nobody said so");
    assert_eq!(kept(&[DATE_NOW, ("last-modified", IN_A_MINUTE)]), None);
    let rules = Rules { ttl: Some(Duration::from_secs(5)), ..Rules::default() };
    let by_route = |status, lines: &[(&'static str, &str)]| lifetime(kept_by(&rules, status, lines));
    assert_eq!(by_route(200, &[]), Some(5));
    assert_eq!(by_route(200, &[changed]), Some(5));
    assert_eq!(by_route(200, &[("cache-control", "max-age=9")]), Some(9), "what the answer says comes first");
    for status in [302, 404, 418, 500, 503] {
        assert_eq!(by_route(status, &[]), None, "{status}");
    }
    assert_eq!(by_route(200, &[("content-type", "text/event-stream")]), None);
}

#[test]
fn what_only_its_route_makes_last_is_not_kept_of_a_request_with_cookies() {
    let rules = Rules { ttl: Some(Duration::from_secs(5)), ..Rules::default() };
    let with = Asker { has_cookies: true, ..Asker::default() };
    let keeps = |lines| keep(with, StatusCode::OK, &headers(lines), &rules, times()).is_some();
    assert!(!keeps(&[]) && keeps(&[("cache-control", "max-age=60")]));
}

#[test]
fn a_route_may_cut_the_time_short() {
    let rules = Rules { max_ttl: Some(Duration::from_secs(5)), ..Rules::default() };
    assert_eq!(lifetime(kept_by(&rules, 200, &[("cache-control", "max-age=60")])), Some(5));
    assert_eq!(lifetime(kept_by(&rules, 200, &[("cache-control", "max-age=3")])), Some(3));
}

#[test]
fn section_4_2_3_its_age_is_what_it_says_or_what_its_date_says_whichever_is_more_and_the_time_it_took() {
    let at = |lines: &[(&'static str, &str)], asked| {
        let times = Times { asked: Timestamp(asked), came: Timestamp(5_000), wall: WALL };
        let lines = [lines, &[("cache-control", "max-age=99999")]].concat();
        let it = keep(Asker::default(), StatusCode::OK, &headers(&lines), &Rules::default(), times).unwrap();
        it.age(Timestamp(7_000)).as_secs()
    };
    assert_eq!(at(&[], 5_000), 2);
    assert_eq!(at(&[("age", "10")], 5_000), 12);
    assert_eq!(at(&[("age", "10")], 2_000), 15, "it took three seconds");
    assert_eq!(at(&[("date", HOUR_AGO), ("age", "10")], 5_000), 3_602);
    for wrong in ["x", "-5", "", "1.5"] {
        assert_eq!(at(&[("age", wrong)], 5_000), 2, "{wrong}");
    }
    assert_eq!(at(&[("date", IN_A_MINUTE)], 5_000), 2, "a clock that runs ahead makes nothing younger");
}

#[test]
fn section_4_2_it_is_given_while_it_is_fresh() {
    let it = said("max-age=60").unwrap();
    let plain = Asked::default();
    assert_eq!((it.usable(&plain, seconds(59)), it.usable(&plain, seconds(60))), (Use::Fresh, Use::Validate));
    assert_eq!((it.left_s(seconds(10)), it.left_s(seconds(75))), (50, -15));
    let it = said("no-cache, max-age=60, stale-while-revalidate=60");
    assert_eq!(it, None, "without a validator it spares nobody anything");
    let it = kept(&[("cache-control", "no-cache, max-age=60, stale-if-error=60"), ("etag", "\"1\"")]).unwrap();
    assert_eq!(
        (it.usable(&plain, seconds(1)), it.is_never_fresh(), it.stands_in(seconds(1))),
        (Use::Validate, true, false)
    );
}

#[test]
fn section_5_2_1_a_client_says_what_it_takes() {
    let it = said("max-age=60").unwrap();
    let ask = |line: &str, at| it.usable(&Asked::of(&headers(&[("cache-control", line)])), seconds(at));
    assert_eq!(ask("no-cache", 1), Use::Validate);
    assert_eq!((ask("max-age=10", 10), ask("max-age=10", 11)), (Use::Fresh, Use::Validate));
    assert_eq!((ask("min-fresh=20", 40), ask("min-fresh=20", 41)), (Use::Fresh, Use::Validate));
    assert_eq!(
        (ask("max-stale", 9_999), ask("max-stale=5", 65), ask("max-stale=5", 66)),
        (Use::Old, Use::Old, Use::Validate)
    );
    let both = "min-fresh=20, max-stale=5";
    assert_eq!((ask(both, 40), ask(both, 41), ask(both, 61)), (Use::Fresh, Use::Validate, Use::Validate));
    for strict in ["max-age=60, must-revalidate", "max-age=60, proxy-revalidate", "s-maxage=60"] {
        let it = said(strict).unwrap();
        let asked = Asked { max_stale: Some(100), ..Asked::default() };
        assert_eq!(it.usable(&asked, seconds(61)), Use::Validate, "{strict}");
    }
}

#[test]
fn rfc_5861_one_that_is_stale_is_given_for_a_while_as_it_says_or_as_its_route_says() {
    let plain = Asked::default();
    let rules = Rules { stale: Duration::from_secs(5), stale_if_error: Duration::from_secs(9), ..Rules::default() };
    let by = |line: &str| kept_by(&rules, 200, &[("cache-control", line)]).unwrap();
    let it = by("max-age=60, stale-while-revalidate=30, stale-if-error=40");
    assert_eq!((it.usable(&plain, seconds(90)), it.usable(&plain, seconds(91))), (Use::Stale, Use::Validate));
    assert!(it.stands_in(seconds(100)) && !it.stands_in(seconds(101)));
    let it = by("max-age=60");
    assert_eq!((it.usable(&plain, seconds(65)), it.usable(&plain, seconds(66))), (Use::Stale, Use::Validate));
    assert!(it.stands_in(seconds(69)) && !it.stands_in(seconds(70)));
    for strict in ["max-age=60, must-revalidate, stale-while-revalidate=30, stale-if-error=30", "s-maxage=60"] {
        let it = by(strict);
        assert_eq!((it.usable(&plain, seconds(61)), it.stands_in(seconds(61))), (Use::Validate, false), "{strict}");
    }
    let it = by("s-maxage=60, stale-while-revalidate=30");
    assert_eq!(it.usable(&plain, seconds(61)), Use::Stale, "it says so itself");
    let asked = Asked { max_age: Some(1_000), ..Asked::default() };
    assert_eq!(by("max-age=60").usable(&asked, seconds(61)), Use::Validate, "its client wants it fresh");
}

#[test]
fn must_understand_is_for_statuses_that_are_understood() {
    let of = |status| kept_by(&Rules::default(), status, &[("cache-control", "max-age=60, no-store, must-understand")]);
    assert!(of(200).is_some() && of(418).is_none());
    assert_eq!(kept_by(&Rules::default(), 418, &[("cache-control", "max-age=60, must-understand")]), None);
}

proptest! {
    /// Time makes nothing better: what has to be validated now has to be later, unless somebody does it.
    #[test]
    fn an_answer_only_gets_older(
        max_age in 0..100u64, swr in 0..100u64, sie in 0..100u64, age in 0..50u64, one in 0..400u64, more in 0..400u64,
        stale in prop::option::of(0..100u64), fresh in prop::option::of(0..50u64),
    ) {
        let line = format!("max-age={max_age}, stale-while-revalidate={swr}, stale-if-error={sie}");
        let age = age.to_string();
        let Some(it) = kept(&[("cache-control", &line), ("age", &age), ("etag", "\"1\"")]) else { return Ok(()) };
        let asked = Asked { max_stale: stale, min_fresh: fresh, ..Asked::default() };
        let rank = |at| match it.usable(&asked, seconds(at)) { Use::Fresh => 0, Use::Stale | Use::Old => 1, Use::Validate => 2 };
        prop_assert!(rank(one) <= rank(one + more));
        prop_assert!(it.stands_in(seconds(one)) || !it.stands_in(seconds(one + more)));
        prop_assert!(it.left_s(seconds(one)) >= it.left_s(seconds(one + more)));
        prop_assert_eq!(it.is_fresh(seconds(one)), it.usable(&Asked::default(), seconds(one)) == Use::Fresh);
    }
}
