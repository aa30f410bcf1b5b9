use hirsel_mesh::seam::real::OsClock;
use hirsel_model::NodeId;
use hirsel_model::order::Backend;
use hirsel_model::report::{InstanceFacts, InstanceState, RoleFacts};
use hirsel_model::{RoleName, ServiceName};
use hirsel_role::LiveNode;

use super::*;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

struct Story {
    routes: Routes,
    order: LbOrder,
    live: watch::Sender<Arc<Live>>,
    generation: Generation,
}

/// Instances 1 and 2 of `shop/web`, on this node and on another.
fn story() -> Story {
    let host = "127.0.0.1".parse().unwrap();
    let me = Me { id: ME, name: "n1".parse().unwrap(), zone: "a".parse().unwrap(), instance_host: host, bind: host };
    let (live, hear) = watch::channel(Arc::default());
    let tools = Tools::fixed();
    let mut story = Story {
        routes: Routes::new(me, hear, tools, Arc::new(Notify::new()), Arc::new(OsClock)),
        order: LbOrder::default(),
        live,
        generation: Generation(0),
    };
    for (number, node) in [(1, ME), (2, OTHER)] {
        let backend = Backend {
            node,
            addr: "10.0.0.2:7400".parse().unwrap(),
            zone: "a".parse().unwrap(),
            phase: Phase::Active,
            drain_ms: 30_000,
            protocol: AppProtocol::Http1,
        };
        let key = ("shop".parse().unwrap(), web());
        story.order.backends.entry(key).or_default().insert(id(number), backend);
        let facts =
            InstanceFacts { state: InstanceState::Running, healthy: true, port: 20_001, ..InstanceFacts::default() };
        let compute = RoleFacts::Compute(BTreeMap::from([(id(number), facts)]));
        let facts = BTreeMap::from([(RoleName::compute(), compute)]);
        let heard = LiveNode { liveness: Liveness::Alive, facts, ..LiveNode::default() };
        story.hear(|live| drop(live.nodes.insert(node, heard)));
    }
    story.adopt();
    story
}

fn web() -> ServiceName {
    "web".parse().unwrap()
}

fn id(number: u64) -> InstanceId {
    format!("shop/web/{number}").parse().unwrap()
}

impl Story {
    fn adopt(&mut self) {
        self.generation = self.generation.next();
        self.routes.adopt(self.generation, &Arc::new(self.order.clone()));
    }

    fn hear(&self, change: impl FnOnce(&mut Live)) {
        self.live.send_modify(|live| change(Arc::make_mut(live)));
        self.routes.hear();
    }

    fn backends(&mut self) -> &mut BTreeMap<InstanceId, Backend> {
        self.order.backends.get_mut(&("shop".parse().unwrap(), web())).unwrap()
    }

    fn instance(&self, number: u64) -> Option<Arc<Instance>> {
        self.routes.building().instances.get(&id(number)).cloned()
    }
}

#[test]
fn what_is_kept_of_an_instance_survives_a_new_table() {
    let mut story = story();
    let before = story.instance(1).unwrap();
    before.failed(Timestamp(0));
    story.adopt();
    let after = story.instance(1).unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    assert!(after.is_ejected(Timestamp(0)));
    assert_eq!(story.routes.table().generation, Generation(2));
}

#[test]
fn a_draining_instance_is_reported_until_its_last_request_has_ended() {
    let mut story = story();
    let ticket = story.instance(2).unwrap().take().unwrap();
    assert!(story.routes.draining().is_empty(), "it does not drain yet");
    story.backends().get_mut(&id(2)).unwrap().phase = Phase::Draining;
    story.adopt();
    assert_eq!(story.routes.draining(), BTreeMap::from([(id(2), 1)]));
    assert!(story.instance(2).unwrap().take().is_none());
    drop(ticket);
    assert!(story.routes.draining().is_empty());
}

#[test]
fn an_instance_that_left_the_plan_is_forgotten_with_its_last_request() {
    let mut story = story();
    let ticket = story.instance(2).unwrap().take().unwrap();
    story.backends().remove(&id(2));
    story.adopt();
    assert_eq!(story.routes.draining(), BTreeMap::from([(id(2), 1)]));
    drop(ticket);
    story.routes.hear();
    assert!(story.instance(2).is_none());
}

#[test]
fn requests_are_told_when_the_node_is_not_heard_or_the_process_was_replaced() {
    let mut story = story();
    let near = story.instance(1).unwrap().pool.watch();
    let far = story.instance(2).unwrap().pool.watch();
    story.hear(|live| live.nodes.get_mut(&OTHER).unwrap().liveness = Liveness::Suspect);
    assert!(far.is_lost() && !near.is_lost());
    story.hear(|live| {
        let compute = live.nodes.get_mut(&ME).unwrap().facts.get_mut(&RoleName::compute()).unwrap();
        let RoleFacts::Compute(instances) = compute else { unreachable!() };
        instances.get_mut(&id(1)).unwrap().port = 20_002;
    });
    assert!(near.is_lost());
    assert!(far.over().is_none(), "a node that is not heard may be heard again");
    story.backends().remove(&id(2));
    let _under_way = story.instance(2).unwrap().take();
    story.adopt();
    assert_eq!(far.over(), Some(crate::replay::Failure::Lost), "not heard, and not in the plan: nothing will come");
}

#[test]
fn news_that_change_nothing_swap_nothing() {
    let story = story();
    let mut swaps = story.routes.swaps();
    swaps.borrow_and_update();
    story.routes.hear();
    assert!(!swaps.has_changed().unwrap());
}

#[test]
fn a_node_that_is_missing_from_the_news_is_not_heard_and_this_node_always_is() {
    let silence = Live::default();
    assert_eq!(liveness_of(&silence, OTHER, ME), Liveness::Suspect);
    assert_eq!(liveness_of(&silence, ME, ME), Liveness::Alive);
}
