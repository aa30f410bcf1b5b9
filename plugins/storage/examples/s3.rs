//! S3 of one process, for suites and clients that want a server and nothing else: three nodes, their disks in folders, no cluster around
//! them. `cargo run -p hirsel-storage --example s3 -- FOLDER ADDRESS:PORT ID:SECRET:OWNER…`; it ends when its input does.

use std::io::Read;
use std::path::Path;

use hirsel_storage::rules::date::Day;

// Tests copy buckets to each other.
#[allow(dead_code)]
#[path = "../tests/s3/town.rs"]
mod town;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(addr)) = (args.next(), args.next()) else {
        eprintln!("usage: s3 FOLDER ADDRESS:PORT ID:SECRET:OWNER…");
        std::process::exit(2);
    };
    let addr = addr.parse().expect("an address and a port");
    let keys = args.map(|key| {
        let mut parts = key.splitn(3, ':').map(str::to_owned);
        let mut part = || parts.next().expect("an access key is ID:SECRET:OWNER");
        (part(), part(), part())
    });
    let keys = keys.collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let town = runtime.block_on(town::start(Path::new(&folder), addr, keys, Day::REAL));
    eprintln!("S3 is at http://{}", town.addr);
    // Whoever started it holds the other end, and lets go when done.
    let mut rest = Vec::new();
    let _ended = std::io::stdin().read_to_end(&mut rest);
}
