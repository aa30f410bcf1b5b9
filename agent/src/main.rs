//! hirsel.
fn main() {}
