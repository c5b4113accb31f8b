//! [`Reference`]: what an image is called, `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// The host of names that have none.
const DEFAULT_HOST: &str = "docker.io";

/// The path below [`DEFAULT_HOST`] of names of one component.
const DEFAULT_PATH: &str = "library/";

/// The tag of names that have none.
const DEFAULT_TAG: &str = "latest";

/// The name of an image, with all that people leave out of it put in.
///
/// `alpine`, `alpine:latest`, `library/alpine` and `docker.io/library/alpine:latest` are the same
/// reference. It is printed as short as it can be, always with its tag ([`Display`](fmt::Display)),
/// or in full ([`canonical`](Self::canonical)).
///
/// ```
/// # use overlay2::image::Reference;
/// let name: Reference = "docker.io/library/alpine".parse()?;
/// assert_eq!(name.to_string(), "alpine:latest");
/// assert_eq!(name, "alpine:latest".parse()?);
/// assert_eq!(name.canonical(), "docker.io/library/alpine:latest");
/// # Ok::<(), overlay2::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port: `docker.io` where none was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path on the host, `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `None` only where there is a digest and no tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, where the name holds one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and path as people write them: `alpine`, `user/image`, `localhost:5000/image`.
    pub fn repository(&self) -> String {
        let first = self.path.split('/').next().unwrap_or_default();
        // Without its host, what begins like one would be read as it.
        if self.host != DEFAULT_HOST || looks_like_host(first) {
            return format!("{}/{}", self.host, self.path);
        }
        match self.path.strip_prefix(DEFAULT_PATH) {
            Some(name) if !name.contains('/') && !is_image_id(name) => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole name with nothing left out: `docker.io/library/alpine:latest`.
    pub fn canonical(&self) -> String {
        format!("{}/{}{}", self.host, self.path, self.suffix())
    }

    /// The same image's name with another tag.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{tag:?} is no tag"))
                .hint("1 to 128 letters, digits, '_', '.' and '-', the first not '.' or '-'"));
        }
        let tag = Some(tag.to_owned());
        Ok(Self { host: self.host.clone(), path: self.path.clone(), tag, digest: None })
    }

    /// The name as far as it is true of the image with this manifest: a digest that is another's is
    /// left out, and `None` where nothing else tells the image.
    pub(crate) fn of_manifest(&self, manifest: Option<&Digest>) -> Option<Self> {
        match (&self.digest, &self.tag) {
            (Some(digest), tag) if manifest != Some(digest) => self.with_tag(tag.as_deref()?).ok(),
            _ => Some(self.clone()),
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        tag.chain(self.digest.iter().map(|digest| format!("@{digest}"))).collect()
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Parses a name as `docker` takes it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`], and [`ErrorKind::Unsupported`] for a digest other than sha256.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is no image name: {why}"))
                .hint("a name is like alpine, user/image:tag or host:5000/path/image:tag")
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("its tag is malformed"));
        }
        let (host, path) = match name.split_once('/') {
            Some((first, rest)) if looks_like_host(first) => (first, rest.to_owned()),
            _ => (DEFAULT_HOST, name.to_owned()),
        };
        let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
        let short = host == DEFAULT_HOST && !path.contains('/');
        if !is_host(host) {
            return Err(refuse("its host is malformed"));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse("it must be lowercase"));
        }
        if short && is_image_id(&path) {
            return Err(refuse("64 hexadecimal digits are an image ID"));
        }
        let path = if short { format!("{DEFAULT_PATH}{path}") } else { path };
        if host == DEFAULT_HOST && path.strip_prefix(DEFAULT_PATH) == Some("sha256") {
            return Err(refuse("sha256: begins an image ID"));
        }
        // Host and path with what was left out: the name in full has to be a name too.
        if !path.split('/').all(is_path_component) || host.len() + path.len() + 1 > 255 {
            return Err(refuse("its path is malformed"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self { host: host.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }
}

/// As short as it can be, with the tag: `alpine:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository(), self.suffix())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a name would be taken for an image's ID.
fn is_image_id(text: &str) -> bool {
    text.len() == 64 && Digest::from_hex(text).is_ok()
}

/// Whether the first component of a name is a host and no part of the path.
fn looks_like_host(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port_is_right =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return port_is_right && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    port_is_right && name.split('.').all(is_label)
}

/// Letters and digits, between which may stand `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<u8>| byte.is_some_and(alphanumeric);
    ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && text
            .split(|char: char| char.is_ascii_lowercase() || char.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_shortened() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let pinned = format!("alpine@sha256:{hex}");
        let both = format!("alpine:3.18@sha256:{hex}");
        for (text, short, full) in [
            ("alpine", "alpine:latest", "docker.io/library/alpine:latest"),
            ("library/alpine:3.18", "alpine:3.18", "docker.io/library/alpine:3.18"),
            ("docker.io/alpine", "alpine:latest", "docker.io/library/alpine:latest"),
            ("index.docker.io/a/b:c", "a/b:c", "docker.io/a/b:c"),
            ("library/a/b", "library/a/b:latest", "docker.io/library/a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
            ("[::1]:80/x", "[::1]:80/x:latest", "[::1]:80/x:latest"),
            ("Host/x_y__z-.1", "", ""),
            ("Host/x_y__z--1.2", "Host/x_y__z--1.2:latest", "Host/x_y__z--1.2:latest"),
            (pinned.as_str(), pinned.as_str(), &format!("docker.io/library/{pinned}")),
            (both.as_str(), both.as_str(), &format!("docker.io/library/{both}")),
        ] {
            match text.parse::<Reference>() {
                Ok(name) => {
                    assert_eq!(
                        (name.to_string().as_str(), name.canonical().as_str()),
                        (short, full)
                    );
                    assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
                    assert_eq!(name.canonical().parse::<Reference>().unwrap(), name);
                }
                Err(error) => assert!(short.is_empty(), "{error}"),
            }
        }
    }

    #[test]
    fn what_is_printed_is_the_same_name() {
        let id = "0".repeat(64);
        let at_id = format!("docker.io/library/{id}");
        let longest = "a".repeat(255 - "docker.io/library/".len());
        for (text, short) in [
            ("docker.io/localhost/x", "docker.io/localhost/x:latest"),
            ("docker.io/a.b/x", "docker.io/a.b/x:latest"),
            (at_id.as_str(), &format!("library/{id}:latest")),
            (longest.as_str(), &format!("{longest}:latest")),
        ] {
            let name: Reference = text.parse().unwrap();
            assert_eq!(name.to_string(), short);
            assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
            assert_eq!(name.canonical().parse::<Reference>().unwrap(), name);
        }
        assert!(format!("{longest}a").parse::<Reference>().is_err());
    }

    #[test]
    fn a_digest_is_told_of_the_image_that_has_it() {
        let [one, other] = ["one", "other"].map(|text| Digest::of(text.as_bytes()));
        for (name, manifest, told) in [
            ("a:1".to_owned(), None, Some("a:1".to_owned())),
            (format!("a@{one}"), Some(one), Some(format!("a@{one}"))),
            (format!("a:1@{one}"), Some(one), Some(format!("a:1@{one}"))),
            (format!("a:1@{one}"), Some(other), Some("a:1".to_owned())),
            (format!("a@{one}"), Some(other), None),
            (format!("a@{one}"), None, None),
        ] {
            let name: Reference = name.parse().unwrap();
            let found = name.of_manifest(manifest.as_ref());
            assert_eq!(found.map(|name| name.to_string()), told);
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        let id = "0".repeat(64);
        let long = "a".repeat(256);
        for bad in [
            "",
            ":",
            "@",
            "a:",
            ":tag",
            "/a",
            "a/",
            "a//b",
            "sha256:e3b0c4",
            "library/sha256:1",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "A",
            "a/B",
            "a:.x",
            "a:x/y:z/",
            "a b",
            "a\n",
            "../a",
            "h.:1/a",
            "h:x/a",
            "a@sha256:00",
            "ä",
            "[x]:1/a",
            "<none>:<none>",
            id.as_str(),
            long.as_str(),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
        let tag = "t".repeat(128);
        assert!(format!("a:{tag}").parse::<Reference>().is_ok());
        assert!(format!("a:{tag}t").parse::<Reference>().is_err());
    }
}
