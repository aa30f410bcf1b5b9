//! All routes, by host: built once for an order, whatever is heard of instances afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use hirsel_model::AppName;
use hirsel_model::spec::{AccessLog, Actions, Respond, RouteSpec, Target};
use http::request::Parts;

use crate::actions::{Acts, Tools};
use crate::matching::{Drafts, Rules};
use crate::meter::Watch;
use crate::paths::{self, SPELLED_BYTES_MAX};

/// Which route takes a request. A route is known by its number in the order.
#[derive(Debug, Default)]
pub struct Ways {
    /// By the name itself.
    hosts: HashMap<String, Rules<usize>>,
    /// By what follows the first label.
    wildcards: HashMap<String, Rules<usize>>,
    any_host: Rules<usize>,
    /// Routes of hosts that are passed on encrypted, by the host as it is written.
    passed: HashMap<String, usize>,
    /// What each route does besides; none for a plain one.
    acts: Vec<Option<Arc<Acts>>>,
    /// What is seen of the requests of each route.
    watches: Vec<Arc<Watch>>,
    /// Routes that this build cannot carry out, and why, in words.
    pub left_out: Vec<String>,
}

/// Where a request leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// By the route with this number.
    Route(usize),
    /// No route takes it.
    Nowhere,
    /// Its path can be read in ways that lead to different routes.
    Ambiguous,
}

impl Ways {
    /// Puts `routes` in order. `usual` is how requests are written down where a route does not say. `before` are the routes of the order
    /// before, and how they were carried out: what a route does that has not changed is not made anew.
    pub fn build(
        routes: &[(AppName, RouteSpec)],
        usual: Option<AccessLog>,
        tools: &Tools,
        before: (&[(AppName, RouteSpec)], &Self),
    ) -> Self {
        let mut ways = Self::default();
        let mut hosts: HashMap<&str, Drafts<usize>> = HashMap::new();
        let known = Known::of(before);
        for (number, (app, route)) in routes.iter().enumerate() {
            let in_clear = route.is_passed_through().then(|| in_clear(route));
            if in_clear.is_some() {
                ways.passed.insert(route.host.to_ascii_lowercase(), number);
            }
            let in_clear = in_clear.as_ref().unwrap_or(route);
            if let Err(error) = hosts.entry(&route.host).or_default().add(route, number) {
                ways.left_out.push(format!("route {route} of {app} is left out, this hirsel cannot read it: {error}"));
            }
            let acts = known.same(app, route).unwrap_or_else(|| {
                let acts = Acts::of(app, in_clear, tools, former(app, route, before)).unwrap_or_else(|error| {
                    let words = format!("route {route} of {app} answers 503, this hirsel cannot read it: {error}");
                    ways.left_out.push(words);
                    Some(Acts::closed())
                });
                acts.map(Arc::new)
            });
            ways.acts.push(acts);
            ways.watches.push(Watch::of(app, route, usual, &tools.meters));
        }
        for (host, drafts) in hosts {
            let rules = drafts.finish();
            match host.strip_prefix("*.") {
                Some(domain) => drop(ways.wildcards.insert(domain.to_ascii_lowercase(), rules)),
                None if host == "*" => ways.any_host = rules,
                None => drop(ways.hosts.insert(host.to_ascii_lowercase(), rules)),
            }
        }
        ways
    }

    /// What the route with this number does besides.
    pub fn acts(&self, route: usize) -> Option<&Arc<Acts>> {
        self.acts.get(route)?.as_ref()
    }

    /// What is seen of the requests of the route with this number.
    pub fn watch(&self, route: usize) -> &Arc<Watch> {
        &self.watches[route]
    }

    /// Whether any host is passed on encrypted.
    pub fn pass_any(&self) -> bool {
        !self.passed.is_empty()
    }

    /// The route of `host` (lower case) if it is passed on encrypted: as in [`Ways::find`], the host itself comes before `*.`, and that
    /// before `*`.
    pub fn passes(&self, host: &str) -> Option<usize> {
        if self.passed.is_empty() || self.hosts.contains_key(host) {
            return self.passed.get(host).copied();
        }
        match host.split_once('.') {
            Some((label, domain)) if !label.is_empty() && self.wildcards.contains_key(domain) => {
                self.passed.get(&format!("*.{domain}")).copied()
            }
            _ => self.passed.get("*").copied(),
        }
    }

    /// Where a request for `host` (lower case, no port) leads: by the host itself before `*.`, by that before `*`, and in the order
    /// of [`crate::matching`] among the routes of one host.
    pub fn find(&self, host: &str, head: &Parts) -> Finding {
        let exact = self.hosts.get(host);
        if let Some(route) = exact.and_then(Rules::only) {
            return Finding::Route(*route);
        }
        let wildcard = match host.split_once('.') {
            Some((label, domain)) if !label.is_empty() && !self.wildcards.is_empty() => self.wildcards.get(domain),
            _ => None,
        };
        if exact.is_none()
            && let Some(route) = wildcard.unwrap_or(&self.any_host).only()
        {
            return Finding::Route(*route);
        }
        let leads_to = |path: &[u8]| {
            let by_name = exact.and_then(|rules| rules.find(path, head));
            let by_domain = || wildcard.and_then(|rules| rules.find(path, head));
            by_name.or_else(by_domain).or_else(|| self.any_host.find(path, head)).copied()
        };
        let path = head.uri.path();
        let Some(route) = leads_to(path.as_bytes()) else { return Finding::Nowhere };
        if paths::is_plain(path) {
            return Finding::Route(route);
        }
        let agree = path.len() <= SPELLED_BYTES_MAX
            && paths::readings(path).iter().all(|reading| leads_to(reading) == Some(route));
        if agree { Finding::Route(route) } else { Finding::Ambiguous }
    }
}

/// What is answered in clear where a host is passed on encrypted: whoever comes without TLS is led to it; and who spoke TLS with us
/// under another name, and asks for this host then, has to connect anew (RFC 9110, section 15.5.20).
fn in_clear(route: &RouteSpec) -> RouteSpec {
    let body = "this host is answered on connections of its own\n".to_owned();
    let to = Target::Respond(Respond { status: 421, headers: Default::default(), body });
    let actions = Actions { https: Some(302), ..(*route.actions).clone() };
    RouteSpec { to, actions: Box::new(actions), ..route.clone() }
}

/// The routes of the order before, by whose they are and where they lead from.
struct Known<'a> {
    routes: &'a [(AppName, RouteSpec)],
    ways: &'a Ways,
    places: HashMap<(&'a AppName, &'a str, &'a str), Vec<usize>>,
}

impl<'a> Known<'a> {
    fn of((routes, ways): (&'a [(AppName, RouteSpec)], &'a Ways)) -> Self {
        let mut places = HashMap::<_, Vec<usize>>::new();
        for (number, (app, route)) in routes.iter().enumerate() {
            places.entry((app, &*route.host, &*route.path)).or_default().push(number);
        }
        Self { routes, ways, places }
    }

    /// What the same route, to the letter, does; none if there was none, or it could not be made out.
    fn same(&self, app: &AppName, route: &RouteSpec) -> Option<Option<Arc<Acts>>> {
        let places = self.places.get(&(app, &*route.host, &*route.path))?;
        let place = places.iter().find(|place| self.routes[**place].1 == *route)?;
        let acts = self.ways.acts.get(*place)?;
        acts.as_ref().is_none_or(|acts| !acts.is_closed()).then(|| acts.clone())
    }
}

/// How a route was carried out that takes the same requests and limits them in the same way.
fn former<'a>(app: &AppName, route: &RouteSpec, before: (&[(AppName, RouteSpec)], &'a Ways)) -> Option<&'a Acts> {
    let (routes, ways) = before;
    route.actions.rate_limit.as_ref()?;
    let is_same = |(its_app, it): &(AppName, RouteSpec)| {
        its_app == app && it.meets(route) && it.when == route.when && it.actions.rate_limit == route.actions.rate_limit
    };
    ways.acts(routes.iter().position(is_same)?).map(|acts| &**acts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, timeout_ms: u64) -> (AppName, RouteSpec) {
        let plain = RouteSpec::plain(host, "/", "web".parse().unwrap());
        let actions = Actions { timeout_ms: Some(timeout_ms), ..Actions::default() };
        ("shop".parse().unwrap(), RouteSpec { actions: Box::new(actions), ..plain })
    }

    #[test]
    fn what_a_route_does_is_made_anew_only_where_it_has_changed() {
        let tools = Tools::fixed();
        let before = [route("a.test", 1), route("b.test", 2), route("c.test", 3)];
        let first = Ways::build(&before, None, &tools, (&[], &Ways::default()));
        // One is gone, one says something else, one is new.
        let after = [route("b.test", 2), route("c.test", 4), route("d.test", 5)];
        let second = Ways::build(&after, None, &tools, (&before, &first));
        let same = |number: usize| {
            first.acts.iter().flatten().any(|acts| Arc::ptr_eq(acts, second.acts(number).expect("it does something")))
        };
        assert_eq!([0, 1, 2].map(same), [true, false, false]);
        assert_eq!(second.acts(1).unwrap().timeout.map(|it| it.as_millis()), Some(4));
    }
}
