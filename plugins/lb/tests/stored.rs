//! Answers that are kept on disk: what memory has no room for, given whole and in part, forgotten with everything else; and a disk that is
//! full, loses files, or gives back what nobody wrote.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::backend::{Backend, Deed};
use common::scratch::FakeScratch;
use common::wire::{Answer, Message};
use common::{Bed, FakeHost, ME, free_addr, until, within};
use hirsel_model::purge::Purged;
use hirsel_role::RoleConfig;

const MIB: usize = 1 << 20;
const KEPT: &str = "[route.h]\nto = \"web\"\ncache = true\n";

/// A body of so many bytes that differs in every place, and by what it is asked for.
fn body(path: &str, bytes: usize) -> Vec<u8> {
    let seed = path.bytes().fold(7u32, |all, byte| all.wrapping_mul(31).wrapping_add(byte.into()));
    (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

/// How long what is asked for is: `/3000/x` is 3,000 bytes.
fn length(path: &str) -> usize {
    path.split('/').nth(1).unwrap().parse().unwrap()
}

/// A load balancer with 1 MiB of memory and a disk of so many bytes, and an instance. `/N/…` is N bytes, `/N/chunked` of unknown length.
async fn serving(disk_bytes: usize) -> (Bed, Backend, FakeScratch) {
    let backend = Backend::new(|asked: &Message, _| {
        let path = asked.path();
        let body = body(path, length(path));
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nETag: \"1\"\r\n";
        let mut said = head.as_bytes().to_vec();
        if path.ends_with("chunked") {
            said.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(100_000) {
                said.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                said.extend(piece);
                said.extend(b"\r\n");
            }
            said.extend(b"0\r\n\r\n");
        } else {
            said.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            said.extend(body);
        }
        Deed::Say(said)
    })
    .await;
    let scratch = FakeScratch::default();
    // Left by a life before.
    scratch.files.lock().unwrap().insert(3, Arc::default());
    let host = Arc::new(FakeHost { scratch: Some(scratch.clone()), ..FakeHost::default() });
    let config = RoleConfig { cache_bytes: MIB as u64, cache_disk_bytes: disk_bytes as u64, ..RoleConfig::default() };
    let mut bed = Bed::on(host, free_addr().await, free_addr().await, config);
    bed.routes(KEPT);
    bed.place(1, ME, backend.addr.port());
    bed.converge().await;
    until(|| scratch.count() == 0).await;
    (bed, backend, scratch)
}

async fn get(bed: &Bed, path: &str, lines: &str) -> Answer {
    within(bed.ask(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n"))).await
}

/// Asks for it, and looks whether it came whole; and whether it was kept.
async fn hits(bed: &Bed, path: &str) -> bool {
    let answer = get(bed, path, "").await;
    assert_eq!(answer.status(), 200, "{path}");
    assert!(answer.body == body(path, length(path)), "{path}: {} bytes of another body", answer.body.len());
    answer.header("cache-status").unwrap().starts_with("hirsel; hit")
}

fn on_disk(bed: &Bed) -> u64 {
    bed.counted("hirsel_lb_cache_disk_answers")
}

#[tokio::test]
async fn what_memory_has_no_room_for_is_given_from_disk_whole_and_in_part() {
    let (bed, backend, scratch) = serving(100 * MIB).await;
    for (number, path) in ["/5000000/a", "/3000001/chunked"].into_iter().enumerate() {
        assert!(!hits(&bed, path).await);
        until(|| on_disk(&bed) == number as u64 + 1).await;
        assert!(hits(&bed, path).await && hits(&bed, path).await, "{path}");
        let whole = body(path, length(path));
        for (range, part) in [
            ("0-9", 0..10),
            ("65530-65545", 65_530..65_546),
            ("131072-131072", 131_072..131_073),
            ("2999990-", 2_999_990..length(path)),
        ] {
            let answer = get(&bed, path, &format!("Range: bytes={range}\r\n")).await;
            assert_eq!(answer.status(), 206, "{path} {range}");
            assert!(answer.body == whole[part], "{path} {range}: {} bytes", answer.body.len());
        }
        assert_eq!(get(&bed, path, "If-None-Match: \"1\"\r\n").await.status(), 304);
        assert_eq!(get(&bed, path, "Range: bytes=9000000-\r\n").await.status(), 416);
        assert_eq!(backend.count(), number + 1, "{path}");
    }
    assert_eq!(scratch.bytes(), 8_000_001);
    assert!(bed.counted("hirsel_lb_cache_disk_bytes") >= 8_000_001);
}

#[tokio::test]
async fn many_who_want_one_large_thing_cost_one_request_and_read_it_while_it_comes() {
    let (bed, backend, _scratch) = serving(100 * MIB).await;
    let path = "/9000000/many";
    let all = futures::future::join_all((0..20).map(|_| get(&bed, path, ""))).await;
    assert!(all.iter().all(|answer| answer.body == body(path, 9_000_000)));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn what_makes_room_in_memory_goes_to_disk_and_rises_when_it_is_wanted_again() {
    let (mut bed, backend, scratch) = serving(100 * MIB).await;
    let others = (0..40).map(|number| format!("/50000/others/{number}"));
    let paths: Vec<String> = std::iter::once("/50000/first".to_owned()).chain(others).collect();
    for path in &paths {
        assert!(!hits(&bed, path).await);
        // As fast as the disk takes it.
        until(|| bed.counted("hirsel_lb_cache_bytes") <= 720 * 1024).await;
    }
    assert!(on_disk(&bed) > 15 && scratch.bytes() > 15 * 50_000, "{}", on_disk(&bed));
    let before = backend.count();
    for path in &paths {
        assert!(hits(&bed, path).await, "{path} is kept in memory or on disk");
    }
    assert_eq!((backend.count(), bed.counted("hirsel_lb_cache_evicted_total")), (before, 0));
    // With room in memory the first one rises when it is wanted again, and its file goes.
    bed.purge(Purged::Place { host: "h".into(), path: Some("/50000/others/*".into()) });
    bed.converge().await;
    until(|| scratch.count() == 1).await;
    assert!(hits(&bed, &paths[0]).await);
    until(|| scratch.count() == 0).await;
    assert!(hits(&bed, &paths[0]).await);
    assert_eq!((on_disk(&bed), bed.counted("hirsel_lb_cache_answers"), backend.count()), (0, 1, before));
}

#[tokio::test]
async fn a_purge_and_a_change_forget_what_is_on_disk_and_its_file_goes() {
    let (mut bed, backend, scratch) = serving(100 * MIB).await;
    for path in ["/2000000/a", "/2000000/b"] {
        hits(&bed, path).await;
    }
    until(|| on_disk(&bed) == 2).await;
    bed.purge(Purged::Place { host: "h".into(), path: Some("/2000000/a".into()) });
    bed.converge().await;
    until(|| scratch.count() == 1).await;
    assert!(!hits(&bed, "/2000000/a").await && hits(&bed, "/2000000/b").await);
    until(|| scratch.count() == 2).await;
    bed.ask("POST /2000000/b HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await;
    until(|| scratch.count() == 1).await;
    assert!(!hits(&bed, "/2000000/b").await);
    bed.purge(Purged::All);
    bed.converge().await;
    until(|| scratch.count() == 0).await;
    assert_eq!(backend.count(), 5);
}

#[tokio::test]
async fn the_disk_takes_so_many_bytes_and_no_more() {
    let (bed, _backend, scratch) = serving(20 * MIB).await;
    for number in 0..30 {
        hits(&bed, &format!("/2000000/{number}")).await;
        until(|| scratch.bytes() <= 20 * MIB).await;
    }
    until(|| (8..=10).contains(&on_disk(&bed))).await;
    assert!(bed.counted("hirsel_lb_cache_disk_evicted_total") >= 20);
    assert!(bed.counted("hirsel_lb_cache_disk_bytes") <= 20 * MIB as u64);
    assert!(!hits(&bed, "/3000000/more-than-an-eighth").await);
    assert!(!hits(&bed, "/3000000/more-than-an-eighth").await);
}

#[tokio::test]
async fn a_disk_that_is_full_costs_no_client_anything_and_is_counted() {
    let (bed, _backend, scratch) = serving(100 * MIB).await;
    scratch.is_full.store(true, Ordering::SeqCst);
    assert!(!hits(&bed, "/2000000/a").await && !hits(&bed, "/2000000/a").await);
    assert_eq!((bed.counted("hirsel_lb_cache_disk_refused_total"), on_disk(&bed)), (1, 0), "it is left in peace");
    scratch.is_full.store(false, Ordering::SeqCst);
    bed.clock.by(std::time::Duration::from_secs(60));
    // It fills up in the middle.
    scratch.is_broken.store(true, Ordering::SeqCst);
    for path in ["/2000000/b", "/2000000/chunked"] {
        assert!(!hits(&bed, path).await, "{path}");
        bed.clock.by(std::time::Duration::from_secs(60));
    }
    scratch.is_broken.store(false, Ordering::SeqCst);
    bed.clock.by(std::time::Duration::from_secs(60));
    until(|| scratch.count() == 0).await;
    hits(&bed, "/2000000/c").await;
    until(|| on_disk(&bed) == 1).await;
    assert!(hits(&bed, "/2000000/c").await);
}

#[tokio::test]
async fn a_file_that_is_gone_or_not_what_was_written_is_asked_for_anew() {
    let (bed, backend, scratch) = serving(100 * MIB).await;
    let path = "/2000000/a";
    for damage in ["gone", "other", "short"] {
        hits(&bed, path).await;
        until(|| on_disk(&bed) == 1).await;
        match damage {
            "gone" => scratch.files.lock().unwrap().clear(),
            "other" => scratch.rot(2_000_000),
            _ => scratch.files.lock().unwrap().values().for_each(|file| file.lock().unwrap().truncate(10)),
        }
        let before = backend.count();
        assert!(!hits(&bed, path).await, "{damage}");
        assert_eq!(backend.count(), before + 1, "{damage}");
        until(|| on_disk(&bed) == 1).await;
        assert!(hits(&bed, path).await, "{damage}");
    }
    // What is found out too late breaks off, and is not given twice.
    scratch.rot(1);
    let mut client = common::wire::Client::connect(bed.addr).await;
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
    assert!(client.try_answer().await.is_none(), "it is cut short");
    assert!(!hits(&bed, path).await);
    assert_eq!(bed.counted("hirsel_lb_cache_disk_damaged_total"), 4);
}
