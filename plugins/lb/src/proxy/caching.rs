//! The path of a request whose route keeps answers: what is kept is given, or the request goes on to an instance, alone or for all who
//! want the same, and what comes back is kept if it may be.
//!
//! It comes behind all that decides whether a request is taken, and before all that is done to an answer: what is kept is as the program
//! said it.

use std::sync::Arc;
use std::time::Duration;

use hirsel_model::Timestamp;
use http::header::{
    AUTHORIZATION, CONTENT_LOCATION, HOST, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};

use super::Proxy;
use super::outbound::{Outbound, OutboundBody};
use crate::account::Account;
use crate::actions::Acts;
use crate::cache::directives::Asked;
use crate::cache::filling::Reader;
use crate::cache::flights::{Kind, Landing, Turn};
use crate::cache::give::{self, Give, Said};
use crate::cache::kept::{AtHand, Hand, Head};
use crate::cache::key::{self, Key, Way, selecting};
use crate::cache::policy::{Asker, Use};
use crate::cache::reading::Reading;
use crate::cache::store::Found;
use crate::cache::{Outcome, Terms, strip};
use crate::client::Client;
use crate::pages;
use crate::sharing::Choice;
use crate::stream::AnswerBody;
use crate::table::Origin;

mod fetching;

use fetching::Errand;

/// A request waits so long for what another one brings; then it goes by itself. Most answers are there much sooner, and one that is
/// not may never be.
const FOLLOW_WITHIN: Duration = Duration::from_secs(5);

/// How often it waits anew, when what came was for others, or nothing.
const ROUNDS_MAX: u32 = 3;

/// Fields by which some programs are made to answer for another host, path or method than the one they were asked for. A stranger must
/// not choose by them what others are given.
static MISLEADING: [HeaderName; 9] = [
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-original-host"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// What a request asks of the cache.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    terms: Arc<Terms>,
    key: Key,
    way: Way,
    asker: Asker,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Maybe it is kept.
    Look,
    /// It is nothing to be kept.
    Pass(&'static str),
    /// It may change what is kept.
    Change,
}

/// How a request gets to an instance.
pub(super) struct Trip<'a> {
    pub(super) acts: &'a Arc<Acts>,
    pub(super) client: &'a Arc<Client>,
    pub(super) origin: &'a Arc<Origin>,
    pub(super) choice: Option<&'a Choice<'a>>,
    pub(super) account: &'a mut Account,
}

/// An answer to the client, or a page of ours.
pub(super) type Answer = Result<Response<AnswerBody>, Response<AnswerBody>>;

/// Whether the head of a request says who asks.
pub(super) fn is_known(head: &Parts, acts: &Acts) -> bool {
    acts.kept.is_some() && (acts.auth.is_some() || head.headers.contains_key(AUTHORIZATION))
}

impl Ask {
    /// What the request with this head asks; none if its answers are not kept. `is_known` if it says who asks. To be asked once it is told
    /// by whom it is sent, and before its route changes it.
    pub(super) fn of(
        terms: &Arc<Terms>,
        head: &mut Parts,
        client: &Client,
        is_known: bool,
        is_plain: bool,
    ) -> Option<Self> {
        let path = head.uri.path();
        if !terms.spec.has(path) {
            return None;
        }
        let asked = head.uri.path_and_query().map_or(path, |it| it.as_str());
        let encrypted = client.lines.encrypted;
        let authority = head.headers.get(HOST).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let key = Key::of(authority, encrypted, asked, &terms.spec)?;
        let reads = head.method == Method::GET || head.method == Method::HEAD;
        let what = match &head.method {
            _ if !reads && !head.method.is_safe() => What::Change,
            _ if !reads => What::Pass("method"),
            _ if !is_plain || give::is_for_the_program(&head.headers) => What::Pass("bypass"),
            _ => What::Look,
        };
        if what == What::Look {
            for name in &MISLEADING {
                head.headers.remove(name);
            }
        }
        let asker = Asker::of(&head.headers, is_known);
        Some(Self { terms: terms.clone(), key, way: Way { route: terms.route, encrypted }, asker, what })
    }

    /// What tells this request from others of the same key, as far as `names` are what answers depend on.
    fn kind(&self, headers: &HeaderMap, names: &[HeaderName]) -> Kind {
        let selected: Vec<_> = names.iter().map(|name| selecting(headers, name)).collect();
        // What is brought for somebody who is known may be for him alone.
        key::hash((self.way, self.asker.is_known, self.asker.has_cookies, selected))
    }
}

impl Proxy {
    /// Answers a request by what is kept, or by an instance.
    pub(super) async fn through_cache(&self, ask: Ask, outbound: &mut Outbound, trip: &mut Trip<'_>) -> Answer {
        match ask.what {
            What::Look => self.look(&ask, outbound, trip).await,
            What::Pass(why) => self.pass(why, outbound, trip).await,
            What::Change => {
                let answer = self.pass("method", outbound, trip).await?;
                if answer.status().is_success() || answer.status().is_redirection() {
                    self.change(&ask, answer.headers());
                }
                Ok(answer)
            }
        }
    }

    /// What was changed is not kept any more, nor what the answer says was (RFC 9111, section 4.4).
    fn change(&self, ask: &Ask, headers: &HeaderMap) {
        self.cache.change(&ask.key);
        for name in [LOCATION, CONTENT_LOCATION] {
            let location = headers.get(name).and_then(|value| value.to_str().ok());
            let beside = location.and_then(|it| ask.key.beside(it, &ask.terms.spec, ask.way.encrypted));
            if let Some(beside) = beside {
                self.cache.change(&beside);
            }
        }
    }

    /// Has an instance answer a request, and keeps nothing of it.
    async fn pass(&self, why: &'static str, outbound: &mut Outbound, trip: &mut Trip<'_>) -> Answer {
        trip.account.cached(Outcome::Bypass);
        let mut answer = self.tell(outbound, trip).await?;
        strip(answer.headers_mut());
        Said { fwd: Some(why), ..Said::default() }.say(answer.headers_mut());
        Ok(answer)
    }

    async fn look(&self, ask: &Ask, outbound: &mut Outbound, trip: &mut Trip<'_>) -> Answer {
        let asked = Asked::of(&outbound.head.headers);
        let mut rounds = 0;
        let mut alone = asked.no_cache || asked.no_store || !self.cache.is_on();
        loop {
            let now = self.now();
            // What nobody said may be kept is not for those who are known to the program by a cookie.
            let suits = |head: &Head| !(head.freshness.is_implicit && ask.asker.has_cookies);
            let found = self.cache.find(&ask.key, ask.way, &outbound.head.headers, suits);
            let (kept, names, why) = match found {
                Found::Answer(kept) => {
                    // It is found again in memory, or not at all.
                    let Some(kept) = self.cache.at_hand(kept).await else { continue };
                    let names = kept.head().selected.iter().map(|(name, _)| name.clone()).collect();
                    (Some(kept), names, "stale")
                }
                Found::Others(names) => (None, names, "vary-miss"),
                Found::Nothing => (None, Vec::new(), "uri-miss"),
            };
            let mut why = why;
            if let Some(kept) = &kept {
                let said = Said { hit: true, collapsed: rounds > 0, ..Said::default() };
                match kept.head().freshness.usable(&asked, now) {
                    Use::Fresh => return Ok(self.give_kept(kept, outbound, trip, (Outcome::Hit, said), now)),
                    Use::Old => return Ok(self.give_kept(kept, outbound, trip, (Outcome::Stale, said), now)),
                    Use::Stale => {
                        self.renew(ask, kept, &names, outbound, trip);
                        return Ok(self.give_kept(kept, outbound, trip, (Outcome::Stale, said), now));
                    }
                    // Just now no other one was to be had.
                    Use::Validate
                        if !asked.no_cache
                            && kept.head().freshness.stands_in(now)
                            && self.cache.store.is_unfit(&ask.key, now) =>
                    {
                        return Ok(self.stand_in(kept, None, outbound, trip, now));
                    }
                    // It would have done for somebody else.
                    Use::Validate if kept.head().freshness.is_fresh(now) => why = "request",
                    Use::Validate => {}
                }
                alone |= kept.head().freshness.is_never_fresh();
            }
            if asked.only_if_cached {
                return Err(pages::not_kept());
            }
            if outbound.head.method == Method::HEAD || outbound.head.headers.contains_key(RANGE) {
                // Nothing of it could be kept.
                return self.pass(why, outbound, trip).await;
            }
            let is_unfit = kept.is_none() && self.cache.store.is_unfit(&ask.key, now);
            let errand = |lead| Errand { ask, lead, why, is_unfit };
            if alone || is_unfit || rounds >= ROUNDS_MAX {
                return self.fetch(errand(None), kept, outbound, trip).await;
            }
            match self.cache.flights.join(ask.key.clone(), ask.kind(&outbound.head.headers, &names)) {
                Turn::Lead(lead) => return self.fetch(errand(Some(lead)), kept, outbound, trip).await,
                Turn::Alone => alone = true,
                Turn::Follow(mut landing) => {
                    rounds += 1;
                    let landed = landing.wait_for(|landing| !matches!(landing, Landing::Flying));
                    let landed = tokio::time::timeout(FOLLOW_WITHIN, landed).await;
                    match landed.map(|landed| landed.map(|landing| landing.clone())) {
                        Ok(Ok(Landing::Filling(head, filling, length))) => {
                            let now = self.now();
                            let fits = head.is_for(ask.way, &outbound.head.headers) && suits(&head);
                            if fits && head.freshness.usable(&asked, now) == Use::Fresh {
                                let body = Body::Filling(Reader::later(filling, length), Some(length));
                                let said = Said { hit: true, collapsed: true, ..Said::default() };
                                return Ok(self.give(&head, body, outbound, trip, (Outcome::Hit, said), now));
                            }
                            alone = true;
                        }
                        Ok(Ok(Landing::Kept | Landing::Gone | Landing::Flying) | Err(_)) => {}
                        Ok(Ok(Landing::Unfit)) | Err(_) => alone = true,
                    }
                }
            }
        }
    }

    /// Gives what is kept.
    fn give_kept(
        &self,
        kept: &Hand,
        outbound: &Outbound,
        trip: &mut Trip<'_>,
        done: (Outcome, Said),
        now: Timestamp,
    ) -> Response<AnswerBody> {
        self.give(kept.head(), Body::Kept(kept.body.clone()), outbound, trip, done, now)
    }

    /// Gives what is stale, for no other answer is to be had; `status` is that of the one that there was.
    fn stand_in(
        &self,
        kept: &Hand,
        status: Option<StatusCode>,
        outbound: &Outbound,
        trip: &mut Trip<'_>,
        now: Timestamp,
    ) -> Response<AnswerBody> {
        let (fwd, fwd_status) = (status.map(|_| "stale"), status.map(|status| status.as_u16()));
        let said = Said { hit: fwd.is_none(), fwd, fwd_status, detail: Some("stale-if-error"), ..Said::default() };
        self.give_kept(kept, outbound, trip, (Outcome::Stale, said), now)
    }

    /// Gives an answer as its request wants it.
    fn give(
        &self,
        head: &Head,
        body: Body,
        outbound: &Outbound,
        trip: &mut Trip<'_>,
        (outcome, mut said): (Outcome, Said),
        now: Timestamp,
    ) -> Response<AnswerBody> {
        trip.account.cached(outcome);
        let asked = &outbound.head;
        let length = body.length();
        let give = give::give(&asked.method, &asked.headers, head.status, &head.headers, length);
        let (status, mut headers) = give::dressed(&give, head.status, &head.headers, length);
        if said.fwd.is_none() || said.fwd_status == Some(StatusCode::NOT_MODIFIED.as_u16()) || said.detail.is_some() {
            give::age(head, &mut headers, now);
        }
        said.ttl = Some(head.freshness.left_s(now));
        said.say(&mut headers);
        let mut answer = Response::new(body.given(&give));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }

    /// Asks anew for what is stale, beside the request that is given it.
    fn renew(&self, ask: &Ask, kept: &Hand, names: &[HeaderName], outbound: &Outbound, trip: &Trip<'_>) {
        let Some(proxy) = self.me.upgrade() else { return };
        if self.cache.store.is_unfit(&ask.key, self.now()) {
            return;
        }
        let Some(place) = self.cache.renews() else { return };
        // Somebody else may be at it.
        let kind = ask.kind(&outbound.head.headers, names);
        let Turn::Lead(lead) = self.cache.flights.join(ask.key.clone(), kind) else { return };
        let mut head = outbound.head.clone();
        head.method = Method::GET;
        for name in [RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE] {
            head.headers.remove(name);
        }
        let (acts, client, origin) = (trip.acts.clone(), trip.client.clone(), trip.origin.clone());
        let (ask, kept) = (ask.clone(), kept.clone());
        self.spawner.spawn(async move {
            let mut account = Account::aside(&proxy.seer, &client, &head);
            let choice = acts.sharing.as_ref().map(|sharing| sharing.choice(&head, client.lines.ip));
            let mut outbound = Outbound { head, body: OutboundBody::Empty, upgrade: None };
            let (acts, client, origin, choice) = (&acts, &client, &origin, choice.as_ref());
            let mut trip = Trip { acts, client, origin, choice, account: &mut account };
            let errand = Errand { ask: &ask, lead: Some(lead), why: "stale", is_unfit: false };
            // What came of it is kept by now, or comes in.
            drop(proxy.fetch(errand, Some(kept), &mut outbound, &mut trip).await);
            drop(place);
        });
    }

    /// Has an instance answer, or gives an object, in the time that the route gives it.
    pub(super) async fn tell(&self, outbound: &mut Outbound, trip: &mut Trip<'_>) -> Answer {
        let (origin, limit, acts) = (trip.origin, trip.acts.timeout, trip.acts.clone());
        let told = async {
            match &acts.assets {
                Some(spec) => Box::pin(self.give_object(spec, outbound, trip)).await,
                None => self.exchange(outbound, origin, trip.choice, trip.account).await,
            }
        };
        match limit {
            Some(limit) => match tokio::time::timeout(limit, told).await {
                Ok(told) => told,
                Err(_late) => Err(pages::timed_out(origin)),
            },
            None => told.await,
        }
    }
}

/// Where a body comes from.
enum Body {
    Kept(AtHand),
    /// It comes in; the length is said if it is known.
    Filling(Reader, Option<u64>),
}

impl Body {
    fn length(&self) -> Option<u64> {
        match self {
            Body::Kept(AtHand::Memory(bytes)) => Some(bytes.len() as u64),
            Body::Kept(AtHand::File(opened)) => Some(opened.stored.length()),
            Body::Filling(_, length) => *length,
        }
    }

    fn given(self, give: &Give) -> AnswerBody {
        match (give, self) {
            (Give::NotModified | Give::Beyond, _) => AnswerBody::whole(bytes::Bytes::new()),
            (Give::Whole, Body::Kept(AtHand::File(opened))) => AnswerBody::stored(Reading::new(opened, 0..u64::MAX)),
            (Give::Part(range), Body::Kept(AtHand::File(opened))) => {
                AnswerBody::stored(Reading::new(opened, range.clone()))
            }
            (Give::Whole, Body::Kept(AtHand::Memory(bytes))) => AnswerBody::kept(bytes),
            (Give::Part(range), Body::Kept(AtHand::Memory(bytes))) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(bytes.len()).min(bytes.len());
                AnswerBody::kept(bytes.slice(place(range.start)..place(range.end)))
            }
            // Who asks for a part waits for no other one, so this is the whole.
            (Give::Whole | Give::Part(_), Body::Filling(reader, _)) => AnswerBody::filling(reader),
        }
    }
}
