//! The path of one request: find its service, choose an instance, send, and see to it that a failure of the instance is not the
//! client's.
//!
//! Invariants: nothing of an answer goes out before it is decided that there will be no other try; a request that must not repeat is
//! written once; a draining instance gets no new request.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hirsel_mesh::seam::{BoxStream, Clock};
use hirsel_model::Timestamp;
use hirsel_role::secret::Values;
use hirsel_role::{Doors, Host, Spawner};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::actions::{Acts, Tools};
use crate::budget::{Budget, KEPT_BYTES_MAX, Reserved};
use crate::client::Client;
use crate::headers::{self, BadHead};
use crate::instance::{Instance, Ticket, Whom};
use crate::metrics::Metrics;
use crate::pages;
use crate::pool::{FRESH_FOR, IDLE_FOR_MAX};
use crate::replay::{ANSWER_HELD_BYTES_MAX, BODY_KEPT_BYTES_MAX, Effort, Failure, PATIENCE, Repeatable, is_idempotent};
use crate::routes::Routes;
use crate::stream::{AnswerBody, Leg, Limited, RequestBody};
use crate::table::{Origin, Way};
use crate::tunnel;
use crate::upstream::{Pulse, Upstream};
use crate::ways::Finding;

/// A connection that is not there after this time is tried elsewhere: on a cut cable packets vanish without a word. Within a data
/// centre it takes a millisecond, between continents a fifth of a second.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// A small body must be whole after this time: slow writers shall not hold memory.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Of a body that is refused so much is read on.
const DRAINED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// And for so long.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// With every instance tried, the next round begins after this time, or when the table changes.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Why a request is refused whose path is one of several routes, depending on who reads it.
const AMBIGUOUS: &str = "the path of the request can be read in several ways (\"//\", \"..\", \"%\", \";\"), which lead to different places: write it plainly";

/// Everything a request needs on its way.
pub struct Proxy {
    /// Where requests go.
    pub routes: Routes,
    /// What is counted.
    pub metrics: Metrics,
    host: Arc<dyn Host>,
    doors: Arc<dyn Doors>,
    clock: Arc<dyn Clock>,
    spawner: Spawner,
    budget: Arc<Budget>,
    secrets: watch::Receiver<Arc<Values>>,
    /// State of a SplitMix64 generator: a draw per request without a lock or a system call.
    chance: AtomicU64,
}

/// Where a request leads.
enum Lead {
    /// It is passed on, and nothing else.
    Plain(Arc<Origin>),
    /// There is more to do, or the route answers by itself.
    Acts(Arc<Acts>, Option<Arc<Origin>>),
}

/// A request as it came.
struct Taken {
    head: Parts,
    incoming: Incoming,
    /// What its connection shall become.
    protocol: Option<HeaderValue>,
    upgrade: Option<OnUpgrade>,
}

/// A request on its way out: as it is told, again and again if need be.
struct Outbound {
    head: Parts,
    body: OutboundBody,
    /// What the client's connection becomes if the instance agrees.
    upgrade: Option<(OnUpgrade, Arc<Client>)>,
}

enum OutboundBody {
    Empty,
    Whole(Bytes, #[expect(dead_code, reason = "given back to the budget when dropped")] Reserved),
    Passing(RequestBody),
    /// It was passed on, and cannot be told again.
    Gone,
}

/// An answer, and the connection it comes from.
struct Answered {
    head: Response<Incoming>,
    leg: Leg,
    at: Timestamp,
}

impl Proxy {
    /// A proxy that knows no route yet. `seed` comes from the injected chance.
    pub fn new(context: &hirsel_role::Context, metrics: Metrics) -> Self {
        Self {
            routes: Routes::new(
                context.me.clone(),
                context.live.clone(),
                Tools::new(context.chance.as_ref(), context.config.https_port),
                context.wake.clone(),
            ),
            secrets: context.secrets.clone(),
            metrics,
            host: context.host.clone(),
            doors: context.doors.clone(),
            clock: context.clock.clone(),
            spawner: context.spawner.clone(),
            budget: Budget::new(KEPT_BYTES_MAX),
            chance: AtomicU64::new(context.chance.number()),
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Answers one request of `client`. Never fails: what goes wrong is an answer too.
    pub async fn answer(&self, client: &Arc<Client>, request: Request<Incoming>) -> Response<AnswerBody> {
        let busy = client.begin();
        let answer = self.forward(client, request).await;
        self.metrics.answered(answer.status());
        answer.map(|body| body.keeping(busy))
    }

    async fn forward(&self, client: &Arc<Client>, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let protocol = headers::wanted_upgrade(request.headers());
        let upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut head, incoming) = request.into_parts();
        let lead = match self.lead(&head) {
            Ok(lead) => lead,
            Err(refusal) => return refusal,
        };
        let origin = match lead {
            Lead::Plain(origin) => origin,
            // Apart, so that plain requests carry no room for it.
            Lead::Acts(acts, origin) => {
                let taken = Taken { head, incoming, protocol, upgrade };
                return Box::pin(self.act(client, &acts, origin, taken)).await;
            }
        };
        if let Err(bad) = headers::prepare_request(&mut head, &client.lines, protocol) {
            return bad_head(bad);
        }
        let Some(body) = self.body_of(incoming).await else { return pages::cut_short() };
        let upgrade = upgrade.map(|upgrade| (upgrade, client.clone()));
        let mut outbound = Outbound { head, body, upgrade };
        self.exchange(&mut outbound, &origin).await.unwrap_or_else(|refusal| refusal)
    }

    /// Where a request leads, or the page that says why nowhere.
    #[expect(clippy::result_large_err, reason = "the refusal is the answer itself")]
    fn lead(&self, head: &Parts) -> Result<Lead, Response<AnswerBody>> {
        if head.method == Method::CONNECT {
            return Err(pages::bad_request("CONNECT is not offered here"));
        }
        let mut buffer = String::new();
        let host = headers::host_of(head, &mut buffer).map_err(bad_head)?;
        let table = self.routes.table();
        let route = match table.ways.find(host, head) {
            Finding::Route(route) => route,
            Finding::Nowhere => return Err(pages::no_route(host, head.uri.path())),
            Finding::Ambiguous => return Err(pages::bad_request(AMBIGUOUS)),
        };
        let origin = table.origin(route, || self.draw()).cloned();
        match (table.ways.acts(route), origin) {
            (None, Some(origin)) => Ok(Lead::Plain(origin)),
            (Some(acts), origin) => Ok(Lead::Acts(acts.clone(), origin)),
            (None, None) => Err(pages::not_understood()),
        }
    }

    /// Answers a request of a route that does more than passing it on.
    async fn act(
        &self,
        client: &Arc<Client>,
        acts: &Acts,
        origin: Option<Arc<Origin>>,
        taken: Taken,
    ) -> Response<AnswerBody> {
        let leave = acts.leave(&taken.head.headers);
        let mut answer = self.acted(client, acts, origin, taken).await;
        acts.finish(answer.headers_mut(), leave);
        answer
    }

    async fn acted(
        &self,
        client: &Arc<Client>,
        acts: &Acts,
        origin: Option<Arc<Origin>>,
        taken: Taken,
    ) -> Response<AnswerBody> {
        let Taken { mut head, incoming, protocol, upgrade } = taken;
        let mut buffer = String::new();
        let host = headers::host_of(&head, &mut buffer).unwrap_or_default().to_owned();
        if let Some(refusal) = acts.refuse(&head, &host, &client.lines, self.now()) {
            return refusal;
        }
        if let Some(auth) = &acts.auth {
            let secrets = self.secrets.borrow().clone();
            if !auth.admit(&mut head.headers, &secrets).await {
                return pages::unauthorized(auth.challenge.clone());
            }
        }
        let limit = acts.body_bytes_max;
        if let Some(bytes_max) = limit.filter(|bytes_max| incoming.size_hint().lower() > *bytes_max) {
            drain(incoming).await;
            return pages::too_large(bytes_max);
        }
        if let Some(answer) = acts.own_answer(&host, &head.uri) {
            return answer;
        }
        let Some(origin) = origin else { return pages::not_understood() };
        if let Err(bad) = headers::prepare_request(&mut head, &client.lines, protocol) {
            return bad_head(bad);
        }
        if !acts.prepare(&mut head) {
            return bad_head(BadHead::Target);
        }
        let Some(mut body) = self.body_of(incoming).await else { return pages::cut_short() };
        let exceeded = Arc::new(AtomicBool::new(false));
        if let Some(bytes_max) = limit {
            body = body.limited(bytes_max, &exceeded);
        }
        let upgrade = upgrade.map(|upgrade| (upgrade, client.clone()));
        let mut outbound = Outbound { head, body, upgrade };
        let answered = self.exchange(&mut outbound, &origin);
        let answered = match acts.timeout {
            Some(limit) => match tokio::time::timeout(limit, answered).await {
                Ok(answered) => answered,
                Err(_late) => return pages::timed_out(&origin),
            },
            None => answered.await,
        };
        match (answered, limit) {
            (Err(_), Some(bytes_max)) if exceeded.load(Ordering::Acquire) => pages::too_large(bytes_max),
            (answered, _) => answered.unwrap_or_else(|refusal| refusal),
        }
    }

    /// The body of a request: at hand if it is small, else to be passed on. None if it broke off or came too slowly.
    async fn body_of(&self, incoming: Incoming) -> Option<OutboundBody> {
        if incoming.is_end_stream() {
            return Some(OutboundBody::Empty);
        }
        let length = incoming.size_hint().exact().filter(|length| *length <= BODY_KEPT_BYTES_MAX);
        let Some(reserved) = length.and_then(|length| self.budget.reserve(length)) else {
            return Some(OutboundBody::Passing(RequestBody::Passing(incoming)));
        };
        // The timer is only set if not all of it is there already. Apart, so that requests without a body carry no room for it.
        let whole = Box::pin(tokio::time::timeout(BODY_WITHIN, incoming.collect())).await.ok()?.ok()?;
        Some(OutboundBody::Whole(whole.to_bytes(), reserved))
    }

    /// Tells the request to instances of `service` until one answers or there is no more to be tried.
    async fn exchange(
        &self,
        outbound: &mut Outbound,
        service: &Arc<Origin>,
    ) -> Result<Response<AnswerBody>, Response<AnswerBody>> {
        let mut effort = Effort::new(outbound.repeatable());
        let mut tried: Vec<Arc<Instance>> = Vec::new();
        // A kept connection failed: its instance deserves a new one before it counts as tried.
        let mut excused = false;
        let mut give_up_at = None;
        loop {
            let begun = self.now();
            let Some((ticket, way)) = self.pick(service, begun, &tried) else {
                if std::mem::take(&mut excused) {
                    tried.clear();
                    continue;
                }
                let until = *give_up_at.get_or_insert_with(|| self.now() + PATIENCE);
                if !Box::pin(self.wait_for_instance(until)).await {
                    return Err(pages::no_instance(service));
                }
                tried.clear();
                continue;
            };
            let instance = ticket.instance().clone();
            let failed = match self.attempt(outbound, service, (ticket, way), begun).await {
                Ok(answered) => match self.finish(outbound, service, answered).await {
                    Ok(answer) => return Ok(answer),
                    // It began to answer: that the connection was a kept one excuses nothing.
                    Err(failure) => Failed { failure, reused: false },
                },
                Err(failed) => failed,
            };
            let failure = failed.failure;
            debug!(instance = %instance.whom, ?failure, "try failed");
            if failed.reused {
                // Those beside it are as old.
                instance.pool.clear_idle();
                excused = true;
            }
            if failure.ejects(failed.reused) && instance.failed(self.now()) {
                self.metrics.ejections.inc();
                match &instance.whom {
                    Whom::Instance { id, node } => info!(instance = %id, %node, ?failure, "instance ejected"),
                    Whom::Outside(addr) => info!(%addr, ?failure, "address outside ejected"),
                }
            }
            if !effort.try_again(failure) {
                return Err(match failure {
                    Failure::NotWritten => pages::no_instance(service),
                    Failure::Broken | Failure::Lost => pages::broken(service),
                    Failure::TimedOut => pages::timed_out(service),
                    Failure::Garbled => pages::garbled(service),
                    Failure::ClientGone => pages::cut_short(),
                });
            }
            self.metrics.retries.inc();
            if failure != Failure::NotWritten {
                self.metrics.replays.inc();
            }
            tried.push(instance);
        }
    }

    fn pick(&self, service: &Origin, now: Timestamp, tried: &[Arc<Instance>]) -> Option<(Ticket, Way)> {
        self.routes.table().service(service)?.pick(now, self.draw(), tried)
    }

    /// Waits for a change that may bring an instance, or a short while. False when it is too late.
    async fn wait_for_instance(&self, until: Timestamp) -> bool {
        let left = until.since(self.now());
        if left.is_zero() {
            return false;
        }
        let mut swaps = self.routes.swaps();
        // Whether the table changed or the pause is over, the next look tells what there is.
        let _ = tokio::time::timeout(ROUND_PAUSE.min(left), swaps.changed()).await;
        true
    }

    /// Tells the request to one instance and waits for the head of its answer.
    async fn attempt(
        &self,
        outbound: &mut Outbound,
        service: &Origin,
        (ticket, way): (Ticket, Way),
        begun: Timestamp,
    ) -> Result<Answered, Failed> {
        let instance = ticket.instance();
        let idle_max = if is_idempotent(&outbound.head.method) { IDLE_FOR_MAX } else { FRESH_FOR };
        let mut upstream = match instance.pool.take(begun, idle_max) {
            Some(upstream) => upstream,
            // Rare and large: most requests need no room for it.
            None => Box::pin(self.connect(instance, way)).await.map_err(|error| {
                debug!(instance = %instance.whom, %error, "no connection");
                Failed { failure: Failure::NotWritten, reused: false }
            })?,
        };
        let Some(request) = outbound.request() else {
            return Err(Failed { failure: Failure::Broken, reused: upstream.reused });
        };
        let repeatable = outbound.repeatable() == Repeatable::Yes;
        let leave = || repeatable && self.has_other(service, instance);
        match upstream.send(request, leave).await {
            Ok(head) => {
                let now = self.now();
                instance.succeeded(now.since(begun), now);
                Ok(Answered { head, leg: Leg { upstream, ticket }, at: now })
            }
            Err(error) => {
                if let Some(unsent) = error.unsent {
                    outbound.take_back(unsent);
                }
                let failure = match error.failure {
                    // It was not written, but what was to be passed on is lost with the connection.
                    Failure::NotWritten if outbound.is_gone() => Failure::Broken,
                    failure => failure,
                };
                Err(Failed { failure, reused: upstream.reused })
            }
        }
    }

    fn has_other(&self, service: &Origin, than: &Arc<Instance>) -> bool {
        let table = self.routes.table();
        table.service(service).is_some_and(|service| service.has_other_than(than, self.now()))
    }

    async fn connect(&self, instance: &Instance, way: Way) -> io::Result<Box<Upstream>> {
        self.metrics.connects.inc();
        let stream = match tokio::time::timeout(CONNECT_WITHIN, self.open(&instance.whom, way)).await {
            Ok(stream) => stream?,
            Err(_late) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let pulse: Arc<Pulse> = instance.pool.watch();
        Upstream::new(stream, pulse).await.map_err(io::Error::other)
    }

    async fn open(&self, whom: &Whom, way: Way) -> io::Result<BoxStream> {
        match (way, whom) {
            (Way::Direct(addr), _) => self.host.connect(addr).await,
            (Way::Door { node, addr }, Whom::Instance { id, .. }) => self.doors.open(node, addr, id).await,
            (Way::Door { .. }, Whom::Outside(_)) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Turns an instance's answer into ours: held until whole if it is small, else passed on.
    async fn finish(
        &self,
        outbound: &mut Outbound,
        service: &Origin,
        answered: Answered,
    ) -> Result<Response<AnswerBody>, Failure> {
        let Answered { head, mut leg, at } = answered;
        let (mut head, mut incoming) = head.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some((client, owner)), Some(protocol)) =
                (outbound.upgrade.take(), headers::wanted_upgrade(&head.headers))
            else {
                return Err(Failure::Garbled);
            };
            headers::prepare_answer(&mut head.headers, Some(protocol));
            self.spawner.spawn(tunnel::carry(owner, client, leg));
            return Ok(Response::from_parts(head, AnswerBody::whole(Bytes::new())));
        }
        headers::prepare_answer(&mut head.headers, None);
        if incoming.is_end_stream() {
            leg.finish(at);
            return Ok(Response::from_parts(head, AnswerBody::whole(Bytes::new())));
        }
        let held = incoming.size_hint().exact().filter(|length| *length <= ANSWER_HELD_BYTES_MAX);
        let Some(reserved) = held.and_then(|length| self.budget.reserve(length)) else {
            return Ok(Response::from_parts(head, AnswerBody::passing(incoming, leg, self.clock.clone())));
        };
        let repeatable = outbound.repeatable() == Repeatable::Yes;
        let instance = leg.ticket.instance().clone();
        let leave = || repeatable && self.has_other(service, &instance);
        let bytes = hold(&mut leg.upstream, &mut incoming, leave).await?;
        drop(reserved);
        leg.finish(at);
        Ok(Response::from_parts(head, AnswerBody::whole(bytes)))
    }

    fn draw(&self) -> u64 {
        // Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators" (SplitMix64).
        let mut z = self.chance.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Why a try failed.
struct Failed {
    failure: Failure,
    /// Whether it was on a kept connection.
    reused: bool,
}

/// Reads on for a while what will not be used, so that the client sees the answer: a connection that is closed upon unread bytes is
/// reset.
async fn drain(mut incoming: Incoming) {
    let read = async {
        let mut left = DRAINED_BYTES_MAX;
        while let Some(Ok(frame)) = incoming.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            left = left.saturating_sub(bytes);
            if left == 0 {
                return;
            }
        }
    };
    // Whether it came to its end or not, the answer goes out.
    let _ = tokio::time::timeout(DRAIN_WITHIN, read).await;
}

/// Reads an answer's body whole. When the instance is lost meanwhile, `leave` is asked whether to give up.
async fn hold(upstream: &mut Upstream, incoming: &mut Incoming, leave: impl Fn() -> bool) -> Result<Bytes, Failure> {
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    loop {
        let frame = poll_fn(|cx| {
            upstream.attend(cx);
            if let Some(failure) = upstream.pulse.over() {
                return Poll::Ready(Some(Err(failure)));
            }
            match upstream.poll_body(incoming, cx) {
                Poll::Pending if upstream.pulse.is_lost() && leave() => Poll::Ready(Some(Err(Failure::Lost))),
                frame => frame.map(|frame| frame.map(|frame| frame.map_err(|_| Failure::Broken))),
            }
        });
        let Some(frame) = frame.await else { break };
        if let Ok(bytes) = frame?.into_data() {
            match &mut rest {
                // Most small answers are one piece: it is not copied.
                None if first.is_empty() => first = bytes,
                None => {
                    let mut whole = BytesMut::with_capacity(first.len() + bytes.len());
                    whole.extend_from_slice(&first);
                    whole.extend_from_slice(&bytes);
                    rest = Some(whole);
                }
                Some(rest) => rest.extend_from_slice(&bytes),
            }
        }
        if incoming.is_end_stream() {
            break;
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

impl Outbound {
    fn repeatable(&self) -> Repeatable {
        match self.body {
            OutboundBody::Empty | OutboundBody::Whole(..) if is_idempotent(&self.head.method) => Repeatable::Yes,
            _ => Repeatable::No,
        }
    }

    /// The request to be told, or none if its body is gone.
    fn request(&mut self) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            OutboundBody::Empty => RequestBody::Empty,
            OutboundBody::Whole(bytes, _) => RequestBody::Whole(bytes.clone()),
            OutboundBody::Gone => return None,
            OutboundBody::Passing(_) => match std::mem::replace(&mut self.body, OutboundBody::Gone) {
                OutboundBody::Passing(body) => body,
                _ => return None,
            },
        };
        Some(Request::from_parts(self.head.clone(), body))
    }

    /// Takes back what was not written, so that it can be told again.
    fn take_back(&mut self, unsent: Request<RequestBody>) {
        if let body @ (RequestBody::Passing(_) | RequestBody::Limited(_)) = unsent.into_body() {
            self.body = OutboundBody::Passing(body);
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.body, OutboundBody::Gone)
    }
}

impl OutboundBody {
    /// The same, at most `bytes_max` of it. One at hand was looked at when it came.
    fn limited(self, bytes_max: u64, exceeded: &Arc<AtomicBool>) -> Self {
        match self {
            OutboundBody::Passing(RequestBody::Passing(incoming)) => {
                let limited = Limited::new(incoming, bytes_max, exceeded.clone());
                OutboundBody::Passing(RequestBody::Limited(Box::new(limited)))
            }
            whole => whole,
        }
    }
}

fn bad_head(bad: BadHead) -> Response<AnswerBody> {
    pages::bad_request(match bad {
        BadHead::Host => "the request names no valid host: exactly one Host header is expected",
        BadHead::Target => "the target of the request is no path",
    })
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("routes", &self.routes).finish_non_exhaustive()
    }
}
