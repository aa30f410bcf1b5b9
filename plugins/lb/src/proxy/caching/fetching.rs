//! Having an instance answer what may be kept, or say that what is kept is still good.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::{Answer, Ask, Body, Trip};
use crate::cache::disk::{Draft, SPOOL_BYTES};
use crate::cache::filling::{Filling, Reader};
use crate::cache::flights::{Landing, Lead};
use crate::cache::give::{self, Give, Said};
use crate::cache::kept::{AtHand, Content, Hand, Head, Kept, held};
use crate::cache::policy::{Asker, Times, keep};
use crate::cache::{Cache, Moment, Outcome, strip};
use crate::proxy::Proxy;
use crate::proxy::outbound::Outbound;
use crate::stream::AnswerBody;
use hirsel_model::LogIndex;

/// Where an instance failed, what is stale is given for so long without asking anew.
const FAILING_FOR: Duration = Duration::from_secs(1);

/// A request on its way for what may be kept.
pub(super) struct Errand<'a> {
    pub(super) ask: &'a Ask,
    /// Others wait for it.
    pub(super) lead: Option<Lead>,
    /// Why it goes, in the words of RFC 9211.
    pub(super) why: &'static str,
    /// What came before could not be kept.
    pub(super) is_unfit: bool,
}

/// The moment before it went.
#[derive(Clone, Copy)]
struct Before {
    begun: Moment,
    purged: LogIndex,
}

impl Proxy {
    /// Has an instance answer; `kept` is what there is already, though it may not be given as it is.
    pub(super) async fn fetch(
        &self,
        mut errand: Errand<'_>,
        mut kept: Option<Hand>,
        outbound: &mut Outbound,
        trip: &mut Trip<'_>,
    ) -> Answer {
        let ask = errand.ask;
        // What its client has already is compared here, with an answer that others can be given too. Where nothing could be kept before,
        // the program may do so.
        let conditions = match errand.is_unfit {
            true => None,
            false => Some(take_conditions(&mut outbound.head.headers)),
        };
        let (before, told, times) = loop {
            let before = Before { begun: self.cache.begin(&ask.key), purged: self.cache.purged() };
            let validates = kept.as_ref().filter(|kept| ask_whether(kept.head(), &mut outbound.head.headers));
            let asked = self.now();
            let told = self.tell(outbound, trip).await;
            let times = Times { asked, came: self.now(), wall: self.clock.wall() };
            if conditions.is_some() {
                take_conditions(&mut outbound.head.headers);
            }
            match (validates, &told) {
                (Some(kept), Ok(answer)) if is_about_another(answer, kept.head()) => {}
                (None, Ok(_)) | (_, Err(_)) | (Some(_), Ok(_)) => break (before, told, times),
            }
            // What it says is still good is not what is kept here: asked for without that, it has to say what it is.
            kept = None;
        };
        outbound.head.headers.extend(conditions.unwrap_or_default());
        let (now, status) = (times.came, told.as_ref().unwrap_or_else(|page| page).status());
        if let Some(kept) = kept.as_ref().filter(|_| is_failure(status)) {
            // It is left in peace for a moment.
            self.cache.store.is_unfit_until(&ask.key, now + FAILING_FOR, now);
            if kept.head().freshness.stands_in(now) {
                if let Some(lead) = errand.lead.take() {
                    lead.land(Landing::Kept);
                }
                return Ok(self.stand_in(kept, Some(status), outbound, trip, now));
            }
        }
        trip.account.cached(Outcome::Miss);
        let answer = told.inspect_err(|_| {
            // Nobody waits for the next one to fail.
            if let Some(lead) = &errand.lead {
                lead.land(Landing::Unfit);
            }
        })?;
        match kept.filter(|_| status == StatusCode::NOT_MODIFIED) {
            Some(kept) => Ok(self.freshen(&mut errand, &kept, answer, (before, times), outbound, trip)),
            None => Ok(self.take_in(errand, answer, (before, times), outbound, trip).await),
        }
    }

    /// An instance says that what is kept is still good.
    fn freshen(
        &self,
        errand: &mut Errand<'_>,
        kept: &Hand,
        answer: Response<AnswerBody>,
        (before, times): (Before, Times),
        outbound: &Outbound,
        trip: &mut Trip<'_>,
    ) -> Response<AnswerBody> {
        let ask = errand.ask;
        let merged = kept.head().freshened(answer.headers());
        let said = Said { fwd: Some(errand.why), fwd_status: Some(answer.status().as_u16()), ..Said::default() };
        let freshness = keep(ask.asker, kept.head().status, &merged, &ask.terms.rules, times);
        let head = freshness.and_then(|freshness| {
            let whose = (ask.key.clone(), ask.way, ask.terms.app.clone());
            Head::of(whose, &outbound.head.headers, (kept.head().status, merged), freshness, (times, before.purged))
        });
        let content = kept.kept.body.clone();
        let reserved = head.as_ref().and_then(|head| self.cache.head(&content, head));
        let (Some(head), Some(reserved)) = (head, reserved) else {
            // It says now that nobody shall keep it, or it was asked for by somebody who is known, or there is no room.
            return self.give_kept(kept, outbound, trip, (Outcome::Revalidated, said), times.came);
        };
        let fresh = Arc::new(Kept::new(Arc::new(head), content, reserved));
        let stored = self.cache.put(&fresh, before.begun);
        let fresh = Hand { kept: fresh, body: kept.body.clone() };
        if let Some(lead) = errand.lead.take() {
            lead.land(landing(stored && fresh.head().freshness.is_fresh(times.came)));
        }
        self.give_kept(&fresh, outbound, trip, (Outcome::Revalidated, Said { stored, ..said }), times.came)
    }

    /// An instance answered: keeps that if it may be kept.
    async fn take_in(
        &self,
        mut errand: Errand<'_>,
        answer: Response<AnswerBody>,
        (before, times): (Before, Times),
        outbound: &Outbound,
        trip: &mut Trip<'_>,
    ) -> Response<AnswerBody> {
        let (ask, cache, now) = (errand.ask, &self.cache, times.came);
        let said = Said { fwd: Some(errand.why), fwd_status: Some(answer.status().as_u16()), ..Said::default() };
        let (parts, body) = answer.into_parts();
        let asked = &outbound.head.headers;
        let freshness =
            keep(ask.asker, parts.status, &parts.headers, &ask.terms.rules, times).filter(|_| cache.is_on());
        let head = freshness.and_then(|freshness| {
            let whose = (ask.key.clone(), ask.way, ask.terms.app.clone());
            let told = (parts.status, parts.headers.clone());
            Head::of(whose, asked, told, freshness, (times, before.purged))
        });
        let Some(head) = head.map(Arc::new) else {
            // Not because of who asked for it.
            let anybody = Asker::default();
            let is_of_no_use = || keep(anybody, parts.status, &parts.headers, &ask.terms.rules, times).is_none();
            if !is_failure(parts.status) && is_of_no_use() {
                // What is kept is older than this.
                if matches!(errand.why, "stale" | "request") {
                    cache.change(&ask.key);
                }
                cache.is_unfit(&ask.key, now);
            }
            return pass_on(errand, parts, body, said, outbound);
        };
        let body = match body.into_whole() {
            Ok(bytes) => {
                let room = (bytes.len() as u64 <= cache.one_bytes_max())
                    .then(|| cache.store.reserve(bytes.len() as u64).zip(cache.store.reserve(head.weight())))
                    .flatten();
                let Some((of_body, of_head)) = room else {
                    return pass_on(errand, parts, AnswerBody::kept(bytes), said, outbound);
                };
                // A copy of its own: the piece may hold on to a buffer much larger than itself.
                let bytes = held(bytes.to_vec(), of_body);
                let kept = Arc::new(Kept::new(head, Content::Memory(bytes.clone()), of_head));
                let stored = cache.put(&kept, before.begun);
                let kept = Hand { kept, body: AtHand::Memory(bytes) };
                if let Some(lead) = errand.lead.take() {
                    lead.land(landing(stored && kept.head().freshness.is_fresh(now)));
                }
                return self.give_kept(&kept, outbound, trip, (Outcome::Miss, Said { stored, ..said }), now);
            }
            Err(body) if !body.is_passing() => return pass_on(errand, parts, body, said, outbound),
            Err(body) => body,
        };
        let length = body.size_hint().exact();
        let draft = match length.filter(|length| cache.is_for_disk(*length)) {
            Some(_) => cache.draft(length, now).await,
            None => None,
        };
        let in_memory = match draft.is_some() {
            true => SPOOL_BYTES.min(cache.one_bytes_max()),
            false => length.unwrap_or(0),
        };
        if draft.is_none() && in_memory > cache.one_bytes_max() {
            // It will be the next time, too.
            cache.is_unfit(&ask.key, now);
            return pass_on(errand, parts, body, said, outbound);
        }
        let Some(reserved) = cache.store.reserve(in_memory) else {
            return pass_on(errand, parts, body, said, outbound);
        };
        let filling = Filling::new(reserved);
        if let (Some(lead), Some(length)) = (&errand.lead, length)
            && draft.as_ref().is_none_or(|draft| draft.is_sure)
            && head.freshness.is_fresh(now)
        {
            lead.land(Landing::Filling(head.clone(), filling.clone(), length));
        }
        let (lead, begun) = (errand.lead.take(), before.begun);
        let fill = Fill { cache: cache.clone(), lead, head: head.clone(), begun, length, draft };
        let reader = Reader::first(filling.clone(), length);
        let clock = self.clock.clone();
        self.spawner.spawn(async move { fill.run(&filling, body, || clock.now()).await });
        self.give(
            &head,
            Body::Filling(reader, length),
            outbound,
            trip,
            (Outcome::Miss, Said { stored: true, ..said }),
            now,
        )
    }
}

/// A body that is taken in.
struct Fill {
    cache: Arc<Cache>,
    lead: Option<Lead>,
    head: Arc<Head>,
    begun: Moment,
    length: Option<u64>,
    /// Where it goes, if that is not memory.
    draft: Option<Draft>,
}

impl Fill {
    /// Takes all of it in, and keeps it if it is whole.
    async fn run(mut self, filling: &Filling, mut body: AnswerBody, now: impl Fn() -> hirsel_model::Timestamp) {
        let (mut came, mut trailer) = (0, None);
        while !body.is_end_stream() {
            let frame = match body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return filling.break_off(&error),
                None => break,
            };
            match frame.into_data() {
                Ok(bytes) => {
                    let more = bytes.len() as u64;
                    came += more;
                    let most = self.cache.one_bytes_max();
                    // Room for one of known length was made before.
                    let has_room = self.length.is_some() || self.draft.is_some();
                    let fits = filling.push(&bytes, |reserved| has_room || self.cache.store.grow(reserved, more, most));
                    let fits = match &mut self.draft {
                        Some(draft) => {
                            let written = self.cache.write(draft, &bytes, now()).await;
                            let (file, until) = draft.written();
                            filling.is_written(file, until);
                            written
                        }
                        None => fits || self.sinks(filling, now()).await,
                    };
                    if !fits {
                        self.cache.is_unfit(&self.head.key, now());
                        self.land(Landing::Unfit);
                        return filling.hand_over(body);
                    }
                }
                Err(frame) => trailer = frame.into_trailers().ok(),
            }
        }
        if self.length.is_some_and(|length| length != came) {
            return filling.break_off(&io::ErrorKind::UnexpectedEof.into());
        }
        // Fields behind a body are for the one who asked.
        if let Some(draft) = self.draft.take().filter(|_| trailer.is_none()) {
            let stored = self.cache.settle(&self.head, draft, self.begun, now()).await;
            self.land(landing(stored && self.head.freshness.is_fresh(now())));
            return filling.finish(None, None);
        }
        let room = if trailer.is_none() { self.cache.store.reserve(self.head.weight()) } else { None };
        let whole = room.and_then(|of_head| {
            let (of_body, whole) = filling.take()?;
            let body = held(whole, of_body);
            let kept = Arc::new(Kept::new(self.head.clone(), Content::Memory(body.clone()), of_head));
            let stored = self.cache.put(&kept, self.begun);
            self.land(landing(stored && kept.head.freshness.is_fresh(now())));
            Some(body)
        });
        if whole.is_none() {
            self.land(Landing::Unfit);
        }
        filling.finish(whole, trailer);
    }

    /// It is more than memory takes: has it go to disk from here on, with all that has come. False where it does not.
    async fn sinks(&mut self, filling: &Filling, now: hirsel_model::Timestamp) -> bool {
        let Some(mut draft) = self.cache.draft(None, now).await else { return false };
        for piece in filling.so_far() {
            if !self.cache.write(&mut draft, &piece, now).await {
                return false;
            }
            let (file, until) = draft.written();
            filling.is_written(file, until);
        }
        self.draft = Some(draft);
        true
    }

    fn land(&self, landing: Landing) {
        if let Some(lead) = &self.lead {
            lead.land(landing);
        }
    }
}

fn landing(is_fresh: bool) -> Landing {
    if is_fresh { Landing::Kept } else { Landing::Unfit }
}

/// Gives an answer that is not kept to the one who asked; the others go by themselves.
fn pass_on(
    errand: Errand<'_>,
    mut parts: http::response::Parts,
    body: AnswerBody,
    said: Said,
    outbound: &Outbound,
) -> Response<AnswerBody> {
    if let Some(lead) = errand.lead {
        lead.land(Landing::Unfit);
    }
    let asked = &outbound.head;
    let mut body = body;
    // The program was not told what its client has.
    if !errand.is_unfit
        && give::give(&asked.method, &asked.headers, parts.status, &parts.headers, None) == Give::NotModified
    {
        (parts.status, parts.headers) = give::dressed(&Give::NotModified, parts.status, &parts.headers, None);
        body = AnswerBody::whole(Bytes::new());
    }
    strip(&mut parts.headers);
    said.say(&mut parts.headers);
    Response::from_parts(parts, body)
}

/// Whether an answer that says that something is still good is about something else than what is kept (RFC 9111, section 4.3.4).
fn is_about_another(answer: &Response<AnswerBody>, head: &Head) -> bool {
    let bare = |tag: &HeaderValue| tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes()).to_vec();
    let tag = |headers: &HeaderMap| headers.get(ETAG).map(bare);
    let said = tag(answer.headers());
    answer.status() == StatusCode::NOT_MODIFIED && said.is_some() && said != tag(&head.headers)
}

/// Statuses for which what is stale may stand in (RFC 5861, section 4).
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502..=504)
}

/// Takes out what is compared here.
fn take_conditions(headers: &mut HeaderMap) -> HeaderMap {
    let mut taken = HeaderMap::new();
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE] {
        for value in headers.get_all(&name) {
            taken.append(name.clone(), value.clone());
        }
        headers.remove(&name);
    }
    taken
}

/// Asks whether what is kept is still good, if it says by what that could be told (RFC 9111, section 4.3.1).
fn ask_whether(head: &Head, headers: &mut HeaderMap) -> bool {
    let (tag, changed) = (head.headers.get(ETAG), head.headers.get(LAST_MODIFIED));
    if let Some(tag) = tag {
        headers.insert(IF_NONE_MATCH, tag.clone());
    }
    if let Some(changed) = changed {
        headers.insert(IF_MODIFIED_SINCE, changed.clone());
    }
    tag.is_some() || changed.is_some()
}
