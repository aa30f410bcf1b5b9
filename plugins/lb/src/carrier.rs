//! What carries a request to an instance: a connection of its own in HTTP/1.1, or a stream of one that carries many in HTTP/2.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use hyper::body::Frame;

use crate::budget::Budget;
use crate::links::lane::Lane;
use crate::replay::Failure;
use crate::stream::RequestBody;
use crate::upstream::{Pulse, SendError, Upstream};

/// What carries a request.
#[derive(Debug)]
pub enum Carrier {
    /// A connection of its own.
    Alone(Box<Upstream>),
    /// A connection that carries others too.
    Shared(Box<Lane>),
}

impl Carrier {
    /// Tells a request and waits for the head of the answer; see [`Upstream::send`] and [`Lane::send`].
    pub async fn send(
        &mut self,
        head: &Parts,
        body: RequestBody,
        budget: &Arc<Budget>,
        leave: impl Fn() -> bool,
    ) -> Result<Response<()>, SendError> {
        match self {
            Carrier::Alone(upstream) => upstream.send(head, body, leave).await,
            // Apart, so that others carry no room for it.
            Carrier::Shared(lane) => Box::pin(lane.send(head, body, budget, leave)).await,
        }
    }

    /// Whether that it failed speaks of its connection alone.
    pub fn is_excused(&self, failure: Failure) -> bool {
        match self {
            Carrier::Alone(upstream) => upstream.reused,
            Carrier::Shared(lane) => lane.is_excused(failure),
        }
    }

    /// What others may tell.
    pub fn pulse(&self) -> &Arc<Pulse> {
        match self {
            Carrier::Alone(upstream) => &upstream.pulse,
            Carrier::Shared(lane) => &lane.pulse,
        }
    }

    /// Makes the task of `cx` the one that is woken. To be called before flags are looked at, so that none is missed.
    pub fn attend(&self, cx: &Context<'_>) {
        match self {
            Carrier::Alone(upstream) => upstream.attend(cx),
            Carrier::Shared(lane) => lane.attend(cx),
        }
    }

    /// How much of the answer is still to come, if that is known.
    pub fn body_left(&self) -> Option<u64> {
        match self {
            Carrier::Alone(upstream) => upstream.body_left(),
            Carrier::Shared(lane) => lane.body_left(),
        }
    }

    /// Whether all of the answer has come.
    pub fn is_end(&self) -> bool {
        match self {
            Carrier::Alone(upstream) => upstream.is_end(),
            Carrier::Shared(lane) => lane.is_end(),
        }
    }

    /// Takes the next piece of the answer. After [`Carrier::attend`].
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self {
            Carrier::Alone(upstream) => upstream.poll_body(cx),
            Carrier::Shared(lane) => lane.poll_body(cx),
        }
    }
}
