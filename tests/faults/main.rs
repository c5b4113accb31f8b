//! The store under faults: its makers killed at each system call, each of their calls failing, the
//! power cut, and many of them at once.
//!
//! Sampled in an ordinary run, from a seed that is printed; `OVERLAY2_FAULTS=all` tries every system
//! call, `OVERLAY2_FAULTS=N` a sample of N, and `OVERLAY2_SEED=N` picks a sample again;
//! `OVERLAY2_OPERATION=save,export` those alone whose names have such a part.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, tells its counts, and prepares its files by path"
)]

#[path = "../common/mod.rs"]
mod common;

mod bed;
mod disk;
mod error;
mod findings;
mod kill;
mod operations;
mod power;
mod sample;
mod snapshot;
mod storm;
mod together;
mod trace;
