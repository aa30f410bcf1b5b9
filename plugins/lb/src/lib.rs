//! The load balancer role: the way in.
//!
//! Requests come in over HTTP/1.1 or HTTP/2, in clear or over TLS, or over HTTP/3, find their service by host, path and more, and are forwarded to one of its
//! instances. A killed instance or node shall cost no idempotent request: a connection failure is tried elsewhere, a failure ejects at
//! once, a request that can be told again is told again, and a small answer is held until it is whole.
//!
//! Where to start: [`proxy`] is the path of one request. It asks [`table`] (one immutable routing table, swapped whole) where to go,
//! [`ways`] which route takes it, [`sharing`], [`balance`], [`eject`] and [`replay`] (pure decisions) whom to choose and when to try again, and
//! [`upstream`] (connections to instances, kept in a [`pool`]) or [`links`] (those that carry many at once) to carry it. [`cache`] is asked
//! before, on routes that say so. [`serve`] takes connections on a [`front`], with a certificate of [`tls`] if it is that of HTTPS, and
//! [`http3`] the same beside it; [`role`] makes the host match the order.
//!
//! Deliberately absent: TLS towards instances, DNS. The plugin knows no other plugin: where instances are it learns
//! from its order, and how they are from the reports of their nodes.

pub mod access;
pub mod account;
pub mod actions;
pub mod assets;
pub mod balance;
mod behind;
pub mod budget;
pub mod cache;
pub mod carrier;
pub mod challenge;
mod client;
pub mod clients;
pub mod eject;
pub mod exposition;
pub mod fault;
pub mod floating;
pub mod front;
mod gather;
pub mod grpc;
pub mod headers;
pub mod http3;
pub mod ids;
pub mod incoming;
pub mod instance;
pub mod io;
pub mod links;
pub mod matching;
pub mod memory;
pub mod meter;
pub mod metrics;
pub mod pages;
pub mod passthrough;
pub mod paths;
pub mod pool;
pub mod ports;
pub mod probe;
pub mod proxy;
pub mod proxy_protocol;
pub mod replay;
pub mod role;
pub mod routes;
pub mod seer;
pub mod serve;
pub mod sharing;
pub mod stream;
pub mod table;
pub mod tickets;
pub mod tls;
pub mod trace;
pub mod trailers;
pub mod tunnel;
pub mod upstream;
pub mod ways;
pub mod websocket;

pub use role::Lb;
