//! The path of a request whose route does more than passing it on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{EXPECT, SET_COOKIE};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::caching::{self, Ask, Trip};
use super::outbound::Outbound;
use super::{Proxy, Taken, bad_head};
use crate::account::Account;
use crate::actions::Acts;
use crate::actions::auth::Verdict;
use crate::actions::errors::By;
use crate::client::Client;
use crate::clients;
use crate::grpc;
use crate::headers;
use crate::incoming::Incoming;
use crate::pages;
use crate::stream::AnswerBody;
use crate::table::Origin;

/// Of a body that is refused so much is read on.
const DRAINED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// And for so long.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// Why a request is refused whose path cannot be changed as its route says.
const ASTRAY: &str = "the path of the request leads out of where its route puts it (\"..\"), or is none when it is there: write it plainly";

impl Proxy {
    /// Answers a request of a route that does more than passing it on.
    pub(super) async fn act(
        &self,
        client: &Arc<Client>,
        acts: &Arc<Acts>,
        origin: Option<Arc<Origin>>,
        taken: Taken,
        account: &mut Account,
    ) -> Response<AnswerBody> {
        let leave = acts.leave(&taken.head.headers);
        let compression = acts.compression.as_ref();
        let wish = compression.map(|compression| compression.wish(&taken.head));
        let mut answer = match self.acted(client, acts, origin, taken, account).await {
            Ok(answer) => acts.dress(answer, By::Program),
            Err(refusal) => acts.dress(refusal, By::Us),
        };
        acts.finish(answer.headers_mut(), leave);
        match compression.zip(wish) {
            // What comes behind the answer to a call is its status, and speaks of it as it is.
            Some(_) if grpc::is_call(answer.headers()) => answer,
            Some((compression, wish)) => compression.encode(wish, answer, &self.encoders),
            None => answer,
        }
    }

    /// The answer of a program, or of the route itself; or the page that says why there is none.
    async fn acted(
        &self,
        client: &Arc<Client>,
        acts: &Arc<Acts>,
        origin: Option<Arc<Origin>>,
        taken: Taken,
        account: &mut Account,
    ) -> Result<Response<AnswerBody>, Response<AnswerBody>> {
        let Taken { mut head, incoming, protocol, upgrade } = taken;
        let mut buffer = String::new();
        let host = headers::host_of(&head, &mut buffer).unwrap_or_default().to_owned();
        let proof = client.proof().map(|proof| &**proof);
        if let Some(refusal) = acts.refuse(&head, &host, (&client.lines, proof), self.now()) {
            return Err(refusal);
        }
        let shows = acts.demand.is_some() && proof.is_some_and(|proof| proof.shown.is_some());
        if let Some(proof) = client.proof().filter(|_| shows) {
            account.proves(proof);
        }
        let is_known = shows || caching::is_known(&head, acts);
        if let Some(auth) = &acts.auth {
            let secrets = self.secrets.borrow().clone();
            match auth.admit(&mut head.headers, client.lines.ip, self.now(), &secrets).await {
                Verdict::Right => {}
                Verdict::Wrong => return Err(pages::unauthorized(auth.challenge.clone())),
                Verdict::TooMany(wait) => return Err(pages::too_many(wait)),
            }
        }
        let limit = acts.body_bytes_max;
        if let Some(bytes_max) = limit.filter(|bytes_max| incoming.size_hint().lower() > *bytes_max) {
            // Whoever asked before sending is told in time.
            if !head.headers.contains_key(EXPECT) {
                drain(incoming).await;
            }
            return Err(pages::too_large(bytes_max));
        }
        if let Some(answer) = acts.own_answer(&host, &head.uri) {
            return Ok(answer);
        }
        let Some(origin) = origin else { return Err(pages::not_understood()) };
        let choice = acts.sharing.as_ref().map(|sharing| sharing.choice(&head, client.lines.ip));
        if let Err(bad) = headers::prepare_request(&mut head, &client.lines, protocol) {
            return Err(bad_head(bad));
        }
        if acts.demand.is_some() {
            clients::tell(&mut head.headers, proof);
        }
        let is_plain = upgrade.is_none() && incoming.is_end_stream();
        let ask = acts.kept.as_ref().and_then(|terms| Ask::of(terms, &mut head, client, is_known, is_plain));
        account.tell(&mut head.headers, || self.draw());
        if !acts.prepare(&mut head) {
            return Err(pages::bad_request(ASTRAY));
        }
        let Some(mut body) = self.body_of(incoming).await else { return Err(pages::cut_short()) };
        let exceeded = Arc::new(AtomicBool::new(false));
        if let Some(bytes_max) = limit {
            body = body.limited(bytes_max, &exceeded);
        }
        let upgrade = upgrade.map(|upgrade| (upgrade, client.clone()));
        let mut outbound = Outbound { head, body, upgrade };
        let mut trip = Trip { acts, client, origin: &origin, choice: choice.as_ref(), account };
        let answered = match ask {
            // Apart, so that other requests carry no room for it.
            Some(ask) => Box::pin(self.through_cache(ask, &mut outbound, &mut trip)).await,
            None => self.tell(&mut outbound, &mut trip).await,
        };
        // What is kept belongs to no session.
        let asked = choice.as_ref().filter(|_| trip.account.has_tried());
        let cookie = asked.and_then(|choice| choice.cookie(client.lines.encrypted));
        let answered = answered.map(|mut answer| {
            answer.headers_mut().extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
            answer
        });
        match (answered, limit) {
            (Err(_), Some(bytes_max)) if exceeded.load(Ordering::Acquire) => Err(pages::too_large(bytes_max)),
            (answered, _) => answered,
        }
    }
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
