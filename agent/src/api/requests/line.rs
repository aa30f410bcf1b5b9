//! One line of the log of requests, read again: enough of it to put the lines of several nodes in order, and to tell whose they are.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RequestLine;
use crate::api::error::ApiError;
use crate::api::sight::Sight;

/// Whose requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Which {
    /// Of this application; of all when none is given.
    app: Option<String>,
    /// Of this service of it.
    service: Option<String>,
}

/// What `APP`, `APP/SERVICE` or nothing asks for.
pub(super) fn understand(sight: &Sight, what: Option<&str>) -> Result<Which, ApiError> {
    let Some(what) = what else { return Ok(Which::default()) };
    let (app, service) = what.split_once('/').map_or((what, None), |(app, service)| (app, Some(service)));
    let apps = &sight.state.spec.apps;
    let Some((_, spec)) = apps.iter().find(|(name, _)| name.as_str() == app) else {
        return Err(ApiError::not_found("app", app, apps.keys().map(|name| name.as_str())));
    };
    let services = || spec.services.keys().map(|name| name.as_str());
    match service.filter(|service| !service.is_empty()) {
        Some(service) if !services().any(|name| name == service) => {
            Err(ApiError::not_found("service", service, services()))
        }
        service => Ok(Which { app: Some(app.into()), service: service.map(str::to_owned) }),
    }
}

impl Which {
    /// Those of `lines` that are asked for.
    pub(super) fn of(&self, lines: &[u8]) -> Vec<u8> {
        if self.app.is_none() {
            return lines.to_vec();
        }
        let mine = lines.split_inclusive(|byte| *byte == b'\n').filter(|line| {
            let line = read("", &String::from_utf8_lossy(line));
            line.app == self.app && (self.service.is_none() || line.service == self.service)
        });
        mine.flatten().copied().collect()
    }
}

/// The lines of the log of `node`.
pub(super) fn parse(node: &str, lines: &[u8]) -> Vec<RequestLine> {
    String::from_utf8_lossy(lines).lines().map(|line| read(node, line)).collect()
}

/// One line. One that is neither of the formats is shown as it is.
fn read(node: &str, text: &str) -> RequestLine {
    let text = text.trim_end_matches('\n');
    let object = serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    let (at, app, service) = match &object {
        Some(object) => {
            let field = |name: &str| object[name].as_str().map(str::to_owned);
            (field("at"), field("app"), field("service"))
        }
        None => combined(text).unwrap_or_default(),
    };
    let at = at.unwrap_or_default();
    RequestLine { at, node: node.into(), app, service, text: text.into(), request: object }
}

/// Time, application and service of a line of the combined format, which ends with
/// `ID APP/SERVICE INSTANCE NODE TRIES FIRST_BYTE_MS TOOK_MS FAILED`.
fn combined(text: &str) -> Option<(Option<String>, Option<String>, Option<String>)> {
    let at = date(text.split_once(" - - [")?.1.split_once(']')?.0);
    let (app, service) = text.rsplit(' ').nth(6)?.split_once('/')?;
    let known = |word: &str| (word != "-").then(|| word.to_owned());
    Some((at, known(app), known(service)))
}

/// `26/Nov/2026:14:05:09 +0000` as RFC 3339.
fn date(text: &str) -> Option<String> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (day, month, year, time) = (text.get(..2)?, text.get(3..6)?, text.get(7..11)?, text.get(12..20)?);
    let month = MONTHS.find(month)? / 3 + 1;
    Some(format!("{year}-{month:02}-{day}T{time}.000Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"at":"2026-11-26T14:05:09.042Z","id":"3f2a9c1e","app":"shop","service":"web","status":200}"#;
    const COMBINED: &str = "10.0.0.9 - - [26/Nov/2026:14:05:09 +0000] \"GET /a b/c HTTP/1.1\" 200 5 \"-\" \"x - - [y]\" \"h\" 3f2a9c1e \
                            shop/api shop/api/3 n2 1 9 12 -";
    const NOWHERE: &str = "10.0.0.9 - - [26/Nov/2026:14:05:10 +0000] \"GET / HTTP/1.1\" 404 5 \"-\" \"-\" \"h\" 3f2a9c1e -/- - - 0 - 0 no_route";

    #[test]
    fn both_formats_are_read_and_what_is_neither_is_kept() {
        let lines = parse("n1", format!("{JSON}\n{COMBINED}\n{NOWHERE}\nodd\n").as_bytes());
        let of = |line: &RequestLine| (line.at.clone(), line.app.clone(), line.service.clone());
        let some = |word: &str| Some(word.to_owned());
        assert_eq!(of(&lines[0]), ("2026-11-26T14:05:09.042Z".into(), some("shop"), some("web")));
        assert_eq!(lines[0].request.as_ref().map(|it| it["status"].clone()), Some(200.into()));
        assert_eq!(of(&lines[1]), ("2026-11-26T14:05:09.000Z".into(), some("shop"), some("api")));
        assert_eq!(of(&lines[2]), ("2026-11-26T14:05:10.000Z".into(), None, None));
        assert_eq!((of(&lines[3]), lines[3].text.as_str()), ((String::new(), None, None), "odd"));
    }

    #[test]
    fn whoever_asks_for_an_application_sees_its_lines_alone() {
        let all = format!("{JSON}\n{COMBINED}\n{NOWHERE}\n");
        let which = |app: Option<&str>, service: Option<&str>| Which {
            app: app.map(str::to_owned),
            service: service.map(str::to_owned),
        };
        let of = |which: Which| String::from_utf8(which.of(all.as_bytes())).unwrap();
        assert_eq!(of(which(None, None)), all);
        assert_eq!(of(which(Some("shop"), None)), format!("{JSON}\n{COMBINED}\n"));
        assert_eq!(of(which(Some("shop"), Some("api"))), format!("{COMBINED}\n"));
        assert_eq!(of(which(Some("other"), None)), "");
    }
}
