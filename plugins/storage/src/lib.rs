//! Storage: objects, kept on many nodes and reached through any.
//!
//! [`role`] is the role on a node, [`gateway`] what speaks to the others for whoever wants objects, [`heal`] what is done beside all requests.
//!
//! Below that: [`chunk`] is what data is cut into, and how it is known to be what was written. [`disk`] keeps chunks in a folder, with
//! what a crash, a full disk or a flipped bit may do to it in mind. [`codec`] makes shards of stripes. [`wire`] is how nodes use each other's disks; [`spread`] and [`gather`] decide whom a write is sent to and a
//! read is asked of, [`drive`] does it, and [`store`] is both for copies and stripes.
//!
//! [`meta`] is what the cluster agrees on about objects: the state machine of a metadata group, which a README of its own describes.
//! [`gateway`] is both together, and [`s3`] is what clients speak with it.
//!
//! [`replicate`] copies buckets to other clusters, and to any S3.
//!
//! [`tell`] posts what happens to objects to webhooks.
//!
//! [`rules`] is who may do what with objects, what happens to them by itself, and how they are sealed.
//!
//! Deliberately absent: deciding which chunks should be where (that is the metadata's and the planner's), and clocks: nothing here is
//! deleted because time passed.

mod assets;
pub mod chunk;
pub mod codec;
pub mod counts;
pub mod decoders;
pub mod disk;
pub mod drive;
pub mod gateway;
pub mod gather;
pub mod heal;
pub mod meta;
pub mod patience;
pub mod people;
pub mod replicate;
pub mod role;
pub mod rules;
pub mod s3;
pub mod spread;
pub mod store;
pub mod tell;
pub mod tidy;
pub mod wire;

pub use role::Storage;
