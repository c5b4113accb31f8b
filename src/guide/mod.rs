//! How things are done: a page for each task. There is nothing in here but text.
//!
//! - [Load and mount](load_and_mount): from an archive to a root file system.
//! - [Changes and commits](changes_and_commits): what a container changed, as a list, a tar, a layer.
//! - [Build](build): an image step by step, as a Dockerfile's interpreter makes it.
//! - [Without root](without_root): owners that are recorded, and user namespaces.
//! - [Look inside](look_inside): files of containers and images, with no mount.
//! - [Write a runtime](write_a_runtime): a process in a container's root.
//! - [In an async program](asynchronous): on a thread for what blocks, and stopped when nobody waits.
//! - [Recover](recover): after a crash, a full disk, or rot.
//!
//! The examples run as they stand here, as any user, in a directory of their own: `driver` is a store
//! there, and `image_tar` an archive with the image `example:latest`, which has a few files. Those that
//! mount are left out where the process may not.

pub mod load_and_mount {
    #![doc = include_str!("load_and_mount.md")]
}
pub mod changes_and_commits {
    #![doc = include_str!("changes_and_commits.md")]
}
pub mod build {
    #![doc = include_str!("build.md")]
}
pub mod without_root {
    #![doc = include_str!("without_root.md")]
}
pub mod look_inside {
    #![doc = include_str!("look_inside.md")]
}
pub mod write_a_runtime {
    #![doc = include_str!("write_a_runtime.md")]
}
pub mod asynchronous {
    #![doc = include_str!("asynchronous.md")]
}
pub mod recover {
    #![doc = include_str!("recover.md")]
}
