//! Sessions over UDP. All that comes from one address and port of a client is one session, which has one target until it has been idle
//! for a while; what the target answers goes back from the address that the client wrote to.
//!
//! Each session has a socket of its own towards its target, by whose port that tells clients apart. A target that is gone is replaced by
//! another one with the next datagram. What cannot be passed on at once, beyond a few datagrams, is dropped, as everywhere with UDP. The
//! sessions of a port end with it, for their answers need its socket.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hirsel_mesh::seam::{Datagrams, Origin, Sender};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::metrics::Why;
use super::settings::Settings;
use super::tcp::{Door, Mine, Place, Shared};
use crate::budget::Reserved;
use crate::proxy::Carrier;
use crate::serve::ACCEPT_PAUSE;
use crate::table::Table;

/// Datagrams of one session that wait until they can be passed on: as many as a client sends before it expects an answer.
const WAITING_MAX: usize = 32;

/// A datagram of a client that waits, and its part of what may wait in all.
type Waiting = (Vec<u8>, Reserved);

/// A client by its address and port, and the address of this host that it writes to.
type Client = (SocketAddr, Option<IpAddr>);

/// The sessions of a port. Those who are in it hold it weakly, so that they end with it.
#[derive(Default)]
struct Sessions {
    begun: u64,
    by_client: HashMap<Client, (u64, mpsc::Sender<Waiting>)>,
}

/// Takes what comes in at a port, until it is told to end.
pub(super) async fn relay(mut socket: Datagrams, door: Arc<Door>, shared: Arc<Shared>) {
    let (answers, sessions) = (socket.sender(), Arc::<Mutex<Sessions>>::default());
    loop {
        match socket.receive().await {
            Ok((datagram, from)) => dispatch(datagram, from, &answers, &sessions, &door, &shared),
            // So the kernel tells of a client that is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                warn!(%error, port = %door.settings.load().port, "could not receive");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Hands a datagram to its session, which begins with it if there is none.
fn dispatch(
    datagram: &[u8],
    from: Origin,
    answers: &Sender,
    sessions: &Arc<Mutex<Sessions>>,
    door: &Arc<Door>,
    shared: &Arc<Shared>,
) {
    let settings = door.settings.load_full();
    let Some(reserved) = shared.waiting.reserve(datagram.len() as u64) else {
        return settings.counted.refuse(Why::Full);
    };
    let mut waiting = (datagram.to_vec(), reserved);
    let client = (from.peer, from.local);
    let known = locked(sessions).by_client.get(&client).map(|(_, session)| session.clone());
    if let Some(session) = known {
        waiting = match session.try_send(waiting) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => return settings.counted.refuse(Why::Full),
            // It ends at this moment.
            Err(mpsc::error::TrySendError::Closed(waiting)) => waiting,
        };
    }
    if !settings.admits(from.peer.ip()) {
        return settings.counted.refuse(Why::Denied);
    }
    let Some(place) = Place::take(door, shared, &settings) else { return settings.counted.refuse(Why::Full) };
    let (session, queue) = mpsc::channel(WAITING_MAX);
    // There is room: it is the first one.
    let _ = session.try_send(waiting);
    let number = {
        let mut sessions = locked(sessions);
        sessions.begun += 1;
        let number = sessions.begun;
        sessions.by_client.insert(client, (number, session));
        number
    };
    let listed = Listed { sessions: Arc::downgrade(sessions), client, number };
    drop(shared.spawner.spawn(serve(from, queue, answers.clone(), settings, place, listed)));
}

/// What came of a session while it waited.
enum Came {
    /// From the client; nothing when the port was closed.
    Asked(Option<Waiting>),
    /// From the target; nothing when it is gone.
    Answered(io::Result<Option<Vec<u8>>>),
}

/// Serves one session until it is idle for too long, nobody takes it, or its port is closed.
async fn serve(
    client: Origin,
    mut queue: mpsc::Receiver<Waiting>,
    answers: Sender,
    settings: Arc<Settings>,
    place: Place,
    _listed: Listed,
) {
    let (port, proxy) = (settings.port, place.proxy());
    let Some(_mine) = Mine::take(&place.door, client.peer.ip(), settings.client_connections_max) else {
        return settings.counted.refuse(Why::Full);
    };
    let _open = settings.counted.begin();
    let mut carrier: Option<Carrier> = None;
    loop {
        let answered = async {
            match &mut carrier {
                Some(carrier) => carrier.receive().await,
                None => pending().await,
            }
        };
        let came = async {
            tokio::select! {
                asked = queue.recv() => Came::Asked(asked),
                answered = answered => Came::Answered(answered),
            }
        };
        let Ok(came) = timeout(settings.idle_for, came).await else { return };
        match came {
            Came::Asked(None) => return,
            Came::Asked(Some((datagram, _reserved))) => {
                if carrier.as_ref().is_none_or(|carrier| proxy.has_left(carrier)) {
                    let target = |table: &Table, draw| table.origin_of_port(port, || draw).cloned();
                    carrier = proxy.dial_for_datagrams(target, settings.connect_within).await;
                }
                let Some(target) = &mut carrier else {
                    debug!(%port, client = %client.peer, "nobody takes the session");
                    return settings.counted.refuse(Why::NoTarget);
                };
                match target.send(&datagram).await {
                    Ok(()) => {
                        settings.counted.to_target.inc_by(datagram.len() as u64);
                    }
                    Err(error) => {
                        debug!(%port, client = %client.peer, %error, "target is lost");
                        carrier = None;
                    }
                }
            }
            Came::Answered(Ok(Some(datagram))) => {
                if answers.send(&datagram, client).await.is_ok() {
                    settings.counted.to_client.inc_by(datagram.len() as u64);
                }
            }
            Came::Answered(Ok(None) | Err(_)) => carrier = None,
        }
    }
}

/// A session in the list of its port for as long as it lasts.
struct Listed {
    sessions: Weak<Mutex<Sessions>>,
    client: Client,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let Some(sessions) = self.sessions.upgrade() else { return };
        let mut sessions = locked(&sessions);
        if sessions.by_client.get(&self.client).is_some_and(|(number, _)| *number == self.number) {
            sessions.by_client.remove(&self.client);
        }
    }
}

fn locked(sessions: &Mutex<Sessions>) -> MutexGuard<'_, Sessions> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}
