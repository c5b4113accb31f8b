//! One header of a tar, and the extended header for what does not fit it, in one fixed form.
//!
//! Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header".

use tar::{EntryType, Header};

use crate::inode::{Device, Inode, Timestamp};

/// The largest number in an octal field of 7 digits, and in one of 11.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// A header that is being filled in, with the records that do not fit it.
pub(super) struct Entry {
    pub(super) header: Header,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Owner, mode and time of `inode`, and no size.
    pub(super) fn new(inode: &Inode) -> Self {
        let mut entry = Self { header: Header::new_ustar(), records: Vec::new() };
        entry.header.set_mode(inode.mode);
        entry.header.set_size(0);
        for (key, id) in [("uid", inode.uid), ("gid", inode.gid)] {
            let fits = u64::from(id) <= OCTAL_7;
            if !fits {
                entry.record(key.into(), id.to_string().into_bytes());
            }
            let field = if fits { id.into() } else { 0 };
            match key {
                "uid" => entry.header.set_uid(field),
                _ => entry.header.set_gid(field),
            }
        }
        if let Some(ustar) = entry.header.as_ustar_mut() {
            ustar.set_device_major(0);
            ustar.set_device_minor(0);
        }
        entry.time(inode.mtime);
        entry
    }

    /// Adds a record to the extended header.
    pub(super) fn record(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.records.push((key, value));
    }

    fn time(&mut self, time: Timestamp) {
        let whole = u64::try_from(time.seconds).ok().filter(|&seconds| seconds <= OCTAL_11);
        self.header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || time.nanos != 0 {
            self.record(b"mtime".to_vec(), decimal(time).into_bytes());
        }
    }

    /// Sets the length of the content.
    pub(super) fn size(&mut self, size: u64) {
        if size > OCTAL_11 {
            self.record(b"size".to_vec(), size.to_string().into_bytes());
        }
        self.header.set_size(if size > OCTAL_11 { 0 } else { size });
    }

    /// Sets the device number; fails where a field cannot hold it.
    pub(super) fn device(&mut self, device: Device) -> std::io::Result<()> {
        self.header.set_device_major(device.major)?;
        self.header.set_device_minor(device.minor)
    }

    /// Sets what a link points to.
    pub(super) fn link(&mut self, target: &[u8]) {
        if !fits_name(target) {
            self.record(b"linkpath".to_vec(), target.to_vec());
        }
        if let Some(ustar) = self.header.as_ustar_mut() {
            fill(&mut ustar.linkname, target);
        }
    }

    /// Sets the entry's name.
    pub(super) fn name(&mut self, name: &[u8]) {
        if !fits_name(name) {
            self.record(b"path".to_vec(), name.to_vec());
        }
        if let Some(ustar) = self.header.as_ustar_mut() {
            fill(&mut ustar.name, name);
        }
    }

    /// The payload of the extended header; `None` where none is needed.
    pub(super) fn extended_payload(&mut self) -> Option<Vec<u8>> {
        if self.records.is_empty() {
            return None;
        }
        self.records.sort_unstable();
        let mut payload = Vec::new();
        for (key, value) in &self.records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            payload.extend_from_slice(length.to_string().as_bytes());
            payload.push(b' ');
            payload.extend_from_slice(key);
            payload.push(b'=');
            payload.extend_from_slice(value);
            payload.push(b'\n');
        }
        Some(payload)
    }
}

/// The header of an extended header: of a fixed form but for the file's name, cut to fit.
pub(super) fn extended_header(name: &[u8], size: u64) -> Header {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let base = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
    let mut header = Header::new_ustar();
    if let Some(ustar) = header.as_ustar_mut() {
        fill(&mut ustar.name, &[b"PaxHeaders.0/", base].concat());
        ustar.set_device_major(0);
        ustar.set_device_minor(0);
    }
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_cksum();
    header
}

fn fits_name(name: &[u8]) -> bool {
    name.len() <= 100 && name.is_ascii()
}

/// Puts a name into its field, cut where it is too long, what is not ASCII replaced by `_`: for
/// readers that know no extended headers.
fn fill(field: &mut [u8], name: &[u8]) {
    for (to, &from) in field.iter_mut().zip(name) {
        *to = if from.is_ascii() { from } else { b'_' };
    }
}

/// A time as pax writes it: `-0.5` for half a second before 1970.
fn decimal(time: Timestamp) -> String {
    let (sign, seconds, nanos) = match (time.seconds, time.nanos) {
        (seconds @ ..0, 0) => ("-", seconds.unsigned_abs(), 0),
        (seconds @ ..0, nanos) => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanos),
        (seconds, nanos) => ("", seconds.unsigned_abs(), nanos),
    };
    let fraction = format!(".{nanos:09}");
    format!("{sign}{seconds}{}", fraction.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_extended_headers() {
        for (seconds, nanos, text) in [
            (0, 1, "0.000000001"),
            (1, 500_000_000, "1.5"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 750_000_000, "-1.25"),
            (i64::MIN, 0, "-9223372036854775808"),
            (8_589_934_592, 0, "8589934592"),
        ] {
            assert_eq!(decimal(Timestamp { seconds, nanos }), text);
        }
    }

    #[test]
    fn what_does_not_fit_a_header_stands_before_it() {
        let mut inode = Inode::default_directory();
        (inode.uid, inode.gid) = (0o7_777_777, 0o10_000_000);
        inode.mtime = Timestamp::from_seconds(1 << 33);
        let mut entry = Entry::new(&inode);
        entry.size(8 << 30);
        entry.name(&[b'n'; 101]);
        let payload = String::from_utf8(entry.extended_payload().unwrap()).unwrap();
        let name = "n".repeat(101);
        let expected =
            format!("15 gid=2097152\n20 mtime=8589934592\n111 path={name}\n19 size=8589934592\n");
        assert_eq!(payload, expected);
        assert_eq!(entry.header.uid().unwrap(), 0o7_777_777);
        assert_eq!((entry.header.gid().unwrap(), entry.header.size().unwrap()), (0, 0));
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in 0..1200 {
            let mut entry = Entry::new(&Inode::default_directory());
            entry.record(b"k".to_vec(), vec![b'v'; length]);
            let payload = entry.extended_payload().unwrap();
            let told = payload.split(|&byte| byte == b' ').next().unwrap();
            assert_eq!(std::str::from_utf8(told).unwrap().parse(), Ok(payload.len()));
        }
    }
}
