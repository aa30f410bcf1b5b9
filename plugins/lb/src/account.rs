//! What is known of one request on its way, and where it goes when the request is over: to the count of its route, to the memory, and, if
//! its route says so, to the log.
//!
//! It costs no allocation of its own unless its requests are written down or its answer is passed on piece by piece. A request that is
//! dropped on its way, because its client went away, is over too.

use std::fmt;
use std::sync::Arc;

use hirsel_model::Timestamp;
use hirsel_role::requests::SLOW_MS;
use http::header::{HOST, REFERER, USER_AGENT};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Body;

use crate::access::line::Line;
use crate::cache::Outcome as Cached;
use crate::client::{Client, Will};
use crate::clients::Proof;
use crate::fault::Fault;
use crate::ids::{Mark, X_REQUEST_ID};
use crate::instance::Instance;
use crate::memory::{Cut, Past};
use crate::meter::{Ending, Watch};
use crate::replay::Failure;
use crate::seer::Seer;
use crate::stream::AnswerBody;
use crate::table::Origin;
use tries::{Outcome, Tries};

pub mod tries;

/// What a request is said to have been answered that nobody waited for (as nginx has it).
const GONE: u16 = 499;

/// The account of one request.
pub struct Account {
    mark: Mark,
    seer: Arc<Seer>,
    client: Arc<Client>,
    begun: Timestamp,
    method: Method,
    version: Version,
    host: Option<HeaderValue>,
    authority: Option<Authority>,
    asked: Option<PathAndQuery>,
    watch: Option<Arc<Watch>>,
    origin: Option<Arc<Origin>>,
    tries: Tries,
    first_byte: Option<Timestamp>,
    status: u16,
    fault: Option<Fault>,
    /// What the cache did.
    cached: Option<Cached>,
    /// What its client showed, where its route asks for that.
    proof: Option<Arc<Proof>>,
    bytes_in: Option<u64>,
    bytes_out: u64,
    /// What the client said of itself, if that may be written down.
    spoken: Option<Box<Spoken>>,
    is_over: bool,
}

/// Fields that people look for in a log.
#[derive(Debug, Default)]
struct Spoken {
    referer: Option<HeaderValue>,
    agent: Option<HeaderValue>,
}

impl Account {
    /// Begins with the head of a request.
    pub fn begin<B: Body>(seer: &Arc<Seer>, client: &Arc<Client>, request: &Request<B>) -> Self {
        let headers = request.headers();
        Self {
            mark: seer.ids.mark(headers),
            seer: seer.clone(),
            client: client.clone(),
            begun: seer.clock.now(),
            method: request.method().clone(),
            version: request.version(),
            host: headers.get(HOST).cloned(),
            authority: request.uri().authority().cloned(),
            asked: request.uri().path_and_query().cloned(),
            watch: None,
            origin: None,
            tries: Tries::default(),
            first_byte: None,
            status: GONE,
            fault: None,
            cached: None,
            proof: None,
            bytes_in: request.body().size_hint().exact(),
            bytes_out: 0,
            spoken: None,
            is_over: false,
        }
    }

    /// Of a request that we make ourselves beside the one with this head: nobody counts or remembers it.
    pub fn aside(seer: &Arc<Seer>, client: &Arc<Client>, head: &Parts) -> Self {
        Self {
            mark: seer.ids.mark(&head.headers),
            seer: seer.clone(),
            client: client.clone(),
            begun: seer.clock.now(),
            method: head.method.clone(),
            version: head.version,
            host: None,
            authority: None,
            asked: None,
            watch: None,
            origin: None,
            tries: Tries::default(),
            first_byte: None,
            status: GONE,
            fault: None,
            cached: None,
            proof: None,
            bytes_in: None,
            bytes_out: 0,
            spoken: None,
            is_over: true,
        }
    }

    /// What the cache did for it.
    pub fn cached(&mut self, outcome: Cached) {
        self.cached = Some(outcome);
    }

    /// Its client showed this, and is let in by it.
    pub fn proves(&mut self, proof: &Arc<Proof>) {
        self.proof = Some(proof.clone());
    }

    /// Whether an instance was asked.
    pub fn has_tried(&self) -> bool {
        self.tries.count() > 0
    }

    /// It takes this route.
    pub fn takes(&mut self, watch: &Arc<Watch>, head: &Parts) {
        watch.meter.begins();
        if watch.log.is_some() {
            self.hear(&head.headers);
        }
        self.watch = Some(watch.clone());
    }

    /// No route takes it.
    pub fn takes_none(&mut self, head: &Parts) {
        if self.seer.usual().is_some() {
            self.hear(&head.headers);
        }
    }

    fn hear(&mut self, headers: &HeaderMap) {
        let (referer, agent) = (headers.get(REFERER).cloned(), headers.get(USER_AGENT).cloned());
        self.spoken = Some(Box::new(Spoken { referer, agent }));
    }

    /// It leads there.
    pub fn leads_to(&mut self, origin: &Arc<Origin>) {
        self.origin = Some(origin.clone());
    }

    /// Tells whoever works on it by what it is known.
    pub fn tell(&mut self, headers: &mut HeaderMap, draw: impl FnOnce() -> u64) {
        let trace = self.watch.as_ref().and_then(|watch| watch.trace);
        self.seer.ids.tell(&mut self.mark, headers, trace, draw);
    }

    /// `instance` is tried.
    pub fn tries(&mut self, instance: &Arc<Instance>, now: Timestamp) {
        self.tries.begin(instance, now);
    }

    /// The head of an answer came from `instance`.
    pub fn answered(&mut self, instance: &Arc<Instance>, now: Timestamp) {
        self.first_byte = Some(now);
        self.tries.end(instance, Outcome::Answered, now);
    }

    /// The try of `instance` failed.
    pub fn failed(&mut self, instance: &Arc<Instance>, failure: Failure) {
        self.first_byte = None;
        self.tries.end(instance, Outcome::Failed(failure), self.seer.clock.now());
    }

    /// Sees what it is answered.
    pub fn sees(&mut self, answer: &Response<AnswerBody>) {
        self.status = answer.status().as_u16();
        self.fault = answer.extensions().get::<Fault>().copied();
    }

    /// Puts the id into the answer, and goes along with it while its body goes out, where that is more than one step.
    pub fn go_along(mut self, mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
        answer.headers_mut().insert(X_REQUEST_ID, self.mark.id.clone());
        if answer.body().is_end_stream() {
            self.over();
            return answer;
        }
        match answer.body().at_hand() {
            Some(bytes) if self.spoken.is_none() => {
                self.bytes_out = bytes;
                self.over();
                answer
            }
            _ => answer.map(|body| body.accounted(Box::new(self))),
        }
    }

    /// So much more of the answer goes out.
    pub fn sends(&mut self, bytes: u64) {
        self.bytes_out += bytes;
    }

    /// The answer broke off.
    pub fn breaks(&mut self) {
        self.fault = Some(Fault::AnswerBroken);
        self.over();
    }

    /// The request is over. Only the first time counts.
    pub fn over(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let seer = self.seer.clone();
        let took_ms = ms(self.begun, seer.clock.now());
        let first_byte_ms = self.first_byte.map(|at| ms(self.begun, at));
        let retries = self.tries.count().saturating_sub(1);
        // A client that has seen enough of a stream ends it: that is no failure.
        let is_wish = self.fault == Some(Fault::NotKept);
        let failed =
            (self.status >= 499 && !is_wish) || matches!(self.fault, Some(Fault::AnswerBroken | Fault::CutOff));
        let meter = match &self.watch {
            Some(watch) => &watch.meter,
            None => {
                seer.meters.nowhere.begins();
                &seer.meters.nowhere
            }
        };
        meter.ends(Ending { status: self.status, failed, retries, took_ms, cached: self.cached });
        if self.spoken.is_some() {
            self.write_down(took_ms, first_byte_ms, failed);
        }
        let host = self.host_text();
        let past = Past {
            host: Cut::of(host),
            path: Cut::of(self.asked.as_ref().map_or("", PathAndQuery::path).as_bytes()),
            id: self.mark.id.clone(),
            told: self.mark.told.take(),
            begun: self.begun,
            took_ms,
            first_byte_ms,
            client: self.client.lines.ip,
            method: self.method.clone(),
            watch: self.watch.take(),
            origin: self.origin.take(),
            status: self.status,
            fault: self.fault,
            cached: self.cached,
            proof: self.proof.take(),
            bytes_out: self.bytes_out,
            tries: std::mem::take(&mut self.tries),
        };
        seer.memory.keep(self.mark.number(), past, failed || took_ms >= SLOW_MS);
    }

    /// The host it was for, as the client wrote it.
    fn host_text(&self) -> &[u8] {
        let authority = self.authority.as_ref().map(|authority| authority.as_str().as_bytes());
        authority.or(self.host.as_ref().map(HeaderValue::as_bytes)).unwrap_or_default()
    }

    fn write_down(&self, took_ms: u64, first_byte_ms: Option<u64>, failed: bool) {
        let usual = self.seer.usual();
        let Some(log) = self.watch.as_ref().map_or(usual, |watch| watch.log) else { return };
        // One that failed is written down whatever the share.
        if !failed && !log.sample.takes(self.mark.draw()) {
            return;
        }
        let spoken = self.spoken.as_deref();
        self.seer.write_down(
            log,
            &Line {
                at: self.seer.clock.wall(),
                took_ms,
                first_byte_ms,
                mark: &self.mark,
                client: self.client.lines.ip,
                encrypted: self.client.lines.encrypted,
                tls: self.client.tls(),
                version: self.version,
                method: self.method.as_str(),
                host: self.host_text(),
                asked: self.asked.as_ref(),
                referer: spoken.and_then(|spoken| bytes(&spoken.referer)),
                agent: spoken.and_then(|spoken| bytes(&spoken.agent)),
                status: self.status,
                fault: self.fault,
                cached: self.cached,
                shown: self.proof.as_ref().and_then(|proof| proof.shown.as_ref()),
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
                meter: self.watch.as_ref().map(|watch| &*watch.meter),
                origin: self.origin.as_deref(),
                whom: self.tries.instance().map(|instance| &instance.whom),
                tries: self.tries.count(),
            },
            failed,
        );
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.is_over {
            let ended_by_us = self.client.will() == Will::End;
            self.fault = Some(if ended_by_us { Fault::CutOff } else { Fault::ResetByClient });
            self.over();
        }
    }
}

fn bytes(value: &Option<HeaderValue>) -> Option<&[u8]> {
    value.as_ref().map(HeaderValue::as_bytes)
}

fn ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("mark", &self.mark).finish_non_exhaustive()
    }
}
