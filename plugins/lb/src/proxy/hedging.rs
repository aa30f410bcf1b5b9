//! Telling a request to a second instance while the first is slow.

use std::sync::Arc;

use futures::future::{Either, select};
use hirsel_model::Timestamp;

use super::Proxy;
use super::exchange::{Answered, Failed};
use super::outbound::Outbound;
use crate::account::Account;
use crate::instance::Ticket;
use crate::sharing::{Choice, Picked};
use crate::table::{Origin, Way};

impl Proxy {
    /// Tells the request to one instance, and to a second one if the first is slow and the route may; the first answer counts, and who
    /// gives none in time learns that nobody waits.
    pub(super) async fn hedged(
        &self,
        outbound: &mut Outbound,
        service: &Arc<Origin>,
        choice: &Choice<'_>,
        first: (Ticket, Way),
        begun: Timestamp,
        account: &mut Account,
    ) -> Result<Answered, Failed> {
        let limit = choice.try_timeout();
        let instance = first.0.instance().clone();
        let copy = outbound.copied();
        let mut first = Box::pin(self.attempt_within(limit, outbound, service, first, begun));
        let (Some(hedge), Some(mut copy)) = (choice.hedge(), copy) else { return first.await };
        let took = |told: &Result<Answered, Failed>| {
            if told.is_ok() {
                hedge.took(self.now().since(begun));
            }
        };
        if let Ok(told) = tokio::time::timeout(hedge.wait(), &mut first).await {
            took(&told);
            return told;
        }
        let begun_again = self.now();
        // One that is left alone is of no help.
        let picked = match self.has_other(service, &instance) {
            true => self.pick(service, Some(choice), begun_again, (std::slice::from_ref(&instance), false)),
            false => Picked::Nobody,
        };
        let other = match picked {
            Picked::Taken(ticket, way) if hedge.may() => (ticket, way),
            Picked::Taken(..) | Picked::Full(_) | Picked::Nobody => {
                let told = first.await;
                took(&told);
                return told;
            }
        };
        self.metrics.hedges.inc();
        let second_instance = other.0.instance().clone();
        account.tries(&second_instance, begun_again);
        let second = Box::pin(self.attempt_within(limit, &mut copy, service, other, begun_again));
        let told = match select(first, second).await {
            Either::Left((Err(failed), second)) => match second.await {
                Ok(answered) => {
                    self.note(account, &instance, &failed, begun);
                    Ok(answered)
                }
                Err(also) => {
                    self.note(account, &second_instance, &also, begun_again);
                    Err(failed)
                }
            },
            Either::Right((Err(failed), first)) => {
                self.note(account, &second_instance, &failed, begun_again);
                first.await
            }
            Either::Left((answered, _)) => answered,
            Either::Right((answered, _)) => {
                // Nobody will tell how slow it would have been.
                let now = self.now();
                instance.was_slow(now.since(begun), now);
                answered
            }
        };
        took(&told);
        told
    }
}
