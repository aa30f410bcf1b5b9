//! `--wait`: looks again and again until the cluster has done what was asked, and says what is missing meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::Client;
use super::look::escape;
use super::output::note;
use super::{Done, bucket};
use crate::api::error::{ApiError, Code};
use crate::api::views::acme::AutomaticHost;
use crate::api::views::addresses::FloatingAddress;
use crate::api::views::apps::{App, Instance};
use crate::api::views::buckets::Bucket;
use crate::api::views::cache::CacheView;
use crate::api::views::certificates::Certificates;
use crate::api::views::members::Member;
use crate::api::views::roles::RoleSlot;
use crate::api::views::secrets::{Sealing, Secret};

/// How often it is looked. A person does not see the delay, and an agent does not feel the question.
const EVERY: Duration = Duration::from_millis(250);
/// An agent may be gone for a moment (its node is the one that changes): only so many failures in a row count.
const FAILURES_MAX: u32 = 20;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing: it is done when it is said.
    Nothing,
    /// Every service of the application has as many healthy instances of the newest revision as wanted, and no others; its buckets are there.
    AppSettled(String),
    /// The same of every application that uses a secret: its name, and the application it belongs to.
    SecretSettled(String, Option<String>),
    /// Secrets are sealed with another key than this.
    Resealed(Option<String>),
    /// Nodes are certified by another authority than this, and no live one by a former.
    Certified(Option<String>),
    /// Every node that balances load and is heard has the certificates of the front door in their newest versions.
    CertificateShown,
    /// There is a key of TLS tickets that is newer than this, and one that seals.
    TicketKeyDrawn(u64),
    /// Every host that asks for a certificate has one.
    AutomaticallyCertified,
    /// The certificate of this host has another version than this, and every node that balances load and is heard has it.
    Renewed(String, u64),
    /// There are nodes for what is written to the bucket.
    BucketPlaced(String),
    /// All of the bucket is where it is copied to.
    BucketCopied(String),
    /// Every load balancer has carried out the purge with this index.
    Purged(u64),
    /// One node holds the address.
    AddressHeld(String),
    /// No instance of the application is left.
    AppGone(String),
    /// The node holds nothing.
    NodeEmpty(String),
    /// The node is no member.
    NodeGone(String),
    /// The role has a slot on the node, and it runs.
    RoleOn(String, String),
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Reached,
    /// It will not come to that.
    Failed(String),
    Missing(String),
}

/// Waits for `goal`, at most `limit`.
pub async fn wait_for(client: &Client, goal: &Goal, limit: Duration, json: bool) -> Result<Done, ApiError> {
    let deadline = Instant::now() + limit;
    let mut told = String::new();
    let mut failures = 0;
    loop {
        let progress = match look(client, goal).await {
            Ok(progress) => progress,
            Err(error) if failures >= FAILURES_MAX => return Err(error),
            Err(error) => {
                failures += 1;
                Progress::Missing(error.message)
            }
        };
        match progress {
            Progress::Reached => {
                if !json && *goal != Goal::Nothing {
                    note("done");
                }
                return Ok(Done::Well);
            }
            Progress::Failed(why) => return Err(ApiError::new(Code::Failed, why).next("hirsel events")),
            Progress::Missing(what) if Instant::now() >= deadline => {
                let message = format!("not done after {} s, still under way: {what}", limit.as_secs());
                return Err(ApiError::new(Code::TimedOut, message).next("hirsel status"));
            }
            Progress::Missing(what) => {
                if !json && what != told {
                    note(&what);
                }
                told = what;
            }
        }
        sleep(EVERY).await;
    }
}

/// What is said of a host that has no certificate yet: once it failed, waiting would take long.
fn without(it: AutomaticHost) -> Progress {
    match it.state.as_str() {
        "waiting" | "taken" => Progress::Failed(format!("{}: {}", it.host, it.message)),
        _ => Progress::Missing(format!("{}: {}", it.host, it.message)),
    }
}

async fn look(client: &Client, goal: &Goal) -> Result<Progress, ApiError> {
    match goal {
        Goal::Nothing => Ok(Progress::Reached),
        Goal::SecretSettled(name, app) => {
            let secrets = client.get::<Vec<Secret>>("/v1/secrets").await?.envelope.data;
            let secret = secrets.into_iter().find(|secret| secret.name == *name && secret.app == *app);
            let users = secret.map(|secret| secret.used_by).unwrap_or_default();
            let apps: BTreeSet<&str> = users.iter().filter_map(|user| app_of(user)).collect();
            for app in apps {
                match Box::pin(look(client, &Goal::AppSettled(app.into()))).await? {
                    Progress::Reached => {}
                    other => return Ok(other),
                }
            }
            Ok(Progress::Reached)
        }
        Goal::BucketPlaced(name) => {
            let there = client.get::<Bucket>(&bucket::path(name)).await?.envelope.data;
            Ok(match there.placed {
                true => Progress::Reached,
                false => Progress::Missing(format!("nodes are chosen for {} of bucket {name}", there.safety)),
            })
        }
        Goal::BucketCopied(name) => {
            let there = client.get::<Bucket>(&bucket::path(name)).await?.envelope.data;
            let Some(to) = there.replication else {
                return Ok(Progress::Failed(format!("bucket {name} is copied nowhere any more")));
            };
            Ok(match (to.due, to.finding, &to.error) {
                (0, false, _) => Progress::Reached,
                (_, _, Some(error)) => Progress::Missing(format!("bucket {name}: {}: {error}", bucket::behind(&to))),
                (_, _, None) => Progress::Missing(format!("bucket {name}: {}", bucket::behind(&to))),
            })
        }
        Goal::Resealed(before) => {
            let now = client.get::<Sealing>("/v1/sealing").await?.envelope.data;
            Ok(match Some(&now.key) != before.as_ref() && !now.wanted {
                true => Progress::Reached,
                false => Progress::Missing("the leader hands the new key round".into()),
            })
        }
        Goal::Certified(before) => {
            let now = client.get::<Certificates>("/v1/certificates").await?.envelope.data;
            let is_new = now.authorities.first().map(|present| &present.fingerprint) != before.as_ref();
            Ok(match is_new && !now.authorities.iter().any(|authority| authority.state == "former") {
                true => Progress::Reached,
                false => {
                    let count = now.nodes.iter().filter(|node| node.state == "former").count();
                    Progress::Missing(format!("{count} nodes have no certificate of the new authority yet"))
                }
            })
        }
        Goal::CertificateShown => {
            let now = client.get::<Certificates>("/v1/certificates").await?.envelope.data;
            let waiting: Vec<String> =
                now.shown_by.into_iter().filter(|it| it.state == "waiting").map(|it| it.node).collect();
            Ok(match waiting.is_empty() {
                true => Progress::Reached,
                false => Progress::Missing(format!("{} did not get it yet", waiting.join(", "))),
            })
        }
        Goal::AutomaticallyCertified => {
            let now = client.get::<Certificates>("/v1/certificates").await?.envelope.data;
            Ok(now.automatic.into_iter().find(|it| !it.served).map_or(Progress::Reached, without))
        }
        Goal::Renewed(host, before) => {
            let now = client.get::<Certificates>("/v1/certificates").await?.envelope.data;
            let waiting: Vec<String> =
                now.shown_by.into_iter().filter(|it| it.state == "waiting").map(|it| it.node).collect();
            if now.front.iter().any(|it| it.name == *host && it.version != *before) {
                return Ok(match waiting.is_empty() {
                    true => Progress::Reached,
                    false => Progress::Missing(format!("{} did not get it yet", waiting.join(", "))),
                });
            }
            let asking = now.automatic.into_iter().find(|it| it.host == *host);
            Ok(asking.map_or_else(|| Progress::Failed(format!("{host} asks for no certificate any more")), without))
        }
        Goal::AppSettled(app) => {
            let apps = client.get::<Vec<App>>("/v1/apps").await?.envelope.data;
            let instances = instances(client, app).await?;
            let Some(known) = apps.iter().find(|known| known.app == *app) else {
                return Ok(Progress::Missing(format!("{app} is not known yet")));
            };
            match settled(known, &instances) {
                Progress::Reached => bucketed(client, known).await,
                other => Ok(other),
            }
        }
        Goal::AddressHeld(address) => {
            let all = client.get::<Vec<FloatingAddress>>("/v1/addresses").await?.envelope.data;
            Ok(match all.into_iter().find(|it| it.address == *address) {
                Some(it) if it.state == "held" => Progress::Reached,
                Some(it) => Progress::Missing(format!("{address} is {}: {}", it.state, it.because)),
                None => Progress::Missing(format!("{address} is not known yet")),
            })
        }
        Goal::TicketKeyDrawn(before) => {
            let keys = client.get::<Certificates>("/v1/certificates").await?.envelope.data.tickets;
            let drawn = keys.len() > 1 && keys.first().is_some_and(|key| key.version > *before);
            Ok(match drawn {
                true => Progress::Reached,
                false => Progress::Missing("the leader draws a key".into()),
            })
        }
        Goal::Purged(index) => {
            let nodes = client.get::<CacheView>("/v1/cache").await?.envelope.data.nodes;
            let waiting: Vec<String> = nodes.into_iter().filter(|it| it.purged < *index).map(|it| it.node).collect();
            Ok(match waiting.is_empty() {
                true => Progress::Reached,
                false => Progress::Missing(format!("{} did not say that it has forgotten", waiting.join(", "))),
            })
        }
        Goal::AppGone(app) => Ok(match instances(client, app).await?.len() {
            0 => Progress::Reached,
            left => Progress::Missing(format!("{left} instances of {app} are left")),
        }),
        Goal::NodeEmpty(node) => Ok(match empty(&members(client).await?, node) {
            Progress::Reached => {
                addressless(&client.get::<Vec<FloatingAddress>>("/v1/addresses").await?.envelope.data, node)
            }
            other => other,
        }),
        Goal::NodeGone(node) => match members(client).await {
            Ok(members) if members.iter().all(|member| member.name != *node) => Ok(Progress::Reached),
            Ok(members) => Ok(match empty(&members, node) {
                Progress::Missing(what) => Progress::Missing(what),
                _ => Progress::Missing(format!("{node} is still a member")),
            }),
            // The agent that left is the one that was asked.
            Err(error) if error.code == Code::Unreachable => Ok(Progress::Reached),
            Err(error) => Err(error),
        },
        Goal::RoleOn(role, node) => {
            let slots = client.get::<Vec<RoleSlot>>("/v1/roles").await?.envelope.data;
            let there = |slot: &&RoleSlot| slot.role == *role && slot.node == *node;
            Ok(match slots.iter().find(there) {
                Some(slot) if slot.state == "running" => Progress::Reached,
                Some(slot) => Progress::Missing(format!("{role} on {node} is {}", slot.state)),
                None => Progress::Missing(format!("{role} is not on {node} yet")),
            })
        }
    }
}

/// The application of a service, `APP/SERVICE`, or of a route, `APP, route HOST/PATH`, that uses a secret.
fn app_of(user: &str) -> Option<&str> {
    Some(user.split_once(", ").or_else(|| user.split_once('/'))?.0)
}

async fn instances(client: &Client, app: &str) -> Result<Vec<Instance>, ApiError> {
    match client.get::<Vec<Instance>>(&format!("/v1/apps/{}/ps", escape(app))).await {
        Ok(answer) => Ok(answer.envelope.data),
        Err(error) if error.code == Code::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn members(client: &Client) -> Result<Vec<Member>, ApiError> {
    Ok(client.get::<Vec<Member>>("/v1/members").await?.envelope.data)
}

/// Whether every bucket of the application is there as it is wanted.
async fn bucketed(client: &Client, app: &App) -> Result<Progress, ApiError> {
    for bucket in &app.buckets {
        match client.get::<Bucket>(&bucket::path(&bucket.bucket)).await {
            Ok(answer) => {
                let there = answer.envelope.data;
                let is = (&there.safety, there.quota_bytes) == (&bucket.safety, bucket.quota_bytes);
                if !is || bucket.versioning.is_some_and(|wanted| wanted != there.versioning) {
                    return Ok(Progress::Missing(format!("bucket {} is not as it is wanted yet", bucket.bucket)));
                }
            }
            Err(error) if error.code == Code::NotFound => {
                return Ok(Progress::Missing(format!("bucket {} is not made yet", bucket.bucket)));
            }
            Err(error) => return Ok(Progress::Missing(format!("bucket {}: {}", bucket.bucket, error.message))),
        }
    }
    Ok(Progress::Reached)
}

/// Whether every service is as it was described, by its newest revision and nothing else.
fn settled(app: &App, instances: &[Instance]) -> Progress {
    let mut missing = Vec::new();
    for service in &app.services {
        let (name, wanted) = (format!("{}/{}", app.app, service.service), service.wanted as usize);
        if service.reverted == Some(service.revision) {
            let message = format!("revision {} of {name} did not become healthy, and was taken back", service.revision);
            return Progress::Failed(message);
        }
        let of_service: Vec<&Instance> =
            instances.iter().filter(|instance| instance.service == service.service).collect();
        let good = |instance: &&&Instance| {
            instance.healthy && instance.state == "running" && instance.revision == service.revision
        };
        let ready = of_service.iter().filter(good).count();
        let others = of_service.len() - ready;
        if ready != wanted || others > 0 {
            let others = if others > 0 { format!(", {others} on the way in or out") } else { String::new() };
            missing.push(format!("{name}: {ready} of {wanted} ready{others}"));
        }
    }
    missing.extend(app.unmet.iter().cloned());
    if missing.is_empty() { Progress::Reached } else { Progress::Missing(missing.join("; ")) }
}

fn empty(members: &[Member], node: &str) -> Progress {
    match members.iter().find(|member| member.name == *node) {
        Some(member) if !member.roles.is_empty() => {
            Progress::Missing(format!("{node} still holds {}", member.roles.join(", ")))
        }
        _ => Progress::Reached,
    }
}

/// A node goes on holding an address that nobody else can hold: that is not waited for.
fn addressless(addresses: &[FloatingAddress], node: &str) -> Progress {
    let others =
        |it: &FloatingAddress| it.candidates.iter().any(|other| other.node != node && other.liveness == "alive");
    match addresses.iter().find(|it| it.holders.iter().any(|holder| holder == node) && others(it)) {
        Some(it) => Progress::Missing(format!("{node} still holds {}", it.address)),
        None => Progress::Reached,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::{altered, sight};
    use crate::api::sight::Sight;
    use crate::api::views::addresses::Candidate;
    use crate::api::views::apps::{Which, apps, ps};

    fn progress(sight: &Sight) -> Progress {
        settled(&apps(sight)[0], &ps(sight, &"shop".parse().unwrap(), Which::Planned).unwrap())
    }

    #[test]
    fn an_application_is_settled_when_all_that_is_wanted_works_and_nothing_else_is_left() {
        assert_eq!(progress(&sight()), Progress::Reached);
        let more = altered(|state| {
            let app = state.spec.apps.values_mut().next().unwrap();
            app.services.values_mut().next().unwrap().replicas.min = 3;
        });
        assert_eq!(progress(&more), Progress::Missing("shop/web: 2 of 3 ready".into()));
        let newer = altered(|state| {
            let app = state.spec.apps.values_mut().next().unwrap();
            app.services.values_mut().next().unwrap().revision = hirsel_model::Revision(2);
        });
        assert_eq!(progress(&newer), Progress::Missing("shop/web: 0 of 2 ready, 2 on the way in or out".into()));
    }

    #[test]
    fn a_drained_node_is_empty_when_whoever_can_has_its_addresses() {
        let of = |holder: &str, candidates: &[(&str, &str)]| {
            let candidate = |(node, liveness): &(&str, &str)| Candidate {
                node: (*node).into(),
                liveness: (*liveness).into(),
                ..Candidate::default()
            };
            let candidates = candidates.iter().map(candidate).collect();
            FloatingAddress {
                address: "192.0.2.10".into(),
                holders: vec![holder.into()],
                candidates,
                ..FloatingAddress::default()
            }
        };
        let still = Progress::Missing("n1 still holds 192.0.2.10".into());
        assert_eq!(addressless(&[of("n1", &[("n2", "alive")])], "n1"), still);
        assert_eq!(addressless(&[of("n2", &[("n2", "alive")])], "n1"), Progress::Reached);
        assert_eq!(addressless(&[of("n1", &[("n1", "alive"), ("n2", "down")])], "n1"), Progress::Reached);
        assert_eq!(addressless(&[], "n1"), Progress::Reached);
    }

    #[test]
    fn a_user_of_a_secret_belongs_to_an_application() {
        assert_eq!(
            (app_of("shop/web"), app_of("shop, route shop.test/a"), app_of("")),
            (Some("shop"), Some("shop"), None)
        );
    }

    #[test]
    fn a_revision_that_was_taken_back_is_a_failure() {
        let reverted = altered(|state| {
            let id = state.plan.instances.keys().next().unwrap().clone();
            state.plan.reverted.insert(id.app, [(id.service, hirsel_model::Revision(1))].into());
        });
        assert!(matches!(progress(&reverted), Progress::Failed(_)));
    }
}
