//! The operating system behind the host seam, and the shim.
