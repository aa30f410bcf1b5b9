//! The description of the interface, made from the handlers and types themselves.

use std::sync::OnceLock;

use utoipa::OpenApi;

use super::handlers::{
    access, acme, addresses, backup, buckets, cache, certificates, changes, evolve, nodes, people, reads, recover,
    secrets, seeing, streams, zones,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "hirsel", description = "What people and programs may ask of a running agent. Every node answers."),
    paths(
        reads::healthz,
        reads::metrics,
        reads::status,
        reads::members,
        reads::roles,
        reads::apps,
        reads::ps,
        reads::why,
        reads::simulate,
        reads::doctor,
        reads::tokens,
        streams::events,
        streams::logs,
        streams::requests,
        reads::traffic,
        changes::plan,
        changes::apply,
        changes::scale,
        changes::restart,
        changes::stop,
        changes::start,
        changes::remove,
        changes::pin,
        changes::unpin,
        changes::move_role,
        seeing::log,
        evolve::upgrade,
        evolve::finish,
        evolve::rollback,
        nodes::change,
        backup::backup,
        recover::plan,
        recover::recover,
        recover::confirm_off,
        people::new_token,
        people::revoke,
        people::set_webhook,
        secrets::list,
        secrets::sealing,
        secrets::set,
        secrets::remove,
        secrets::rotate,
        certificates::list,
        certificates::show,
        certificates::set,
        certificates::remove,
        certificates::rotate,
        certificates::tickets,
        acme::show,
        acme::set,
        acme::off,
        acme::renew,
        addresses::list,
        addresses::set,
        addresses::remove,
        access::list,
        access::create,
        access::remove,
        buckets::list,
        buckets::usage,
        buckets::create,
        buckets::change,
        buckets::replicate,
        buckets::replicate_no_more,
        buckets::remove,
        buckets::audits,
        buckets::audit,
        buckets::scrubs,
        buckets::scrub,
        buckets::put,
        buckets::get,
        cache::show,
        cache::purge,
        zones::list,
        zones::show,
        zones::roll,
    )
)]
struct Document;

/// The description as JSON (OpenAPI 3.1).
pub fn document() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| Document::openapi().to_json().unwrap_or_default())
}
