//! Which bucket a host name means (virtual-host style): `bucket.s3.example.com` where `s3.example.com` is one of ours; every other host is
//! none, and the bucket is in the path.
//!
//! And which bucket it means as a web site: `bucket.web.example.com` where `web.example.com` is a name for sites, and `web.example.com`
//! itself is the site of the bucket that is called so. Where both fit the longer name counts.

use hirsel_role::WEB_NAME;
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
        let host = name_of(host);
        let bucket = self.0.iter().filter_map(|ours| host.strip_suffix(ours.as_str())?.strip_suffix('.'));
        bucket.filter(|bucket| !bucket.is_empty()).min_by_key(|bucket| bucket.len()).map(str::to_owned)
    }
}

/// Names below which buckets are web sites.
#[derive(Clone)]
pub struct Sites {
    names: Hosts,
    hosts: Hosts,
}

impl Sites {
    /// These names, in any case, where S3 is spoken at `hosts`.
    pub fn new(names: impl IntoIterator<Item = String>, hosts: Hosts) -> Self {
        Self { names: Hosts::new(names), hosts }
    }

    /// The bucket of which a host is the web site; none if it is no site.
    pub fn bucket(&self, host: &str) -> Option<String> {
        let host = name_of(host);
        let longest = |names: &Hosts| names.0.iter().filter(|ours| covers(ours, &host)).map(String::len).max();
        let site = longest(&self.names)?;
        if longest(&self.hosts).is_some_and(|other| other >= site) {
            return None;
        }
        match host.len().checked_sub(site + 1) {
            Some(bucket) => host.get(..bucket).filter(|bucket| !bucket.is_empty()).map(str::to_owned),
            // The cluster's own name is no bucket's: there it would be one that S3 is asked for.
            None => (host != WEB_NAME).then_some(host),
        }
    }
}

/// The name in what a client calls its host, which may have a port.
fn name_of(host: &str) -> String {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether a host is this name, or below it.
fn covers(name: &str, host: &str) -> bool {
    host.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
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

    #[test]
    fn a_site_is_below_a_name_for_sites_or_that_name_itself() {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let hosts = Hosts::new(own(&["s3.hirsel", "example.com", "s3.web.example.com"]));
        let sites = Sites::new(own(&[WEB_NAME, "Web.example.com", "www.other.com"]), hosts);
        for (host, bucket) in [
            ("pics.web.s3.hirsel:7480", Some("pics")),
            ("web.s3.hirsel", None),
            ("pics.s3.hirsel", None),
            ("my.pics.WEB.example.com.", Some("my.pics")),
            ("web.example.com", Some("web.example.com")),
            ("pics.example.com", None),
            ("s3.web.example.com", None),
            ("pics.s3.web.example.com", None),
            ("www.other.com:80", Some("www.other.com")),
            ("xwww.other.com", None),
            (".web.example.com", None),
            ("10.0.0.1:7480", None),
            ("", None),
        ] {
            assert_eq!(sites.bucket(host).as_deref(), bucket, "{host}");
        }
    }
}
