//! Changesets applied: every case that is known to go wrong elsewhere, by its number.
//!
//! A test is a line of data: entries, and what is in the layer directory afterwards. Each is applied
//! as root and as a plain user, with and without what it takes to write the same tar again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test may panic, and prepares its files by path"
)]

mod attributes;
mod failures;
mod format;
mod go_writers;
mod hostile;
mod limits;
mod marks;
mod model;
mod names;
mod run;
mod tar;
mod threads;
mod tree;
mod writers;
