//! A place for a request on a connection that carries many.

use std::io;
use std::pin::pin;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::timeout;
use tracing::debug;

use super::Proxy;
use super::exchange::{CONNECT_WITHIN, Failed};
use crate::grpc;
use crate::instance::Instance;
use crate::links::lane::Lane;
use crate::links::{Claim, Opening, Place, link};
use crate::replay::Failure;
use crate::table::Way;
use crate::upstream::Stage;

/// An instance says its settings within this time, or is taken for one that does not speak HTTP/2: it does so as soon as a connection
/// is there.
const SETTINGS_WITHIN: Duration = Duration::from_secs(1);

/// When all places are taken, one is waited for so long before the request goes elsewhere: as for a connection.
const PLACE_WITHIN: Duration = CONNECT_WITHIN;

impl Proxy {
    /// A place for a request with these header fields.
    pub(super) async fn lane(&self, instance: &Instance, way: Way, headers: &HeaderMap) -> Result<Box<Lane>, Failed> {
        let place = match instance.pool.links.claim() {
            Claim::Place(place) => place,
            // Rare and large: most requests need no room for it.
            Claim::Open(opening) => Box::pin(self.link(instance, way, opening)).await?,
            Claim::Wait => match timeout(PLACE_WITHIN, Box::pin(self.wait_for_place(instance, way))).await {
                Ok(place) => place?,
                // It has enough to do, which speaks not against it.
                Err(_late) => return Err(Failed { failure: Failure::Refused, reused: false }),
            },
        };
        let pulse = instance.pool.watch();
        if grpc::is_call(headers) {
            // The head of its answer may come with the first message, whenever that is; how long it may take, the client says.
            pulse.enter(Stage::Streaming);
        }
        Ok(Lane::new(place, pulse))
    }

    async fn wait_for_place(&self, instance: &Instance, way: Way) -> Result<Place, Failed> {
        loop {
            let mut freed = pin!(instance.pool.links.freed());
            // From here on nothing is missed.
            freed.as_mut().enable();
            match instance.pool.links.claim() {
                Claim::Place(place) => return Ok(place),
                Claim::Open(opening) => return self.link(instance, way, opening).await,
                Claim::Wait => freed.await,
            }
        }
    }

    async fn link(&self, instance: &Instance, way: Way, opening: Opening<'_>) -> Result<Place, Failed> {
        self.metrics.connects.inc();
        let made = async {
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            let stream = timeout(CONNECT_WITHIN, self.open(&instance.whom, way)).await.map_err(late)??;
            let link =
                timeout(SETTINGS_WITHIN, link::open(stream, opening.freed(), &self.spawner)).await.map_err(late)?;
            link.map_err(link::failed)
        };
        match made.await {
            Ok(link) => Ok(opening.done(link)),
            Err(error) => {
                debug!(instance = %instance.whom, %error, "no connection");
                Err(Failed { failure: Failure::NotWritten, reused: false })
            }
        }
    }
}
