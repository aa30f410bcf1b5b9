//! The one file of the simulations that names a plugin: objects are put, read and counted from outside of any agent.

pub use hirsel_storage as storage;
