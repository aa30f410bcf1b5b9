//! Names: a DNS server in every agent, for what the cluster runs.
//!
//! It answers with authority for the zone `hirsel.` (services, instances, nodes) and for the zones that the operator handed to it
//! (hosts of routes), and for nothing else. What it knows is the order (who shall run what) and what is heard of the nodes now (who
//! does), so a node that is not heard, or an instance that does not work, is in no answer from that moment on.
//!
//! Where to start: [`answer`] decides what is said, from a question and [`answer::Knowledge`]; [`names`] is what there is to be asked
//! for. [`message`] puts that on the wire, within its size. [`limit`] decides whom to answer less. [`serve`] listens, [`role`] keeps it
//! listening. [`dnssec`] signs what is said of zones that ask for it. [`forward`] asks others about names of others, for the hosts themselves, where the operator says whom.
//!
//! Deliberately absent: recursion (whoever asks about other zones is refused, or passed on), zone transfers, dynamic updates. The
//! plugin knows no other plugin.

pub mod answer;
pub mod dnssec;
pub mod forward;
pub mod kept;
pub mod limit;
pub mod message;
pub mod metrics;
pub mod names;
pub mod role;
pub mod serve;

#[cfg(test)]
mod testing;

pub use role::Dns;
