//! The path of one request: find its service, choose an instance, send, and see to it that a failure of the instance is not the
//! client's.
//!
//! Invariants: nothing of an answer goes out before it is decided that there will be no other try; a request that must not repeat is
//! written once; a draining instance gets no new request.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hirsel_mesh::seam::Clock;
use hirsel_model::Timestamp;
use hirsel_model::spec::Block;
use hirsel_role::secret::Values;
use hirsel_role::storage::Window;
use hirsel_role::{Doors, Host, Spawner};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use tokio::sync::watch;

use crate::account::Account;
use crate::actions::compress::encoder::Room;
use crate::actions::rate::among::Among;
use crate::actions::{Acts, Tools};
use crate::budget::{Budget, KEPT_BYTES_MAX};
use crate::cache::Cache;
use crate::challenge::Challenges;
use crate::client::Client;
use crate::clients;
use crate::grpc;
use crate::headers::{self, BadHead};
use crate::incoming::Incoming;
use crate::metrics::Metrics;
use crate::pages;
use crate::probe;
use crate::replay::BODY_KEPT_BYTES_MAX;
use crate::routes::Routes;
use crate::seer::Seer;
use crate::stream::{AnswerBody, RequestBody};
use crate::table::Origin;
use crate::ways::Finding;
use crate::websocket;

mod acting;
mod assets;
mod caching;
mod dial;
mod exchange;
mod hedging;
mod outbound;
mod shared;

pub use dial::{Carrier, Dialled, Target};
pub use exchange::CONNECT_WITHIN;
use outbound::{Outbound, OutboundBody};

/// A small body must be whole after this time: slow writers shall not hold memory.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Why a request is refused whose path is one of several routes, depending on who reads it.
const AMBIGUOUS: &str = "the path of the request can be read in several ways (\"//\", \"..\", \"%\", \";\"), which lead to different places: write it plainly";

/// Everything a request needs on its way.
pub struct Proxy {
    /// Where requests go.
    pub routes: Routes,
    /// What is counted.
    pub metrics: Metrics,
    /// What sees each request.
    pub seer: Arc<Seer>,
    /// Answers that are kept.
    pub cache: Arc<Cache>,
    /// Rates that hold for all load balancers together.
    pub among: Arc<Among>,
    /// Itself, for what goes on beside a request.
    me: Weak<Proxy>,
    challenges: Challenges,
    /// Who says by the PROXY protocol whom it connects for.
    accept_proxy: Vec<Block>,
    host: Arc<dyn Host>,
    doors: Arc<dyn Doors>,
    clock: Arc<dyn Clock>,
    spawner: Spawner,
    budget: Arc<Budget>,
    /// Where objects are had.
    objects: Window,
    /// What of objects may be in memory.
    of_objects: Arc<Budget>,
    secrets: watch::Receiver<Arc<Values>>,
    /// Where answers are encoded.
    encoders: Room,
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

impl Proxy {
    /// A proxy that knows no route yet. `seed` comes from the injected chance.
    pub fn new(context: &hirsel_role::Context, metrics: Metrics) -> Arc<Self> {
        Arc::new_cyclic(|me| Self::knowing(me, context, metrics))
    }

    fn knowing(me: &Weak<Self>, context: &hirsel_role::Context, metrics: Metrics) -> Self {
        let disk_bytes = context.config.cache_disk_bytes;
        let scratch = context.host.scratch().filter(|_| disk_bytes > 0);
        let disk = scratch.map(|scratch| (disk_bytes, scratch, context.chance.number() >> 1));
        let tools = Tools::new(context.chance.as_ref(), context.config.https_port);
        let seer = Arc::new(Seer::new(context, tools.meters.clone()));
        let among = tools.among.clone();
        among.listen(&*context.peers, context.clock.clone());
        Self {
            routes: Routes::new(
                context.me.clone(),
                context.live.clone(),
                tools,
                context.wake.clone(),
                context.clock.clone(),
            ),
            seer,
            among,
            cache: Arc::new(Cache::new(context.config.cache_bytes, disk)),
            me: me.clone(),
            secrets: context.secrets.clone(),
            encoders: Room::default(),
            metrics,
            challenges: Challenges::new(context.challenges.clone()),
            accept_proxy: context.config.accept_proxy.clone(),
            host: context.host.clone(),
            doors: context.doors.clone(),
            clock: context.clock.clone(),
            spawner: context.spawner.clone(),
            budget: Budget::new(KEPT_BYTES_MAX),
            objects: context.objects.clone(),
            of_objects: Budget::new(assets::OBJECTS_BYTES_MAX),
            chance: AtomicU64::new(context.chance.number()),
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether whoever connects from here says by the PROXY protocol whom it connects for, and is believed.
    pub fn trusts(&self, remote: IpAddr) -> bool {
        self.accept_proxy.iter().any(|block| block.holds(remote))
    }

    /// Whether any host is passed on encrypted.
    pub fn passes_any(&self) -> bool {
        self.routes.table().ways.pass_any()
    }

    /// Answers one request of `client`. Never fails: what goes wrong is an answer too.
    pub async fn answer(&self, client: &Arc<Client>, request: Request<Incoming>) -> Response<AnswerBody> {
        let busy = client.begin();
        if let Some(answer) = probe::answer(&request) {
            return answer.map(|body| body.keeping(busy));
        }
        let mut account = Account::begin(&self.seer, client, &request);
        let asks_for_head = request.method() == Method::HEAD;
        let calls = request.version() >= Version::HTTP_2 && grpc::is_call(request.headers());
        let mut answer = match self.challenges.answer(&request) {
            Some(answer) => answer,
            None => self.forward(client, request, &mut account).await,
        };
        if asks_for_head {
            pages::withhold(&mut answer);
        }
        self.metrics.answered(answer.status());
        account.sees(&answer);
        if calls {
            answer = grpc::spoken(answer);
        }
        account.go_along(answer).map(|body| body.keeping(busy))
    }

    async fn forward(
        &self,
        client: &Arc<Client>,
        mut request: Request<Incoming>,
        account: &mut Account,
    ) -> Response<AnswerBody> {
        clients::strip(request.headers_mut());
        websocket::translate(&mut request, || self.draw());
        let protocol = headers::wanted_upgrade(request.headers());
        let upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut head, incoming) = request.into_parts();
        let lead = match self.lead(&head, client.lines.ip, account) {
            Ok(lead) => lead,
            Err(refusal) => {
                account.takes_none(&head);
                return refusal;
            }
        };
        let origin = match lead {
            Lead::Plain(origin) => origin,
            // Apart, so that plain requests carry no room for it.
            Lead::Acts(acts, origin) => {
                let taken = Taken { head, incoming, protocol, upgrade };
                return Box::pin(self.act(client, &acts, origin, taken, account)).await;
            }
        };
        if let Err(bad) = headers::prepare_request(&mut head, &client.lines, protocol) {
            return bad_head(bad);
        }
        account.tell(&mut head.headers, || self.draw());
        let Some(body) = self.body_of(incoming).await else { return pages::cut_short() };
        let upgrade = upgrade.map(|upgrade| (upgrade, client.clone()));
        let mut outbound = Outbound { head, body, upgrade };
        self.exchange(&mut outbound, &origin, None, account).await.unwrap_or_else(|refusal| refusal)
    }

    /// Where a request leads, or the page that says why nowhere.
    #[expect(clippy::result_large_err, reason = "the refusal is the answer itself")]
    fn lead(&self, head: &Parts, client: IpAddr, account: &mut Account) -> Result<Lead, Response<AnswerBody>> {
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
        account.takes(table.ways.watch(route), head);
        let acts = table.ways.acts(route);
        // Requests that are alike go to one service, too.
        let alike = || acts?.sharing.as_ref()?.key(head, client);
        // And so does a session, to where it was answered before.
        let held = || table.origin_of_session(route, acts?.sharing.as_ref()?.session(head)?);
        let origin = held().or_else(|| table.origin(route, || alike().unwrap_or_else(|| self.draw()))).cloned();
        match (acts, origin) {
            (None, Some(origin)) => Ok(Lead::Plain(origin)),
            (Some(acts), origin) => Ok(Lead::Acts(acts.clone(), origin)),
            (None, None) => Err(pages::not_understood()),
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
        Some(match whole.trailers().cloned() {
            None => OutboundBody::Whole(whole.to_bytes(), reserved),
            Some(trailer) => OutboundBody::Trailed(whole.to_bytes(), Box::new(trailer), reserved),
        })
    }

    fn draw(&self) -> u64 {
        // Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators" (SplitMix64).
        let mut z = self.chance.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn bad_head(bad: BadHead) -> Response<AnswerBody> {
    match bad {
        BadHead::Host => pages::bad_request("the request names no valid host: exactly one Host header is expected"),
        BadHead::Target => pages::bad_request("the target of the request is no path"),
        BadHead::Loop => pages::going_round(),
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("routes", &self.routes).finish_non_exhaustive()
    }
}
