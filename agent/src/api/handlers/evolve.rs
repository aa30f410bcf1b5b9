//! Going forward and back: where an upgrade of the nodes stands and its end, and the former revision of an application.

use axum::extract::{Extension, State};
use axum::response::Response;
use hirsel_model::control::{Command, ControlState};
use hirsel_model::spec::{AppSpec, ServiceSpec};
use hirsel_model::{AppName, feature};

use super::changes::{Change, ChangeParams, Changed, app_named, carry_out};
use super::{AgentState, Params, Part, answer};
use crate::api::auth::Caller;
use crate::api::envelope::Envelope;
use crate::api::error::{ApiError, Code, ErrorBody};
use crate::api::upgrade::{self, Upgrade};

/// Which build each node runs, and what stands in the way of the next feature level.
#[utoipa::path(get, path = "/v1/upgrade", responses((status = 200, body = Envelope<Upgrade>)))]
pub async fn upgrade(State(agent): State<AgentState>) -> Response {
    let sight = agent.sight();
    answer(&sight, upgrade::upgrade(&sight))
}

/// Ends an upgrade: from here on no node can go back to an older build.
#[utoipa::path(post, path = "/v1/upgrade/finish",
    responses((status = 200, body = Envelope<Changed>), (status = 422, body = ErrorBody)))]
pub async fn finish(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let did = match sight.state.cluster.feature_level >= feature::BUILT {
        true => format!("feature level {} was reached before", sight.state.cluster.feature_level),
        false => format!("the cluster is at feature level {}; no node can go back to an older build", feature::BUILT),
    };
    let change = Change { did, undo: None, command: upgrade::finish(&sight)? };
    carry_out(&agent, &caller, &params, change).await
}

/// Goes back to the former revision of an application.
#[utoipa::path(post, path = "/v1/apps/{app}/rollback", params(("app", description = "application")),
    responses((status = 200, body = Envelope<Changed>), (status = 404, body = ErrorBody)))]
pub async fn rollback(
    State(agent): State<AgentState>,
    Extension(caller): Extension<Caller>,
    Part(app): Part<String>,
    Params(params): Params<ChangeParams>,
) -> Result<Response, ApiError> {
    let sight = agent.sight();
    let (app, spec) = app_named(&sight, &app)?;
    let (older, back) = former(&sight.state, &app, spec);
    if back.is_empty() {
        let message = format!("{app} has no former revision that ran in another way");
        return Err(ApiError::new(Code::NotFound, message).next("hirsel apply FILE with an older manifest"));
    }
    // It is made from the state seen here, so it holds only while nothing else is changed.
    let params = ChangeParams { if_index: params.if_index.or(Some(sight.state.spec_index.0)), ..params };
    let change = Change {
        did: format!("{app} goes back: {}", back.join(", ")),
        undo: Some(format!("hirsel rollback {app}")),
        command: Command::ApplyApp { app, spec: older },
    };
    carry_out(&agent, &caller, &params, change).await
}

/// The application with each service as it ran before, and which ones that changes. Counts and the places to choose from are wishes of
/// today, and stay; so do routes, and services that were never different.
fn former(state: &ControlState, app: &AppName, spec: &AppSpec) -> (AppSpec, Vec<String>) {
    let (mut older, mut back) = (spec.clone(), Vec::new());
    for (name, now) in &mut older.services {
        let known = state.former.get(app).and_then(|services| services.get(name));
        let before = known.into_iter().flat_map(|revisions| revisions.range(..now.revision).rev());
        let different = before.map(|(_, service)| with_wishes_of(service, now)).find(|service| service != now);
        // Those of today are compared with their own number, so it says nothing here.
        if let Some(service) = different {
            back.push(name.to_string());
            *now = service;
        }
    }
    (older, back)
}

fn with_wishes_of(service: &ServiceSpec, now: &ServiceSpec) -> ServiceSpec {
    ServiceSpec {
        revision: now.revision,
        replicas: now.replicas,
        update: now.update.clone(),
        constraints: now.constraints.clone(),
        spread: now.spread,
        ..service.clone()
    }
}

#[cfg(test)]
mod tests {
    use hirsel_model::Revision;

    use super::*;
    use crate::api::fixture::sight;

    #[test]
    fn a_roll_back_takes_the_newest_revision_that_ran_differently_and_keeps_todays_counts() {
        let mut state = (*sight().state).clone();
        let (app, mut spec) = state.spec.apps.first_key_value().map(|(app, spec)| (app.clone(), spec.clone())).unwrap();
        assert!(former(&state, &app, &spec).1.is_empty());
        let (name, service) = spec.services.first_key_value().map(|(name, it)| (name.clone(), it.clone())).unwrap();
        let old = |revision, command: &str| {
            let replicas = hirsel_model::spec::Replicas { min: 9, max: 9 };
            ServiceSpec { revision: Revision(revision), command: vec![command.into()], replicas, ..service.clone() }
        };
        let same = ServiceSpec { revision: Revision(3), ..service.clone() };
        let revisions = [(Revision(1), old(1, "first")), (Revision(2), old(2, "second")), (Revision(3), same)];
        state.former.entry(app.clone()).or_default().insert(name.clone(), revisions.into());
        spec.services.get_mut(&name).unwrap().revision = Revision(4);
        let (older, back) = former(&state, &app, &spec);
        assert_eq!(back, [name.to_string()]);
        assert_eq!(older.services[&name].command, ["second"]);
        assert_eq!(older.services[&name].replicas, service.replicas);
        assert_eq!(older.routes, spec.routes);
    }
}
