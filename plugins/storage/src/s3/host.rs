//! Which bucket a host name means (virtual-host style): `bucket.s3.example.com` where `s3.example.com` is one of ours; every other host is
//! none, and the bucket is in the path.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

/// Names under which buckets are hosts.
#[derive(Clone)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// These names, in any case.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.trim_matches('.').to_ascii_lowercase()).collect())
    }

    /// The bucket that a host is; none if it is no name of ours.
    pub fn bucket(&self, host: &str) -> Option<String> {
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
            _ => host,
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let bucket = self.0.iter().filter_map(|ours| host.strip_suffix(ours.as_str())?.strip_suffix('.'));
        bucket.filter(|bucket| !bucket.is_empty()).min_by_key(|bucket| bucket.len()).map(str::to_owned)
    }
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => parsed.with_bucket(bucket),
            None => parsed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_what_stands_before_a_name_of_ours() {
        let hosts = Hosts::new(["S3.example.com".to_owned(), "eu.s3.example.com".to_owned()]);
        for (host, bucket) in [
            ("s3.example.com", None),
            ("s3.example.com:9000", None),
            ("my.bucket.s3.example.com", Some("my.bucket")),
            ("B.S3.Example.com:80", Some("b")),
            ("b.eu.s3.example.com.", Some("b")),
            ("xs3.example.com", None),
            ("b.other.com", None),
            (".s3.example.com", None),
            ("[::1]:80", None),
        ] {
            assert_eq!(hosts.bucket(host).as_deref(), bucket, "{host}");
        }
    }
}
