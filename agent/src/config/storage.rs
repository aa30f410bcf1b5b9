//! What the agent's configuration says of the object store: where it is served, what it is called, and where data is kept.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use hirsel_model::check_dotted;
use hirsel_model::manifest::size;
use hirsel_role::{REPAIR_RATE, S3_NAME, S3_REGION, WEB_NAME};
use serde::Deserialize;

/// Where clients of S3 ask when nobody says otherwise.
const PORT: u16 = 7480;
/// The host of each request is compared with all domains; who has more has a proxy before it.
const DOMAINS_MAX: usize = 32;
/// A bucket is a label of 63 bytes in front of its domain, and a name has at most 253.
const DOMAIN_BYTES_MAX: usize = 253 - 63 - 1;
/// Longest name of a region. It is part of what each request is signed with.
const REGION_BYTES_MAX: usize = 63;

/// Least that objects may take of a disk: a segment.
const CAPACITY_BYTES_MIN: u64 = 64 << 20;
/// Least that is repaired in a second: below it a lost disk takes months.
const REPAIR_RATE_MIN: u64 = 1 << 20;

/// Its part of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StorageFile {
    pub(super) s3: Option<Where>,
    pub(super) region: Option<String>,
    pub(super) domains: Vec<String>,
    pub(super) web_domains: Vec<String>,
    pub(super) disk: Option<PathBuf>,
    pub(super) capacity: Option<String>,
    pub(super) repair_rate: Option<String>,
}

/// `false`, or an address.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Where {
    Served(bool),
    At(String),
}

/// Where objects are served: what the flag says, else the file, else at the usual port.
pub(super) fn listen(flag: Option<&str>, file: Option<&Where>, public: IpAddr) -> Result<Option<SocketAddr>> {
    let text = match (flag, file) {
        (Some(text), _) => text,
        (None, Some(Where::At(text))) => text,
        (None, Some(Where::Served(false))) => "off",
        (None, None | Some(Where::Served(true))) => return Ok(Some(SocketAddr::new(public, PORT))),
    };
    if text == "off" {
        return Ok(None);
    }
    if let Ok(addr) = text.parse() {
        return Ok(Some(addr));
    }
    let ip = text.trim_matches(['[', ']']).parse();
    let ip = ip.with_context(|| format!("{text:?} is no address for objects; expected IP, IP:PORT or off"))?;
    Ok(Some(SocketAddr::new(ip, PORT)))
}

/// What clients are told that the region is.
pub(super) fn region(named: Option<String>) -> Result<String> {
    let Some(region) = named else { return Ok(S3_REGION.into()) };
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if region.is_empty() || region.len() > REGION_BYTES_MAX || !region.bytes().all(good) {
        bail!("storage.region: {region:?} is no region; use at most {REGION_BYTES_MAX} of a-z, 0-9 and '-'");
    }
    Ok(region)
}

/// Domains below which buckets are hosts, and such below which they are web sites, besides the cluster's own.
pub(super) fn domains(file: &StorageFile) -> Result<(Vec<String>, Vec<String>)> {
    let hosts = listed("domains", "hosts, like s3.example.com", &file.domains, S3_NAME)?;
    let sites = listed("web_domains", "web sites, like web.example.com", &file.web_domains, WEB_NAME)?;
    if let Some(both) = sites.iter().find(|site| hosts.contains(site) || site.as_str() == S3_NAME) {
        bail!("storage.web_domains: {both} is where S3 is spoken; name another domain for web sites");
    }
    Ok((hosts, sites))
}

/// Domains in lower case, without a final dot, besides the cluster's own.
fn listed(setting: &str, are: &str, written: &[String], own: &str) -> Result<Vec<String>> {
    let mut domains = BTreeSet::new();
    for word in written {
        let domain = word.trim_end_matches('.').to_ascii_lowercase();
        if domain.len() > DOMAIN_BYTES_MAX || check_dotted(&domain).is_err() {
            bail!("storage.{setting}: {word:?} is no domain; name one below which buckets are {are}");
        }
        if domain != own {
            domains.insert(domain);
        }
    }
    if domains.len() > DOMAINS_MAX {
        bail!("storage.{setting}: {} domains exceed {DOMAINS_MAX}", domains.len());
    }
    Ok(domains.into_iter().collect())
}

/// Where data is kept. Whether there is a disk is seen when it is opened, and said then.
pub(super) fn disk(path: PathBuf) -> Result<String> {
    if !path.is_absolute() {
        bail!("storage.disk = {path:?}: expected the absolute path of a folder, where a disk for data is mounted");
    }
    path.into_os_string().into_string().map_err(|path| anyhow!("storage.disk = {path:?} is no text"))
}

/// How much of the disk objects may take: what the flag says, else the file, else no less than there is.
pub(super) fn capacity(text: Option<&String>) -> Result<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    let bytes = size(text).map_err(|why| anyhow!("storage.capacity: {why}"))?;
    if bytes < CAPACITY_BYTES_MIN {
        bail!(
            "storage.capacity: {text:?} is less than 64MiB; a node that is to keep no objects is told so by its roles"
        );
    }
    Ok(Some(bytes))
}

/// How fast pieces are made anew, in bytes per second; no limit where that is off.
pub(super) fn repair_rate(text: Option<&String>) -> Result<Option<u64>> {
    let text = match text.map(String::as_str) {
        None => return Ok(Some(REPAIR_RATE)),
        Some("off" | "0") => return Ok(None),
        Some(text) => text,
    };
    let rate = size(text).map_err(|why| anyhow!("storage.repair_rate: {why}"))?;
    if rate < REPAIR_RATE_MIN {
        bail!("storage.repair_rate: {text:?} per second is less than 1MiB; without a limit it is \"off\"");
    }
    Ok(Some(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_served_where_it_is_said_or_not_at_all() {
        let public: IpAddr = "10.0.0.1".parse().unwrap();
        let at = |flag, file: Option<&str>| {
            let file: StorageFile = toml::from_str(file.unwrap_or_default()).unwrap();
            listen(flag, file.s3.as_ref(), public).unwrap().map(|addr| addr.to_string())
        };
        assert_eq!(at(None, None).as_deref(), Some("10.0.0.1:7480"));
        assert_eq!(at(None, Some("s3 = true")).as_deref(), Some("10.0.0.1:7480"));
        assert_eq!(at(None, Some("s3 = false")), None);
        assert_eq!(at(None, Some("s3 = \"127.0.0.1\"")).as_deref(), Some("127.0.0.1:7480"));
        assert_eq!(at(Some("[::1]:9000"), Some("s3 = false")).as_deref(), Some("[::1]:9000"));
        assert_eq!(at(Some("off"), Some("s3 = \"127.0.0.1\"")), None);
        assert!(listen(Some("9000"), None, public).unwrap_err().to_string().contains("IP:PORT"));
    }

    #[test]
    fn regions_domains_and_disks_are_what_they_should_be() {
        assert_eq!(region(None).unwrap(), "hirsel");
        assert_eq!(region(Some("eu-1".into())).unwrap(), "eu-1");
        assert!(region(Some("EU 1".into())).is_err() && region(Some(String::new())).is_err());
        let all = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let read = |hosts: &[&str], sites: &[&str]| {
            domains(&StorageFile { domains: all(hosts), web_domains: all(sites), ..StorageFile::default() })
        };
        let (hosts, sites) =
            read(&["S3.Example.com.", "s3.example.com", "s3.hirsel", "b"], &["WWW.b.", WEB_NAME]).unwrap();
        assert_eq!((hosts, sites), (all(&["b", "s3.example.com"]), all(&["www.b"])));
        for wrong in ["", "*.example.com", "a..b", &"a.".repeat(100)] {
            assert!(read(&[wrong], &[]).unwrap_err().to_string().contains("is no domain"), "{wrong}");
            assert!(read(&[], &[wrong]).unwrap_err().to_string().contains("is no domain"), "{wrong}");
        }
        for both in ["b", S3_NAME] {
            assert!(read(&["b"], &[both]).unwrap_err().to_string().contains("is where S3 is spoken"), "{both}");
        }
        assert_eq!(disk("/srv/objects".into()).unwrap(), "/srv/objects");
        assert!(disk("objects".into()).unwrap_err().to_string().contains("absolute path"));
        let capacity = |text: &str| super::capacity(Some(&text.to_string()));
        assert_eq!((super::capacity(None).unwrap(), capacity("1TiB").unwrap()), (None, Some(1 << 40)));
        assert!(capacity("63MiB").unwrap_err().to_string().contains("less than 64MiB"));
        assert!(capacity("10").unwrap_err().to_string().contains("no unit"));
        let rate = |text: &str| repair_rate(Some(&text.to_string()));
        assert_eq!((repair_rate(None).unwrap(), rate("1GiB").unwrap()), (Some(REPAIR_RATE), Some(1 << 30)));
        assert_eq!((rate("off").unwrap(), rate("0").unwrap()), (None, None));
        assert!(rate("1KiB").unwrap_err().to_string().contains("less than 1MiB"));
        assert!(rate("fast").is_err());
    }
}
