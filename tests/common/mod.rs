//! What the tests of the `overlay2` command share: stores to run it on, images to give it, and
//! the tree that a mounted container shows, as lines that can be compared.
//!
//! A test that mounts begins with `sandbox!()`. As root it then simply goes on; as a plain user it
//! is run a second time inside `overlay2 unshare`, where it is root over its own ids, and the
//! first run only reports the second. So one body of a test serves both.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    reason = "each test file includes this as a module, and uses a part of it"
)]

pub mod image;
pub mod layer;
pub mod manifest;
pub mod need;
pub mod store;

pub use image::{Compression, TestImage};
pub use layer::Layer;
pub use manifest::Manifest;
pub use store::{Done, Store};
