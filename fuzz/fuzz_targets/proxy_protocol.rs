#![no_main]
//! What comes before everything else on a connection of a proxy: the first byte chooses how it begins.
use hirsel_lb::proxy_protocol::{HEADER_BYTES_MAX, Header, Wrong, read, write};
use hirsel_model::spec::ProxyVersion;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [begin, rest @ ..] = bytes else { return };
    let begin: &[u8] = [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n\x21"][usize::from(*begin) % 3];
    let bytes = [begin, rest].concat();
    match read(&bytes) {
        Ok(Some((header, length))) => {
            assert!(length <= bytes.len() && length <= HEADER_BYTES_MAX);
            // Nothing that came before was enough, and nothing that comes behind changes it.
            assert!(!matches!(read(&bytes[..length - 1]), Ok(Some(_))));
            assert_eq!(read(&bytes[..length]), Ok(Some((header, length))));
            if let Header::For { client, to } = header {
                for version in [ProxyVersion::V1, ProxyVersion::V2] {
                    let written = write(version, client, to);
                    assert!(matches!(read(&written), Ok(Some((_, length))) if length == written.len()));
                }
            }
        }
        Ok(None) => assert!(bytes.len() < HEADER_BYTES_MAX),
        Err(Wrong(why)) => assert!(!why.is_empty()),
    }
});
