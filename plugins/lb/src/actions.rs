//! What is done with the requests of a route besides being passed on: carried out as it was compiled, in the order of
//! [`hirsel_model::spec::Actions`].
//!
//! Compiled once for an order; a plain route has none, and its requests never come here. What this build cannot make out is not passed
//! over: the route answers 503, for it may have been meant to protect something.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hirsel_mesh::seam::Chance;
use hirsel_model::codec::encode;
use hirsel_model::spec::{
    Actions, Assets, Block, FIXED_HEADERS, HeaderChanges, Redirect, Respond, Rewrite, RouteSpec, Target,
};
use hirsel_model::{AppName, Timestamp};
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};

use crate::cache::Terms;
use crate::clients::{Demand, Proof, Unmet};
use crate::headers::ClientLines;
use crate::matching::Unusable;
use crate::meter::Meters;
use crate::pages;
use crate::sharing::Sharing;
use crate::stream::AnswerBody;

pub mod auth;
pub mod compress;
pub mod cors;
pub mod errors;
pub mod rate;
pub mod rewrite;

use auth::{Auth, Keeper};
use compress::Compression;
use cors::{Cors, Leave};
use errors::{By, ErrorPages};
use rate::among::Among;
use rate::{Clients, Limiter};
use rewrite::Rewriter;

/// The port that an address with `https` leaves out.
const HTTPS_PORT: u16 = 443;

/// Actions as they are carried out.
#[derive(Debug)]
pub struct Acts {
    deny: Vec<Block>,
    allow: Vec<Block>,
    rate: Option<Arc<Limiter>>,
    https: Option<StatusCode>,
    https_port: u16,
    /// What a client must have shown.
    pub demand: Option<Demand>,
    cors: Option<Cors>,
    /// Who may ask.
    pub auth: Option<Auth>,
    /// Largest body of a request.
    pub body_bytes_max: Option<u64>,
    /// Longest time until the answer begins.
    pub timeout: Option<Duration>,
    rewriter: Option<Rewriter>,
    request: Changes,
    /// Which answers are kept, if any are.
    pub kept: Option<Arc<Terms>>,
    /// Which instance takes them, where it is not the usual one.
    pub sharing: Option<Sharing>,
    error_pages: ErrorPages,
    response: Changes,
    /// Which answers are encoded.
    pub compression: Option<Compression>,
    own: Option<Own>,
    /// The objects that it leads to, if it does.
    pub assets: Option<Assets>,
}

/// An answer of our own.
#[derive(Debug)]
enum Own {
    Redirect(Redirect, StatusCode, Option<Rewriter>),
    Respond {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
    /// It cannot be made out what this route is for.
    Closed,
}

/// Changes of header fields.
#[derive(Debug, Default)]
struct Changes {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// What actions are compiled with.
#[derive(Debug)]
pub struct Tools {
    /// For passwords.
    pub keeper: Arc<Keeper>,
    /// For rates.
    pub clients: Arc<Clients>,
    /// For rates that hold for all load balancers together.
    pub among: Arc<Among>,
    /// Where TLS is spoken.
    pub https_port: u16,
    /// By chance: load balancers do not take their turns in step.
    pub seed: u64,
    /// For counts.
    pub meters: Arc<Meters>,
}

impl Tools {
    /// Ready to compile.
    pub fn new(chance: &dyn Chance, https_port: u16) -> Self {
        let mut secret = [0; 32];
        chance.fill(&mut secret);
        let seed = chance.number();
        let clients = Arc::new(Clients::new(seed));
        let keeper = Arc::new(Keeper::new(&secret, &clients));
        Self { keeper, clients, among: Arc::default(), https_port, seed, meters: Arc::default() }
    }

    /// By no chance.
    #[cfg(test)]
    pub fn fixed() -> Self {
        let clients = Arc::new(Clients::new(0));
        let keeper = Arc::new(Keeper::new(&[0; 32], &clients));
        Self { keeper, clients, among: Arc::default(), https_port: HTTPS_PORT, seed: 0, meters: Arc::default() }
    }
}

impl Acts {
    /// What `route` of `app` does; none for a plain one. `before` is what it did until now, of which the buckets of clients are kept.
    ///
    /// # Errors
    /// If this build cannot make it out.
    pub fn of(
        app: &AppName,
        route: &RouteSpec,
        tools: &Tools,
        before: Option<&Self>,
    ) -> Result<Option<Self>, Unusable> {
        let own = match &route.to {
            Target::Service(_) | Target::Shares(_) | Target::Outside(_) | Target::OutsideH2c(_) | Target::Bucket(_) => {
                None
            }
            Target::Redirect(redirect) => Some(Own::redirect(redirect)?),
            Target::Respond(respond) => Some(Own::respond(respond)?),
        };
        let assets = match &route.to {
            Target::Bucket(assets) => Some(assets.clone()),
            _ => None,
        };
        let actions = &*route.actions;
        if own.is_none() && assets.is_none() && *actions == Actions::default() {
            return Ok(None);
        }
        let kept = before.and_then(|before| before.rate.clone());
        let new = |limit| {
            let known_by = encode(&(app, &route.host, &route.path, &route.kind, &route.when, limit));
            Limiter::shared(limit, &known_by, &tools.clients, &tools.among)
        };
        let auth = actions.basic_auth.as_ref().map(|auth| Auth::of(app, auth, &tools.keeper)).transpose()?;
        Ok(Some(Self {
            deny: actions.deny.clone(),
            allow: actions.allow.clone(),
            rate: actions.rate_limit.as_ref().map(|limit| kept.unwrap_or_else(|| new(limit))),
            https: actions.https.map(redirection).transpose()?,
            https_port: tools.https_port,
            demand: Demand::of(actions)?,
            cors: actions.cors.as_ref().map(Cors::of).transpose()?,
            auth,
            body_bytes_max: actions.body_bytes_max,
            timeout: actions.timeout_ms.map(Duration::from_millis),
            rewriter: Rewriter::of(&actions.rewrite)?,
            request: Changes::of(&actions.request_headers)?,
            kept: Terms::of(app, route),
            sharing: Sharing::of(&actions.balance, tools.seed)?,
            error_pages: ErrorPages::of(&actions.error_pages)?,
            response: Changes::of(&actions.response_headers)?,
            compression: actions.compress.as_ref().map(Compression::of),
            own,
            assets,
        }))
    }

    /// Refuses everything.
    pub fn closed() -> Self {
        Self {
            deny: Vec::new(),
            allow: Vec::new(),
            rate: None,
            https: None,
            https_port: 0,
            demand: None,
            cors: None,
            auth: None,
            body_bytes_max: None,
            timeout: None,
            rewriter: None,
            request: Changes::default(),
            kept: None,
            sharing: None,
            error_pages: ErrorPages::default(),
            response: Changes::default(),
            compression: None,
            own: Some(Own::Closed),
            assets: None,
        }
    }

    /// Whether it refuses everything, because it could not be made out.
    pub fn is_closed(&self) -> bool {
        matches!(self.own, Some(Own::Closed))
    }

    /// The answer to a client that may not ask now or not in this way, or that only asks whether it may ask. `host` is the one that the
    /// request is for; the proof is what its connection was made for.
    pub fn refuse(
        &self,
        head: &Parts,
        host: &str,
        (lines, proof): (&ClientLines, Option<&Proof>),
        now: Timestamp,
    ) -> Option<Response<AnswerBody>> {
        let client = lines.ip;
        if !self.admits(client) {
            return Some(pages::forbidden("requests from this address are not taken here"));
        }
        if let Some(Err(wait)) = self.rate.as_ref().map(|rate| rate.take(client, now)) {
            return Some(pages::too_many(wait));
        }
        if let Some(status) = self.https
            && !lines.encrypted
        {
            let port = if self.https_port == HTTPS_PORT { String::new() } else { format!(":{}", self.https_port) };
            let https = Redirect {
                status: status.as_u16(),
                scheme: Some("https".into()),
                host: None,
                rewrite: Rewrite::default(),
            };
            return Some(led_to(status, rewrite::location(&https, None, &format!("{host}{port}"), &head.uri)));
        }
        match self.demand.map(|demand| demand.met(host, lines.encrypted, proof)) {
            Some(Err(Unmet::InClear)) => return Some(pages::no_certificate()),
            Some(Err(Unmet::Misdirected)) => return Some(pages::misdirected()),
            Some(Ok(())) | None => {}
        }
        self.cors.as_ref()?.preflight(head)
    }

    /// Whether clients from here are served.
    pub fn admits(&self, client: IpAddr) -> bool {
        let among = |blocks: &[Block]| blocks.iter().any(|block| block.holds(client));
        !among(&self.deny) && (self.allow.is_empty() || among(&self.allow))
    }

    /// The answer that needs no program, if there is one. `host` is the one that the request is for.
    pub fn own_answer(&self, host: &str, uri: &Uri) -> Option<Response<AnswerBody>> {
        Some(match self.own.as_ref()? {
            Own::Redirect(redirect, status, rewriter) => {
                led_to(*status, rewrite::location(redirect, rewriter.as_ref(), host, uri))
            }
            Own::Respond { status, headers, body } => {
                let mut answer = Response::new(AnswerBody::whole(body.clone()));
                *answer.status_mut() = *status;
                *answer.headers_mut() = headers.clone();
                answer
            }
            Own::Closed => pages::not_understood(),
        })
    }

    /// Changes the head of a request that is passed on: its path and its header fields. False if no request can have such a path.
    pub fn prepare(&self, head: &mut Parts) -> bool {
        if let Some(rewriter) = &self.rewriter {
            let Some(path) = rewriter.apply(&head.uri) else { return false };
            head.uri = Uri::from(path);
        }
        self.request.make(&mut head.headers);
        true
    }

    /// What pages of other origins are allowed to see of the answer to a request with these header fields.
    pub fn leave(&self, headers: &HeaderMap) -> Option<Leave> {
        self.cors.as_ref().map(|cors| cors.leave(headers))
    }

    /// An answer, or the page of the route that takes its place.
    pub fn dress(&self, answer: Response<AnswerBody>, by: By) -> Response<AnswerBody> {
        // What the route answers by itself is as it was meant.
        if self.own.is_some() && by == By::Program { answer } else { self.error_pages.dress(answer, by) }
    }

    /// Changes the header fields of an answer.
    pub fn finish(&self, headers: &mut HeaderMap, leave: Option<Leave>) {
        self.response.make(headers);
        if let (Some(cors), Some(leave)) = (&self.cors, leave) {
            cors.grant(leave, headers);
        }
    }
}

/// The answer that leads a client to `location`.
fn led_to(status: StatusCode, location: Option<HeaderValue>) -> Response<AnswerBody> {
    let Some(location) = location else {
        return pages::bad_request("host or path of the request cannot be led elsewhere");
    };
    let mut answer = Response::new(AnswerBody::whole(Bytes::new()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(LOCATION, location);
    answer
}

fn redirection(status: u16) -> Result<StatusCode, Unusable> {
    let status = StatusCode::from_u16(status).ok().filter(StatusCode::is_redirection);
    status.ok_or_else(|| Unusable::new("no status of a redirect"))
}

impl Own {
    fn redirect(redirect: &Redirect) -> Result<Self, Unusable> {
        Ok(Own::Redirect(redirect.clone(), redirection(redirect.status)?, Rewriter::of(&redirect.rewrite)?))
    }

    fn respond(respond: &Respond) -> Result<Self, Unusable> {
        let status = StatusCode::from_u16(respond.status).ok().filter(|status| status.as_u16() >= 200);
        let status = status.ok_or_else(|| Unusable::new("no status of an answer"))?;
        let mut headers: HeaderMap = pairs(&respond.headers)?.into_iter().collect();
        if !respond.body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        Ok(Own::Respond { status, headers, body: respond.body.clone().into() })
    }
}

impl Changes {
    fn of(changes: &HeaderChanges) -> Result<Self, Unusable> {
        let remove = changes.remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
        Ok(Self { remove, set: pairs(&changes.set)?, add: pairs(&changes.add)? })
    }

    fn make(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn name(text: &str) -> Result<HeaderName, Unusable> {
    let name = HeaderName::try_from(text).ok().filter(|name| !FIXED_HEADERS.contains(&name.as_str()));
    name.ok_or_else(|| Unusable::new("no header field that may be changed"))
}

fn pairs(texts: &std::collections::BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, Unusable> {
    let pair = |(key, text): (&String, &String)| {
        let value = HeaderValue::try_from(text.as_str()).map_err(|_| Unusable::new("no value of a header field"))?;
        Ok((name(key)?, value))
    };
    texts.iter().map(pair).collect()
}
