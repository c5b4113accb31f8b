//! Bundles: a container as an OCI runtime takes it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::io::Errno;

use super::Driver;
use crate::bundle::{self, Accounts, Place, Process};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Commit, commit_config, parse_config};
use crate::merged::{Options, Tree};
use crate::sys::Dir;

/// What an OCI runtime has to be told to run a process in a mounted container.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The whole `config.json`.
    pub spec: Spec,
}

impl Bundle {
    /// Writes `config.json` into the directory `dir`, where there is none yet.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where there is one.
    pub fn write(&self, dir: impl AsRef<Path>) -> Result<()> {
        let path = dir.as_ref().join("config.json");
        let text = serde_json::to_vec_pretty(&self.spec);
        let text = text.map_err(std::io::Error::from).during("write", &path)?;
        // Environment variables may be secrets.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(&text)).during("write", &path)
    }
}

impl Driver {
    /// Makes the bundle of a container, which has to be mounted: an image's config, with what
    /// `process` says otherwise, for a runtime that runs where this process does.
    ///
    /// Users and groups are looked up in the container's own `/etc/passwd` and `/etc/group`, in
    /// which symlinks lead nowhere outside.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it is not mounted, or nothing says what to run;
    /// [`ErrorKind::NotFound`] for a user who has no account there.
    pub fn bundle(&self, container: &str, process: &Process) -> Result<Bundle> {
        let record = self.store.find_container(container)?;
        let mounted = self.mounts_of(&record)?.pop().map(|entry| entry.target);
        let root = mounted.ok_or_else(|| {
            let what = format!("container {container} is not mounted");
            Error::new(ErrorKind::InvalidInput, what).hint("mount it first")
        })?;
        let config = match &record.image {
            Some(image) => self.store.image_config(image)?,
            None => commit_config(None, None, &Commit::default())?,
        };
        let mut process = process.clone();
        process.hostname.get_or_insert_with(|| record.id.to_string().chars().take(12).collect());
        let accounts = self.accounts(&root)?;
        let made =
            bundle::spec(&parse_config(&config)?, &accounts, &root, Place::current()?, &process);
        let spec = made.map_err(|error| error.within(format_args!("bundle {container}")))?;
        Ok(Bundle { spec })
    }

    fn accounts(&self, root: &Path) -> Result<Accounts> {
        let options = Options::new(self.store.namespace());
        let tree = Tree::read_only(vec![Dir::open_ambient(root)?], &options)?;
        let read = |path: &str| match tree.read(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                Ok(Vec::new())
            }
            other => other,
        };
        Ok(Accounts::parse(&read("etc/passwd")?, &read("etc/group")?))
    }
}
