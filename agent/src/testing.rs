//! Small things that unit tests share.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use hirsel_mesh::seam::{BoxStream, real};
use hirsel_model::spec::{Availability, Capacity, NodeSpec};
use hirsel_model::{Incarnation, InstanceId, NodeId, RoleName};
use hirsel_role::host::real::{Groups, GuardConfig, RealHost, RealHostConfig};
use hirsel_role::{Context, Doors, Me, RoleConfig, Spawner};
use tokio::sync::watch;

/// An open node `nID` in zone `a`.
pub fn node_spec(id: u64) -> NodeSpec {
    NodeSpec {
        name: format!("n{id}").parse().expect("a name"),
        addr: ([127, 0, 0, 1], 7400).into(),
        zone: "a".parse().expect("a name"),
        site: "default".parse().expect("a name"),
        labels: Default::default(),
        key: [0; 32],
        incarnation: Incarnation(1),
        availability: Availability::Open,
        capacity: Capacity { cpu_millis: 2000, memory_bytes: 1 << 30 },
        built: [RoleName::lb(), RoleName::compute(), RoleName::mgmt()].into(),
        version: "0.1.0".into(),
    }
}

/// What a role may touch in a test that touches nothing.
pub fn context(spawner: Spawner) -> Context {
    let folder = std::env::temp_dir().join("hirsel-untouched");
    let world = real::world(&folder).expect("a temporary folder");
    let guard = GuardConfig { folder: folder.join("guard"), command: vec!["false".into()] };
    let (shim, groups) = (vec!["false".into()], Groups::Never);
    let config = RealHostConfig { folder, shim, guard, groups, net: world.net.clone() };
    let (_, live) = watch::channel(Arc::default());
    Context {
        me: Me {
            id: NodeId(1),
            name: "n1".parse().expect("a name"),
            zone: "a".parse().expect("a name"),
            instance_host: Ipv4Addr::LOCALHOST.into(),
            bind: Ipv4Addr::LOCALHOST.into(),
        },
        host: Arc::new(RealHost::new(config).expect("a temporary folder")),
        live,
        grants: watch::channel(Arc::default()).1,
        secrets: watch::channel(Arc::default()).1,
        certificates: watch::channel(Arc::default()).1,
        challenges: watch::channel(Arc::default()).1,
        tickets: watch::channel(Arc::default()).1,
        access_keys: watch::channel(Arc::default()).1,
        zone_keys: watch::channel(Arc::default()).1,
        floating: Arc::default(),
        ending: watch::channel(false).1,
        voice: Arc::default(),
        doors: Arc::new(NoDoors),
        peers: Arc::new(hirsel_role::peers::Nobody),
        groups: None,
        clock: world.clock,
        chance: world.chance,
        spawner,
        wake: Arc::default(),
        metrics: Arc::default(),
        requests: Default::default(),
        objects: Default::default(),
        config: RoleConfig::default(),
    }
}

struct NoDoors;

impl Doors for NoDoors {
    fn open<'a>(&'a self, _: NodeId, _: SocketAddr, _: &'a InstanceId) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::NotFound.into())))
    }
    fn publish(&self, _: BTreeMap<InstanceId, SocketAddr>) {}
}
