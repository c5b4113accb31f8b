//! The socket on which it is asked: made where nothing is in the way, and taken away by its maker.

use std::fs::Metadata;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The name of a socket on which this process listens.
#[derive(Debug)]
pub struct Socket {
    address: PathBuf,
    /// Its device and inode.
    made: (u64, u64),
}

impl Socket {
    /// Listens on a socket that root alone may use; one that nobody listens on any more goes.
    ///
    /// # Errors
    /// Where somebody listens there, where anything else has that name, and as `bind(2)`.
    pub async fn listen(address: &Path) -> Result<(UnixListener, Self)> {
        if let Some(parent) = address.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if let Some(found) = look(address)? {
            must_be_dead(address, &found).await?;
            std::fs::remove_file(address)?;
        }
        let listener = UnixListener::bind(address)?;
        std::fs::set_permissions(address, std::fs::Permissions::from_mode(0o600))?;
        let made = identity(&std::fs::symlink_metadata(address)?);
        Ok((listener, Self { address: address.into(), made }))
    }

    /// Takes the name away, unless it is another's by now.
    ///
    /// To be called while the listener is open, so that no other has its inode.
    pub fn remove(self) {
        if let Ok(Some(found)) = look(&self.address)
            && identity(&found) == self.made
        {
            // Whoever comes after finds that nobody listens.
            let _ = std::fs::remove_file(&self.address);
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What has the name, if anything has.
fn look(address: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(address) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error unless this is a socket that was left behind.
async fn must_be_dead(address: &Path, found: &Metadata) -> Result<()> {
    let kind = found.file_type();
    if !kind.is_socket() {
        let what = match () {
            () if kind.is_file() => "a file",
            () if kind.is_dir() => "a directory",
            () if kind.is_symlink() => "a symlink",
            () => "something that is no socket",
        };
        return Err(in_the_way(&format!("{what} has that name")));
    }
    match UnixStream::connect(address).await {
        Ok(_) => Err(in_the_way("somebody listens there already")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => {
            Err(in_the_way(&format!("whether anybody uses that socket is not known: {error}")))
        }
    }
}

fn in_the_way(what: &str) -> Error {
    Error::other(format!("{what}; give another --address, or remove it if nobody needs it"))
}
