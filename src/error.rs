//! What went wrong: what was being done, to what, why, and what would help.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// The result of every call that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: its [kind](ErrorKind), what was being done, to what, the cause below it, and often a
/// hint at what would help.
///
/// `Display` prints one line without the hint, outermost context first:
/// `apply layer sha256:3f2a…: create file usr/bin/env: No space left on device (os error 28)`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    help: Option<Cow<'static, str>>,
    source: Option<Cause>,
}

enum Cause {
    Io(io::Error),
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// What sort of thing went wrong; what a program decides by.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Something named does not exist: a layer, an image, a container, a file.
    NotFound,
    /// Something of that name exists already.
    AlreadyExists,
    /// It is used by something else, which the message names.
    InUse,
    /// It is not in the state that this needs: not active, not committed, not mounted.
    WrongState,
    /// What the caller passed makes no sense: a malformed name, digest or option.
    InvalidInput,
    /// Data read from outside is malformed: an archive, a manifest, a changeset.
    InvalidData,
    /// The store itself holds something that it should not.
    Corrupt,
    /// A digest is not the one that was expected.
    DigestMismatch,
    /// The kernel, the file system or this build of the crate cannot do it.
    Unsupported,
    /// The process may not do it.
    PermissionDenied,
    /// A limit was reached, of the kernel or of the caller's options.
    LimitExceeded,
    /// The file system is full, or the quota used up.
    NoSpace,
    /// The cancel flag was raised.
    Cancelled,
    /// Any other failure of the operating system.
    Io,
}

impl Error {
    /// An error with nothing below it.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), help: None, source: None }))
    }

    /// An error of the operating system, met while `doing` something to `subject`.
    pub(crate) fn os(
        source: impl Into<io::Error>,
        doing: &str,
        subject: &(impl Subject + ?Sized),
    ) -> Self {
        let source = source.into();
        let kind = kind_of(&source);
        let mut error = Self::new(kind, format!("{doing} {}", subject.shown()));
        if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
            error = error.hint("allow the process more open files: ulimit -n");
        }
        error.0.source = Some(Cause::Io(source));
        error
    }

    /// Adds the error that caused this one; `Display` prints it behind a colon.
    pub(crate) fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(Cause::Other(source.into()));
        self
    }

    /// Adds what a person could do about it.
    pub(crate) fn hint(mut self, help: impl Into<Cow<'static, str>>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Puts what was being done as a whole in front of the message.
    pub(crate) fn within(mut self, doing: impl fmt::Display) -> Self {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }

    /// The sort of error, which a program decides by.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operating system's error number, where one is the cause.
    pub fn raw_os_error(&self) -> Option<i32> {
        match &self.0.source {
            Some(Cause::Io(source)) => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the process lacked something, so that the error tells nothing of its subject.
    pub(crate) fn is_starved(&self) -> bool {
        match &self.0.source {
            // A reader of std that gets no memory fails without a number.
            Some(Cause::Io(source)) if source.kind() == io::ErrorKind::OutOfMemory => true,
            _ => self.raw_os_error().map(Errno::from_raw_os_error).is_some_and(is_starved),
        }
    }

    /// What would help, in a sentence for a person, where that is known.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(Cause::Io(source)) => write!(f, ": {source}"),
            Some(Cause::Other(source)) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.to_string())
            .field("help", &self.0.help)
            .finish()
    }
}

impl std::error::Error for Error {
    // The cause stands in the message already, so a chain of sources does not print it twice.
}

/// An error that travels through an interface of `std::io` (a reader of layers, say) and back.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::InvalidData | ErrorKind::DigestMismatch => io::ErrorKind::InvalidData,
            // Never `Interrupted`, not for a cancelled call either: the loops of std try that again.
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Whether an error says that the process, or the machine, has no descriptors or no memory left.
pub(crate) fn is_starved(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// The kind of an operating system error, by its number.
fn kind_of(error: &io::Error) -> ErrorKind {
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return inner.kind();
    }
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => ErrorKind::NotFound,
        Some(Errno::EXIST) => ErrorKind::AlreadyExists,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorKind::PermissionDenied,
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::NoSpace,
        Some(Errno::BUSY) => ErrorKind::InUse,
        Some(Errno::NOSYS | Errno::OPNOTSUPP) => ErrorKind::Unsupported,
        Some(Errno::MFILE | Errno::NFILE | Errno::NAMETOOLONG) => ErrorKind::LimitExceeded,
        Some(_) => ErrorKind::Io,
        None if error.kind() == io::ErrorKind::UnexpectedEof => ErrorKind::InvalidData,
        None if error.kind() == io::ErrorKind::InvalidData => ErrorKind::InvalidData,
        None => ErrorKind::Io,
    }
}

/// Adds to an operating system's error what was being done, and to what.
pub(crate) trait Context<T> {
    /// `doing` is a verb and a noun, such as `"create directory"`; `subject` is its object.
    fn during(self, doing: &str, subject: &(impl Subject + ?Sized)) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn during(self, doing: &str, subject: &(impl Subject + ?Sized)) -> Result<T> {
        self.map_err(|source| {
            let source = source.into();
            // One of ours, that came through a reader, keeps its own words.
            match source.downcast::<Error>() {
                Ok(ours) => ours.within(format!("{doing} {}", subject.shown())),
                Err(source) => Error::os(source, doing, subject),
            }
        })
    }
}

/// The object of an error message; only rendered when there is an error.
pub(crate) trait Subject {
    /// How it is printed.
    fn shown(&self) -> Cow<'_, str>;
}

impl Subject for str {
    fn shown(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl Subject for String {
    fn shown(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

impl Subject for [u8] {
    fn shown(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self)
    }
}

impl Subject for Vec<u8> {
    fn shown(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self)
    }
}

impl Subject for Path {
    fn shown(&self) -> Cow<'_, str> {
        self.to_string_lossy()
    }
}

impl Subject for std::path::PathBuf {
    fn shown(&self) -> Cow<'_, str> {
        self.to_string_lossy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_what_and_why() {
        let failed: Result<(), Errno> = Err(Errno::NOSPC);
        let error =
            failed.during("create file", "usr/bin/env").unwrap_err().within("apply layer x");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.raw_os_error(), Some(28));
        assert_eq!(
            error.to_string(),
            "apply layer x: create file usr/bin/env: No space left on device (os error 28)"
        );
    }

    #[test]
    fn a_process_that_lacks_something_is_starved() {
        let is_starved = |error: io::Error| Error::os(error, "read", "record").is_starved();
        assert!(is_starved(Errno::MFILE.into()) && is_starved(Errno::NOMEM.into()));
        assert!(is_starved(io::ErrorKind::OutOfMemory.into()), "std's, without a number");
        assert!(!is_starved(Errno::IO.into()));
    }

    #[test]
    fn our_error_survives_a_trip_through_io() {
        let ours = Error::new(ErrorKind::Cancelled, "cancelled");
        let io: io::Error = ours.into();
        assert_ne!(io.kind(), io::ErrorKind::Interrupted, "std would try again for ever");
        let back = Err::<(), _>(io).during("read", "blob").unwrap_err();
        assert_eq!(back.kind(), ErrorKind::Cancelled);
        assert_eq!(back.to_string(), "read blob: cancelled");
    }
}
