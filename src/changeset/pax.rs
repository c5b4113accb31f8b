//! Extended headers of the pax format: records of `LENGTH KEY=VALUE`, each read by its length, so
//! that a value may hold any byte.
//!
//! Source: POSIX.1-2017 pax, "pax Extended Header"; GNU tar's manual, "Storing Sparse Files".

use std::collections::BTreeMap;
use std::rc::Rc;

use super::header::invalid;
use crate::error::{Result, Subject};
use crate::inode::{Timestamp, Xattrs};

/// The records of one extended header, later ones replacing earlier ones of the same key.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    values: Rc<Values>,
    /// Those of a global header, which count where these say nothing. They are shared: a tar may
    /// have few bytes for each entry, and millions of entries.
    globals: Rc<Values>,
    /// `GNU.sparse.offset` and `.numbytes` of the format 0.0, in which a key comes again and again.
    sparse: Vec<(u64, u64)>,
    /// Bytes of all keys and values.
    held: u64,
}

type Values = BTreeMap<Vec<u8>, Vec<u8>>;

const XATTR: &[u8] = b"SCHILY.xattr.";
const SELINUX: &[u8] = b"RHT.security.selinux";

impl Records {
    /// Adds what the payload of an extended header says.
    pub(super) fn read(&mut self, mut payload: &[u8], sparse_runs: usize) -> Result<()> {
        let mut offset = None;
        while !payload.is_empty() {
            let (key, value, rest) = record(payload)
                .ok_or_else(|| invalid("malformed record in an extended header".to_owned()))?;
            payload = rest;
            match key {
                b"GNU.sparse.offset" => offset = Some(decimal(key, value)?),
                b"GNU.sparse.numbytes" => {
                    let start = offset
                        .take()
                        .ok_or_else(|| invalid("sparse map out of order".to_owned()))?;
                    self.sparse.push((start, decimal(key, value)?));
                    super::limits::check(self.sparse.len(), sparse_runs, "runs in a sparse file")?;
                }
                _ => {
                    let values = Rc::make_mut(&mut self.values);
                    match values.insert(key.to_vec(), value.to_vec()) {
                        Some(old) => self.held -= old.len() as u64,
                        None => self.held += key.len() as u64,
                    }
                    self.held += value.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// These records, with those of a global header where these say nothing.
    ///
    /// An empty value in these takes a global one back, as POSIX has it.
    pub(super) fn over(mut self, globals: &Records) -> Self {
        self.globals = Rc::clone(&globals.values);
        self
    }

    /// How many bytes of memory they take.
    pub(super) fn bytes(&self) -> u64 {
        self.held + 16 * self.sparse.len() as u64
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        // An empty value means "as though it were not there".
        self.told(key).filter(|value| !value.is_empty())
    }

    /// A value, empty or not.
    fn told(&self, key: &[u8]) -> Option<&[u8]> {
        self.values.get(key).or_else(|| self.globals.get(key)).map(Vec::as_slice)
    }

    /// The entry's name, that of a sparse file included.
    pub(super) fn path(&self) -> Option<&[u8]> {
        self.get(b"GNU.sparse.name").or_else(|| self.get(b"path"))
    }

    /// What a link points to.
    pub(super) fn link(&self) -> Option<&[u8]> {
        self.get(b"linkpath")
    }

    /// The payload's length.
    pub(super) fn size(&self) -> Result<Option<u64>> {
        self.number(b"size")
    }

    /// The owning user's id, of any size, negative ones included.
    pub(super) fn id(&self, key: &[u8]) -> Result<Option<i64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        text.map(Some).ok_or_else(|| malformed(key, value))
    }

    /// A time; its fraction is cut to nanoseconds.
    pub(super) fn time(&self, key: &[u8]) -> Result<Option<Timestamp>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        timestamp(value).map(Some).ok_or_else(|| malformed(key, value))
    }

    /// The attributes, by their full names; an empty value is one.
    pub(super) fn xattrs(&self) -> Xattrs {
        let mut xattrs = Xattrs::new();
        for values in [&self.globals, &self.values] {
            let named = values.range(XATTR.to_vec()..);
            xattrs.extend(named.map_while(|(key, value)| {
                Some((key.strip_prefix(XATTR)?.to_vec(), value.clone()))
            }));
        }
        if let Some(label) = self.told(SELINUX) {
            xattrs.entry(b"security.selinux".to_vec()).or_insert_with(|| label.to_vec());
        }
        xattrs
    }

    /// A POSIX ACL in text form: `access` or `default`.
    pub(super) fn acl(&self, which: &str) -> Option<&[u8]> {
        self.get(format!("SCHILY.acl.{which}").as_bytes())
    }

    /// The length of a sparse file, holes included.
    pub(super) fn sparse_size(&self) -> Result<Option<u64>> {
        match self.number(b"GNU.sparse.realsize")? {
            Some(size) => Ok(Some(size)),
            None => self.number(b"GNU.sparse.size"),
        }
    }

    /// The map of a sparse file where it stands in the header (formats 0.0 and 0.1).
    pub(super) fn sparse_map(&self, sparse_runs: usize) -> Result<Option<Vec<(u64, u64)>>> {
        let key = b"GNU.sparse.map";
        let Some(value) = self.get(key) else {
            return Ok((!self.sparse.is_empty()).then(|| self.sparse.clone()));
        };
        let mut runs = Vec::new();
        let mut numbers = value.split(|&byte| byte == b',');
        while let Some(offset) = numbers.next() {
            let length = numbers.next().ok_or_else(|| malformed(key, value))?;
            runs.push((decimal(key, offset)?, decimal(key, length)?));
            super::limits::check(runs.len(), sparse_runs, "runs in a sparse file")?;
        }
        Ok(Some(runs))
    }

    /// Whether the map of a sparse file stands at the start of its payload (format 1.0).
    pub(super) fn sparse_map_in_payload(&self) -> bool {
        self.get(b"GNU.sparse.major") == Some(b"1")
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>> {
        self.get(key).map(|value| decimal(key, value)).transpose()
    }
}

/// The first record: its key, its value, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let (key, value) = body.split_at(equals);
    if key.is_empty() {
        return None;
    }
    Some((key, value.get(1..)?, rest))
}

fn decimal(key: &[u8], value: &[u8]) -> Result<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| malformed(key, value))
}

fn malformed(key: &[u8], value: &[u8]) -> crate::error::Error {
    invalid(format!("malformed {} in an extended header: {:?}", key.shown(), value.shown()))
}

/// A decimal number of seconds, with or without a fraction, negative or not.
pub(super) fn timestamp(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The least of 64 bits has no positive counterpart among them.
    let whole: i128 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    let (seconds, nanos) = match (negative, nanos) {
        (false, _) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nanos),
    };
    Some(Timestamp { seconds: i64::try_from(seconds).ok()?, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &[u8]) -> Result<Records> {
        let mut records = Records::default();
        records.read(payload, 10).map(|()| records)
    }

    #[test]
    fn values_may_hold_any_byte() {
        let mut payload = Vec::new();
        payload.extend_from_slice(b"27 SCHILY.xattr.user.a=b\nc\n");
        payload.extend_from_slice(b"27 SCHILY.xattr.user.n=\0=\n\n");
        payload.extend_from_slice(b"24 SCHILY.xattr.user.e=\n");
        let xattrs = read(&payload).unwrap().xattrs();
        assert_eq!(xattrs[&b"user.a"[..]], b"b\nc");
        assert_eq!(xattrs[&b"user.n"[..]], b"\0=\n");
        assert_eq!(xattrs[&b"user.e"[..]], b"");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"5 a=b\n"[..], b"x a=b\n", b"6 a=b", b"6 a=bc", b"5 =b\n", b"999999 a=b\n"] {
            assert!(read(bad).is_err(), "{:?}", bad.shown());
        }
        assert!(read(b"6 a=b\n").is_ok());
    }

    #[test]
    fn times() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
            ("4294967296.123456789", 4294967296, 123_456_789),
            ("-9223372036854775808", i64::MIN, 0),
            ("-9223372036854775807.5", i64::MIN, 500_000_000),
        ] {
            assert_eq!(timestamp(text.as_bytes()), Some(Timestamp { seconds, nanos }), "{text}");
        }
        for bad in ["", "x", "1.x", "--1", "1e3", ".", "-9223372036854775808.5"] {
            assert_eq!(timestamp(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn an_empty_value_takes_a_global_one_back() {
        let globals = read(b"10 path=g\n").unwrap();
        assert_eq!(read(b"").unwrap().over(&globals).path(), Some(&b"g"[..]));
        assert_eq!(read(b"8 path=\n").unwrap().over(&globals).path(), None);
    }

    #[test]
    fn global_records_are_shared_by_all_entries() {
        let globals = read(b"25 SCHILY.xattr.user.a=g\n25 SCHILY.xattr.user.b=g\n").unwrap();
        let globals_bytes = globals.bytes();
        let entry = read(b"25 SCHILY.xattr.user.a=e\n").unwrap().over(&globals);
        assert!(Rc::ptr_eq(&entry.globals, &globals.values), "copied for each entry");
        let xattrs = entry.xattrs();
        assert_eq!(
            (&xattrs[&b"user.a"[..]][..], &xattrs[&b"user.b"[..]][..]),
            (&b"e"[..], &b"g"[..])
        );
        // What an entry says of itself says nothing of the next.
        assert_eq!(globals.bytes(), globals_bytes);
        assert_eq!(read(b"").unwrap().over(&globals).xattrs()[&b"user.a"[..]], b"g");
    }
}
