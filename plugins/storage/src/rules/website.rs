//! Buckets as web sites (S3's website configuration): which object a path is, and where it is elsewhere.

/// Routing rules of a site (S3).
pub const RULES_MAX: usize = 50;

/// A site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Website {
    /// Everything is elsewhere.
    Elsewhere(Elsewhere),
    /// Objects of the bucket.
    Objects {
        /// What is added to a path that ends with a slash.
        index: String,
        /// The key of what is shown with an error.
        error: Option<String>,
        /// Looked at in order, the first that fits counts.
        rules: Vec<Rule>,
    },
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The host.
    pub host: String,
    /// `http` or `https`, if not as the client came.
    pub protocol: Option<String>,
}

/// A routing rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Keys that begin with this.
    pub prefix: Option<String>,
    /// Answers with this status.
    pub status: Option<u16>,
    /// Where to.
    pub to: Redirect,
}

/// Where a rule sends clients; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// The host.
    pub host: Option<String>,
    /// `http` or `https`.
    pub protocol: Option<String>,
    /// With which status; 301 if none is said.
    pub status: Option<u16>,
    /// In place of the prefix of the rule.
    pub prefix: Option<String>,
    /// In place of the whole key.
    pub key: Option<String>,
}

/// Why a site is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WebsiteError(pub String);

/// Where a client is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// 301 and the like.
    pub status: u16,
    /// `Location`.
    pub location: String,
}

/// How the client came.
#[derive(Clone, Copy, Debug)]
pub struct Came<'a> {
    /// `http` or `https`.
    pub protocol: &'a str,
    /// The host it named.
    pub host: &'a str,
    /// The path without its first slash.
    pub key: &'a str,
}

impl Website {
    /// Checks a site when it is put.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), WebsiteError> {
        let wrong = |words: String| Err(WebsiteError(words));
        let protocol = |protocol: &Option<String>| match protocol.as_deref() {
            None | Some("http" | "https") => Ok(()),
            Some(other) => Err(WebsiteError(format!("protocol {other:.20?}: http or https"))),
        };
        let host = |host: &str| match host.is_empty() || !host.bytes().all(|c| c.is_ascii_graphic() && c != b'/') {
            true => Err(WebsiteError(format!("{host:.80?} is no host"))),
            false => Ok(()),
        };
        let (index, rules) = match self {
            Website::Elsewhere(all) => {
                host(&all.host)?;
                return protocol(&all.protocol);
            }
            Website::Objects { index, rules, .. } => (index, rules),
        };
        if index.is_empty() || index.contains('/') {
            return wrong("the IndexDocument Suffix is not well formed".into());
        }
        if rules.len() > RULES_MAX {
            return wrong(format!("{} routing rules exceed {RULES_MAX}", rules.len()));
        }
        for Rule { status, to, .. } in rules {
            protocol(&to.protocol)?;
            to.host.as_deref().map_or(Ok(()), host)?;
            if status.is_some_and(|status| !(400..600).contains(&status)) {
                return wrong("a condition has the status of an error: 400 to 599".into());
            }
            if to.status.is_some_and(|status| !(300..400).contains(&status) || status == 304) {
                return wrong("clients are sent elsewhere with 301, 302, 303, 307 or 308".into());
            }
            if to.prefix.is_some() && to.key.is_some() {
                return wrong("either the key or its prefix is replaced".into());
            }
            let Redirect { host, protocol, status, prefix, key } = to;
            if host.is_none() && protocol.is_none() && status.is_none() && prefix.is_none() && key.is_none() {
                return wrong("a redirect says where to".into());
            }
        }
        Ok(())
    }

    /// Where a client is sent before anything is looked up.
    pub fn before(&self, came: Came<'_>) -> Option<Sent> {
        match self {
            Website::Elsewhere(all) => {
                let protocol = all.protocol.as_deref().unwrap_or(came.protocol);
                Some(Sent { status: 301, location: format!("{protocol}://{}/{}", all.host, escaped(came.key)) })
            }
            Website::Objects { .. } => self.routed(came, None),
        }
    }

    /// Where a client is sent who would be answered with this status.
    pub fn after(&self, came: Came<'_>, status: u16) -> Option<Sent> {
        self.routed(came, Some(status))
    }

    fn routed(&self, came: Came<'_>, status: Option<u16>) -> Option<Sent> {
        let Website::Objects { rules, .. } = self else { return None };
        let fits = |rule: &&Rule| {
            rule.status == status && rule.prefix.as_deref().is_none_or(|prefix| came.key.starts_with(prefix))
        };
        let rule = rules.iter().find(fits)?;
        let key = match (&rule.to.key, &rule.to.prefix) {
            (Some(key), _) => key.clone(),
            (None, Some(new)) => {
                let old = rule.prefix.as_deref().unwrap_or_default();
                format!("{new}{}", came.key.strip_prefix(old).unwrap_or(came.key))
            }
            (None, None) => came.key.to_owned(),
        };
        let protocol = rule.to.protocol.as_deref().unwrap_or(came.protocol);
        let host = rule.to.host.as_deref().unwrap_or(came.host);
        Some(Sent { status: rule.to.status.unwrap_or(301), location: format!("{protocol}://{host}/{}", escaped(&key)) })
    }

    /// The key of the object that a path is.
    pub fn key(&self, path: &str) -> Option<String> {
        let Website::Objects { index, .. } = self else { return None };
        let folder = path.is_empty() || path.ends_with('/');
        Some(if folder { format!("{path}{index}") } else { path.to_owned() })
    }

    /// The key that may be there where `path` is not: then the client is sent to the path with a slash.
    pub fn folder(&self, path: &str) -> Option<String> {
        let Website::Objects { index, .. } = self else { return None };
        (!path.is_empty() && !path.ends_with('/')).then(|| format!("{path}/{index}"))
    }
}

/// A key as it is written in a `Location`: what could end a header, or means something else there, is escaped.
fn escaped(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte);
    key.bytes().fold(String::with_capacity(key.len()), |mut out, byte| {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(rules: Vec<Rule>) -> Website {
        Website::Objects { index: "index.html".into(), error: Some("error.html".into()), rules }
    }

    fn came(key: &str) -> Came<'_> {
        Came { protocol: "http", host: "pics.example", key }
    }

    #[test]
    fn a_path_that_ends_with_a_slash_is_the_index_there() {
        let site = site(Vec::new());
        assert_eq!(site.key("").as_deref(), Some("index.html"));
        assert_eq!(site.key("a/").as_deref(), Some("a/index.html"));
        assert_eq!(site.key("a").as_deref(), Some("a"));
        assert_eq!(site.folder("a").as_deref(), Some("a/index.html"));
        assert_eq!((site.folder("a/"), site.folder("")), (None, None));
    }

    #[test]
    fn clients_are_sent_elsewhere_by_the_first_rule_that_fits() {
        let to = |prefix: &str| Redirect { prefix: Some(prefix.into()), ..Redirect::default() };
        let gone = Redirect {
            host: Some("other".into()),
            key: Some("gone.html".into()),
            status: Some(302),
            ..Redirect::default()
        };
        let rules = vec![
            Rule { prefix: Some("docs/".into()), to: to("documents/"), ..Rule::default() },
            Rule { prefix: Some("x/".into()), status: Some(404), to: gone },
        ];
        let site = site(rules);
        site.check().expect("it is good");
        let sent = |status, location: &str| Some(Sent { status, location: location.into() });
        assert_eq!(site.before(came("docs/a b")), sent(301, "http://pics.example/documents/a%20b"));
        assert_eq!(site.before(came("x/a")), None, "only where it is missing");
        assert_eq!(site.after(came("x/a"), 404), sent(302, "http://other/gone.html"));
        assert_eq!(site.after(came("x/a"), 403), None);
        assert_eq!(site.after(came("docs/a"), 404), None);
        let all = Website::Elsewhere(Elsewhere { host: "other".into(), protocol: Some("https".into()) });
        assert_eq!(all.before(came("a\r\nb")), sent(301, "https://other/a%0D%0Ab"), "nothing ends the header");
        assert_eq!(all.key("a"), None);
    }

    #[test]
    fn sites_that_make_no_sense_are_refused() {
        let with = |to: Redirect, status| site(vec![Rule { prefix: None, status, to }]);
        let key = Redirect { key: Some("a".into()), ..Redirect::default() };
        assert!(with(key.clone(), Some(404)).check().is_ok());
        for bad in [
            Website::Elsewhere(Elsewhere { host: "a/b".into(), protocol: None }),
            Website::Elsewhere(Elsewhere { host: "a".into(), protocol: Some("ftp".into()) }),
            Website::Objects { index: "a/b".into(), error: None, rules: Vec::new() },
            Website::Objects { index: String::new(), error: None, rules: Vec::new() },
            with(Redirect::default(), None),
            with(Redirect { prefix: Some("b".into()), ..key.clone() }, None),
            with(Redirect { status: Some(200), ..key.clone() }, None),
            with(key.clone(), Some(200)),
            with(Redirect { host: Some("a\nb".into()), ..key.clone() }, None),
            site(vec![Rule { to: key, ..Rule::default() }; RULES_MAX + 1]),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
