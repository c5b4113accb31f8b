//! The kernel as safe functions: directory handles, durable steps, locks, attributes, mounts.
//!
//! The one room where `unsafe` may stand. Names are bytes and single components; what is said to be
//! beneath a directory is resolved so by the kernel. Functions return the kernel's own error number
//! ([`rustix::io::Errno`]), to which the rooms above add what was being done, and to what.

pub(crate) mod copy;
pub(crate) mod dir;
pub(crate) mod durable;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod inode_io;
pub(crate) mod interrupts;
pub(crate) mod lock;
pub(crate) mod mount;
pub(crate) mod mount_namespaces;
pub(crate) mod mountinfo;
pub(crate) mod parallel;
#[cfg(feature = "bundle")]
pub(crate) mod passing;
#[cfg(feature = "bundle")]
pub(crate) mod private_mounts;
pub(crate) mod probe;
pub(crate) mod quota;
pub(crate) mod random;
pub(crate) mod remove;
pub(crate) mod statmount;
pub(crate) mod subid;
pub(crate) mod unshare;
pub(crate) mod userns;
pub(crate) mod weigh;
pub(crate) mod xattr;

pub use dir::Dir;

/// How many descriptors the process may have; `usize::MAX` where nothing bounds that.
pub(crate) fn most_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}
