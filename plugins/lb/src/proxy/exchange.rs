//! Telling a request to one instance after another, until one answers.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hirsel_mesh::seam::BoxStream;
use hirsel_model::Timestamp;
use hirsel_model::spec::AppProtocol;
use http::{HeaderMap, Response, StatusCode};
use tracing::{debug, info};

use super::Proxy;
use super::outbound::Outbound;
use crate::account::Account;
use crate::carrier::Carrier;
use crate::headers;
use crate::instance::{Instance, Ticket, Whom};
use crate::pages;
use crate::pool::{FRESH_FOR, IDLE_FOR_MAX};
use crate::replay::{ANSWER_HELD_BYTES_MAX, Effort, Failure, PATIENCE, Repeatable, is_idempotent};
use crate::sharing::line::{Line, Place};
use crate::sharing::{Choice, Moment, Picked};
use crate::stream::{AnswerBody, Leg};
use crate::table::{Origin, Way};
use crate::tunnel;
use crate::upstream::{Pulse, Upstream};
use crate::websocket::{self, Joined};

/// A connection that is not there after this time is tried elsewhere: on a cut cable packets vanish without a word. Within a data
/// centre it takes a millisecond, between continents a fifth of a second.
pub const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// With every instance tried, the next round begins after this time, or when the table changes.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// An answer, and the connection it comes from.
pub(super) struct Answered {
    head: Response<()>,
    pub(super) leg: Leg,
    at: Timestamp,
}

/// Why a try failed.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// Whether it was on a kept connection.
    pub(super) reused: bool,
}

impl Proxy {
    /// Tells the request to instances of `service`, those of `choice` if the route makes one, until one answers or there is no more to
    /// be tried.
    pub(super) async fn exchange(
        &self,
        outbound: &mut Outbound,
        service: &Arc<Origin>,
        choice: Option<&Choice<'_>>,
        account: &mut Account,
    ) -> Result<Response<AnswerBody>, Response<AnswerBody>> {
        account.leads_to(service);
        let mut effort = Effort::new(outbound.repeatable());
        let mut tried: Vec<Arc<Instance>> = Vec::new();
        // A kept connection failed: its instance deserves a new one before it counts as tried.
        let mut excused = false;
        let mut give_up_at = None;
        let mut place = None;
        loop {
            let begun = self.now();
            let picked = match self.pick(service, choice, begun, (&tried, place.is_some())) {
                Picked::Full(line) => {
                    // Apart, as all that is rare: most requests need no room for it.
                    place = Some(Box::pin(self.wait_in_line(service, line, place)).await?);
                    continue;
                }
                Picked::Taken(ticket, way) => Some((ticket, way)),
                Picked::Nobody => None,
            };
            // Whoever is next may look.
            place = None;
            let Some((ticket, way)) = picked else {
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
            let mut instance = ticket.instance().clone();
            account.tries(&instance, begun);
            let told = match choice.filter(|choice| choice.hedge().is_some() && tried.is_empty()) {
                Some(choice) => Box::pin(self.hedged(outbound, service, choice, (ticket, way), begun, account)).await,
                None => {
                    let limit = choice.and_then(Choice::try_timeout);
                    self.attempt_within(limit, outbound, service, (ticket, way), begun).await
                }
            };
            if let (Ok(answered), Some(_)) = (&told, choice) {
                // Maybe that of the second one.
                instance = answered.leg.ticket.instance().clone();
            }
            let failed = match told {
                Ok(answered) => {
                    account.answered(&instance, answered.at);
                    instance.tally.answered();
                    match self.finish(outbound, service, answered).await {
                        Ok(answer) => {
                            if let Some(choice) = choice {
                                self.judge(choice, service, &instance, answer.status());
                            }
                            return Ok(answer);
                        }
                        // It began to answer: that the connection was a kept one excuses nothing.
                        Err(failure) => Failed { failure, reused: false },
                    }
                }
                Err(failed) => failed,
            };
            let failure = failed.failure;
            debug!(instance = %instance.whom, ?failure, "try failed");
            excused |= failed.reused;
            self.note(account, &instance, &failed, begun);
            let bears = || failure != Failure::Slow || choice.is_some_and(Choice::may_repeat_slow);
            if !(effort.try_again(failure) && bears()) {
                return Err(match failure {
                    Failure::NotWritten | Failure::Refused => pages::no_instance(service),
                    Failure::Reset(reason) => pages::reset(service, reason),
                    Failure::Broken | Failure::Lost => pages::broken(service),
                    Failure::TimedOut | Failure::Slow => pages::timed_out(service),
                    Failure::Garbled => pages::garbled(service),
                    Failure::ClientGone => pages::cut_short(),
                });
            }
            self.metrics.retries.inc();
            if !matches!(failure, Failure::NotWritten | Failure::Refused) {
                self.metrics.replays.inc();
            }
            tried.push(instance);
        }
    }

    pub(super) fn pick<'a>(
        &self,
        service: &Origin,
        choice: Option<&Choice<'a>>,
        now: Timestamp,
        (tried, is_first): (&[Arc<Instance>], bool),
    ) -> Picked<'a> {
        let table = self.routes.table();
        let Some(service) = table.service(service) else { return Picked::Nobody };
        let draw = self.draw();
        match choice {
            None => service.pick(now, draw, tried).map_or(Picked::Nobody, |(ticket, way)| Picked::Taken(ticket, way)),
            Some(choice) => {
                let balancers = &table.balancers;
                choice.pick(service, Moment { now, draw, tried, balancers, is_first })
            }
        }
    }

    /// Notes what a failed try says of its instance.
    pub(super) fn note(&self, account: &mut Account, instance: &Arc<Instance>, failed: &Failed, begun: Timestamp) {
        let Failed { failure, reused } = *failed;
        account.failed(instance, failure);
        instance.tally.failed();
        if reused {
            // Those beside it are as old.
            instance.pool.clear_idle();
        }
        let now = self.now();
        if failure == Failure::Slow {
            instance.was_slow(now.since(begun), now);
        }
        if failure.ejects(reused) && instance.failed(now) {
            self.metrics.ejections.inc();
            match &instance.whom {
                Whom::Instance { id, node } => info!(instance = %id, %node, ?failure, "instance ejected"),
                Whom::Outside(addr) => info!(%addr, ?failure, "address outside ejected"),
            }
        }
    }

    /// Waits for the turn of a request when every instance has as many as it may; from its `place` if it is the first already.
    async fn wait_in_line<'a>(
        &self,
        service: &Origin,
        line: &'a Line,
        place: Option<Place<'a>>,
    ) -> Result<Place<'a>, Response<AnswerBody>> {
        let waited = match place {
            Some(place) => place.wait().await,
            None => match line.join() {
                Ok(waiting) => {
                    self.metrics.queued.inc();
                    waiting.first().await
                }
                Err(full) => Err(full),
            },
        };
        waited.map_err(|_full_or_late| {
            self.metrics.overflows.inc();
            pages::overloaded(service)
        })
    }

    /// Notes what an answer says of its instance.
    fn judge(&self, choice: &Choice<'_>, service: &Origin, instance: &Arc<Instance>, status: StatusCode) {
        let table = self.routes.table();
        let Some(service) = table.service(service) else { return };
        if choice.judge(service, instance, status, self.now()) {
            self.metrics.ejections.inc();
            info!(instance = %instance.whom, status = status.as_u16(), "instance ejected after errors in a row");
        }
    }

    /// As [`Self::attempt`], for no longer than `limit`.
    pub(super) async fn attempt_within(
        &self,
        limit: Option<Duration>,
        outbound: &mut Outbound,
        service: &Origin,
        ticket: (Ticket, Way),
        begun: Timestamp,
    ) -> Result<Answered, Failed> {
        let Some(limit) = limit else { return self.attempt(outbound, service, ticket, begun).await };
        let attempt = Box::pin(self.attempt(outbound, service, ticket, begun));
        let late = |_| Err(Failed { failure: Failure::Slow, reused: false });
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(late)
    }

    /// Waits for a change that may bring an instance, or a short while. False when it is too late.
    pub(super) async fn wait_for_instance(&self, until: Timestamp) -> bool {
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
        let mut upstream = match instance.protocol {
            AppProtocol::Http1 => match instance.pool.take(begun, idle_max) {
                Some(upstream) => Carrier::Alone(upstream),
                // Rare and large: most requests need no room for it.
                None => Carrier::Alone(Box::pin(self.connect(instance, way)).await.map_err(|error| {
                    debug!(instance = %instance.whom, %error, "no connection");
                    Failed { failure: Failure::NotWritten, reused: false }
                })?),
            },
            AppProtocol::H2c => Carrier::Shared(self.lane(instance, way, &outbound.head.headers).await?),
        };
        let Some(body) = outbound.told() else {
            return Err(Failed { failure: Failure::Broken, reused: upstream.is_excused(Failure::Broken) });
        };
        let repeatable = outbound.repeatable() == Repeatable::Yes;
        let leave = || repeatable && self.has_other(service, instance);
        match upstream.send(&outbound.head, body, &self.budget, leave).await {
            Ok(head) => {
                let now = self.now();
                instance.succeeded(now.since(begun), now);
                Ok(Answered { head, leg: Leg { upstream, ticket }, at: now })
            }
            Err(error) => {
                if let Some(unsent) = error.unsent {
                    outbound.take_back(unsent);
                }
                let reused = upstream.is_excused(error.failure);
                let failure = match error.failure {
                    // It was not written, but what was to be passed on is lost with the connection.
                    Failure::NotWritten if outbound.is_gone() => Failure::Broken,
                    Failure::Refused if outbound.is_gone() => Failure::Reset(h2::Reason::REFUSED_STREAM.into()),
                    failure => failure,
                };
                Err(Failed { failure, reused })
            }
        }
    }

    pub(super) fn has_other(&self, service: &Origin, than: &Arc<Instance>) -> bool {
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
        Ok(Upstream::new(stream, pulse))
    }

    pub(super) async fn open(&self, whom: &Whom, way: Way) -> io::Result<BoxStream> {
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
        let (mut head, ()) = head.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some((client, owner)), Some(protocol)) =
                (outbound.upgrade.take(), headers::wanted_upgrade(&head.headers))
            else {
                return Err(Failure::Garbled);
            };
            match outbound.head.extensions.get::<Joined>() {
                None => headers::prepare_answer(&mut head.headers, Some(protocol)),
                Some(joined) if joined.agrees(&head.headers) => websocket::join(&mut head),
                Some(_) => return Err(Failure::Garbled),
            }
            self.spawner.spawn(tunnel::carry(owner, client, leg));
            return Ok(Response::from_parts(head, AnswerBody::whole(Bytes::new())));
        }
        // Whoever wanted to be connected takes a success for a connection.
        if outbound.upgrade.is_some() && head.status.is_success() && outbound.head.extensions.get::<Joined>().is_some()
        {
            return Err(Failure::Garbled);
        }
        headers::prepare_answer(&mut head.headers, None);
        if leg.upstream.is_end() {
            leg.finish(at);
            return Ok(Response::from_parts(head, AnswerBody::whole(Bytes::new())));
        }
        let held = leg.upstream.body_left().filter(|length| *length <= ANSWER_HELD_BYTES_MAX);
        let Some(reserved) = held.and_then(|length| self.budget.reserve(length)) else {
            let body = AnswerBody::passing(leg, &head.headers, self.clock.clone());
            return Ok(Response::from_parts(head, body));
        };
        let repeatable = outbound.repeatable() == Repeatable::Yes;
        let instance = leg.ticket.instance().clone();
        let leave = || repeatable && self.has_other(service, &instance);
        let (bytes, trailer) = hold(&mut leg.upstream, leave).await?;
        drop(reserved);
        leg.finish(at);
        let body = match trailer {
            None => AnswerBody::whole(bytes),
            Some(trailer) => AnswerBody::trailed(bytes, trailer),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// Reads an answer's body whole, and what comes behind it. When the instance is lost meanwhile, `leave` is asked whether to give up.
async fn hold(upstream: &mut Carrier, leave: impl Fn() -> bool) -> Result<(Bytes, Option<HeaderMap>), Failure> {
    let mut trailer = None;
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    loop {
        let frame = poll_fn(|cx| {
            upstream.attend(cx);
            if let Some(failure) = upstream.pulse().over() {
                return Poll::Ready(Some(Err(failure)));
            }
            match upstream.poll_body(cx) {
                Poll::Pending if upstream.pulse().is_lost() && leave() => Poll::Ready(Some(Err(Failure::Lost))),
                frame => frame,
            }
        });
        let Some(frame) = frame.await else { break };
        match frame?.into_data() {
            Ok(bytes) => match &mut rest {
                // Most small answers are one piece: it is not copied.
                None if first.is_empty() => first = bytes,
                None => {
                    let mut whole = BytesMut::with_capacity(first.len() + bytes.len());
                    whole.extend_from_slice(&first);
                    whole.extend_from_slice(&bytes);
                    rest = Some(whole);
                }
                Some(rest) => rest.extend_from_slice(&bytes),
            },
            Err(frame) => trailer = frame.into_trailers().ok(),
        }
        if upstream.is_end() {
            break;
        }
    }
    Ok((rest.map_or(first, BytesMut::freeze), trailer))
}
