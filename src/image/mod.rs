//! Container images as files: docker-archive and OCI image layout, read and written.
mod document;
mod platform;
mod reference;
mod tar_reader;

pub use platform::Platform;
pub use reference::Reference;
