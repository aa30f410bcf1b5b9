//! The agent: the loop that walks the circle, the guard, the command line, the local and the HTTP interface.
