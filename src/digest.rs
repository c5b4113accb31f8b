//! Digests and the identities made of them: [`Digest`], [`DiffId`], [`ChainId`].

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::{Error, ErrorKind, Result};

/// A sha256 digest; printed and parsed as `sha256:` and 64 lowercase hexadecimal digits.
///
/// Source: OCI image-spec, descriptor.md, "Digests".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        digits(&self.0)
    }

    /// Parses 64 hexadecimal digits that stand without an algorithm.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where they are not 64 lowercase hexadecimal digits.
    pub fn from_hex(digits: &str) -> Result<Self> {
        bytes_of(digits).map(Self).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("{digits:?} is no sha256: expected 64 lowercase hexadecimal digits"),
            )
        })
    }
}

/// 32 bytes as hexadecimal digits.
pub(crate) fn digits(bytes: &[u8; 32]) -> String {
    let mut digits = vec![0; 64];
    // There is room for them.
    let _ = hex::encode_to_slice(bytes, &mut digits);
    String::from_utf8(digits).unwrap_or_default()
}

/// The bytes of 64 lowercase hexadecimal digits.
///
/// The records of a stack of hundreds of layers are full of them: no branch depends on a digit, which
/// makes it several times as fast as what `hex` has for any length and either case.
pub(crate) fn bytes_of(digits: &str) -> Option<[u8; 32]> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = [0; 32];
    if pairs.len() != bytes.len() {
        return None;
    }
    let mut seen = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (value(*high), value(*low));
        seen |= high | low;
        *byte = (high << 4) | low;
    }
    (seen < 16).then_some(bytes)
}

/// The value of a lowercase hexadecimal digit, and more than 15 of anything else.
const fn value(digit: u8) -> u8 {
    let (number, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
    if number < 10 {
        number
    } else if letter < 6 {
        letter + 10
    } else {
        0x80
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("sha256", digits)) => Self::from_hex(digits),
            Some((algorithm @ ("sha384" | "sha512" | "blake3"), _)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("digest {text:?} uses {algorithm}, which is not supported"),
            )
            .hint("only sha256 digests are read")),
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{text:?} is no digest: expected sha256: and 64 hexadecimal digits"),
            )),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Names a digest by what it is the digest of; the text form is the digest's.
macro_rules! digest_identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// Takes a digest that is known to be one of these.
            pub const fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// The digest itself.
            pub const fn digest(&self) -> &Digest {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

digest_identity! {
    /// The identity of a layer's content: the sha256 of its uncompressed changeset.
    ///
    /// Source: OCI image-spec, config.md, "Layer DiffID".
    DiffId
}

digest_identity! {
    /// The identity of a stack of layers: of the topmost layer, applied on all below it.
    ///
    /// ```
    /// # use overlay2::{ChainId, DiffId, Digest};
    /// let base = DiffId::new(Digest::of(b"base"));
    /// let next = DiffId::new(Digest::of(b"next"));
    /// let stack = ChainId::of_base(&base).extend(&next);
    /// assert_eq!(ChainId::of([&base, &next]), Some(stack));
    /// ```
    ///
    /// Source: OCI image-spec, config.md, "Layer ChainID".
    ChainId
}

impl ChainId {
    /// The chain ID of a stack of one layer: its diff ID.
    pub const fn of_base(base: &DiffId) -> Self {
        Self(base.0)
    }

    /// The chain ID of this stack with one more layer on top.
    pub fn extend(&self, diff: &DiffId) -> Self {
        // A stack may have hundreds of layers, each time it is read.
        let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000 \
                          sha256:0000000000000000000000000000000000000000000000000000000000000000";
        for (start, digest) in [(7, &self.0), (79, &diff.0)] {
            if let Some(digits) = text.get_mut(start..start + 64) {
                // There is room for them.
                let _ = hex::encode_to_slice(digest.0, digits);
            }
        }
        Self(Digest::of(&text))
    }

    /// The chain ID of a whole stack, lowest layer first; `None` where there is no layer.
    pub fn of<'a>(diff_ids: impl IntoIterator<Item = &'a DiffId>) -> Option<Self> {
        diff_ids.into_iter().fold(None, |below, diff| match below {
            None => Some(Self::of_base(diff)),
            Some(below) => Some(below.extend(diff)),
        })
    }
}

/// Computes the [`Digest`] and the length in bytes of what passes through it.
///
/// Wraps a reader or a writer; [`finish`](Self::finish) gives back what was seen.
pub struct Hashing<T> {
    inner: T,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    /// Starts to watch `inner`.
    pub fn new(inner: T) -> Self {
        Self { inner, hasher: sha2::Sha256::new(), bytes: 0 }
    }

    /// Bytes that have passed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest and the number of the bytes that have passed, and what was wrapped.
    pub fn finish(self) -> (Digest, u64, T) {
        (Digest(self.hasher.finalize().into()), self.bytes, self.inner)
    }

    fn saw(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(read) = buffer.get(..count) {
            self.saw(read);
        }
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        if let Some(written) = buffer.get(..count) {
            self.saw(written);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T> fmt::Debug for Hashing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashing").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_digest_is_the_known_one() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn malformed_digests_are_refused() {
        for bad in ["", "sha256:", "sha256:zz", "sha512:00", "md5:00", "e3b0c442"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let upper = format!("sha256:{}", Digest::of(b"").hex().to_uppercase());
        assert!(upper.parse::<Digest>().is_err());
    }

    /// Each byte in each place, beside the crate `hex`, which takes either case.
    #[test]
    fn digits_are_read_as_others_read_them() {
        let valid = Digest::of(b"x").hex();
        for (at, byte) in (0..64).flat_map(|at| (0..=127u8).map(move |byte| (at, byte))) {
            let mut text = valid.clone().into_bytes();
            text[at] = byte;
            let text = String::from_utf8(text).unwrap();
            let expected = hex::decode(&text).ok().filter(|_| !byte.is_ascii_uppercase());
            assert_eq!(bytes_of(&text).map(Vec::from), expected, "{text}");
        }
        for bad in ["é".repeat(32), "0".repeat(63), "0".repeat(65), "0".repeat(66)] {
            assert_eq!(bytes_of(&bad), None, "{bad}");
        }
    }

    /// The example of the image-spec, computed by hand: chain(A|B) = sha256(diff(A) + " " + diff(B)).
    #[test]
    fn chain_ids_follow_the_spec() {
        let (a, b) = (DiffId::new(Digest::of(b"a")), DiffId::new(Digest::of(b"b")));
        let expected = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(ChainId::of([&a, &b]).unwrap().digest(), &expected);
        assert_eq!(ChainId::of([&a]).unwrap().digest(), a.digest());
        assert_eq!(ChainId::of([]), None);
    }

    #[test]
    fn hashing_sees_what_passes() {
        let mut reader = Hashing::new(&b"overlay"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        let (digest, bytes, _) = reader.finish();
        assert_eq!((digest, bytes), (Digest::of(b"overlay"), 7));
    }
}
