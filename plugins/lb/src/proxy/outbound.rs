//! A request on its way out, to be told as often as that is possible.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;

use crate::budget::Reserved;
use crate::client::Client;
use crate::replay::{Repeatable, is_idempotent};
use crate::stream::{Limited, Pieced, RequestBody};

/// A request on its way out: as it is told, again and again if need be.
pub(super) struct Outbound {
    pub(super) head: Parts,
    pub(super) body: OutboundBody,
    /// What the client's connection becomes if the instance agrees.
    pub(super) upgrade: Option<(OnUpgrade, Arc<Client>)>,
}

pub(super) enum OutboundBody {
    Empty,
    /// That of another one, which keeps it at hand.
    Lent(Bytes),
    Whole(Bytes, #[expect(dead_code, reason = "given back to the budget when dropped")] Reserved),
    /// The same, and what comes behind it.
    Trailed(Bytes, Box<HeaderMap>, #[expect(dead_code, reason = "given back to the budget when dropped")] Reserved),
    Passing(RequestBody),
    /// It was passed on, and cannot be told again.
    Gone,
}

impl Outbound {
    pub(super) fn repeatable(&self) -> Repeatable {
        match self.body {
            OutboundBody::Empty | OutboundBody::Lent(_) | OutboundBody::Whole(..) | OutboundBody::Trailed(..)
                if is_idempotent(&self.head.method) =>
            {
                Repeatable::Yes
            }
            _ => Repeatable::No,
        }
    }

    /// The same request, to be told beside this one; none if it may not be carried out twice, or wants to be more than a request.
    pub(super) fn copied(&self) -> Option<Self> {
        let body = match &self.body {
            OutboundBody::Empty => OutboundBody::Empty,
            OutboundBody::Lent(bytes) | OutboundBody::Whole(bytes, _) => OutboundBody::Lent(bytes.clone()),
            OutboundBody::Trailed(..) | OutboundBody::Passing(_) | OutboundBody::Gone => return None,
        };
        let may = self.repeatable() == Repeatable::Yes && self.upgrade.is_none();
        may.then(|| Self { head: self.head.clone(), body, upgrade: None })
    }

    /// The body to be told, or none if it is gone.
    pub(super) fn told(&mut self) -> Option<RequestBody> {
        match &self.body {
            OutboundBody::Empty => Some(RequestBody::Empty),
            OutboundBody::Lent(bytes) | OutboundBody::Whole(bytes, _) => Some(RequestBody::Whole(bytes.clone())),
            OutboundBody::Trailed(bytes, trailer, _) => {
                let (pieces, trailer) = (VecDeque::from([bytes.clone()]), Some((**trailer).clone()));
                Some(RequestBody::Pieced(Box::new(Pieced {
                    pieces,
                    rest: RequestBody::Empty,
                    trailer,
                    reserved: None,
                })))
            }
            OutboundBody::Gone => None,
            OutboundBody::Passing(_) => match std::mem::replace(&mut self.body, OutboundBody::Gone) {
                OutboundBody::Passing(body) => Some(body),
                _ => None,
            },
        }
    }

    /// Takes back what was not written, so that it can be told again.
    pub(super) fn take_back(&mut self, unsent: RequestBody) {
        match unsent {
            RequestBody::Empty if self.is_gone() => self.body = OutboundBody::Empty,
            // Of these there is another.
            RequestBody::Empty | RequestBody::Whole(_) => {}
            RequestBody::Pieced(_) if !self.is_gone() => {}
            RequestBody::Passing(_) | RequestBody::Limited(_) | RequestBody::Pieced(_) => {
                self.body = OutboundBody::Passing(unsent);
            }
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.body, OutboundBody::Gone)
    }
}

impl OutboundBody {
    /// The same, at most `bytes_max` of it. One at hand was looked at when it came.
    pub(super) fn limited(self, bytes_max: u64, exceeded: &Arc<AtomicBool>) -> Self {
        match self {
            OutboundBody::Passing(RequestBody::Passing(incoming)) => {
                let limited = Limited::new(incoming, bytes_max, exceeded.clone());
                OutboundBody::Passing(RequestBody::Limited(Box::new(limited)))
            }
            whole => whole,
        }
    }
}
