//! Writes tars byte for byte, wrong ones included.

/// The size of a block.
pub(crate) const BLOCK: usize = 512;

/// What stands in the magic field, and so what the fields behind it mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Magic {
    V7,
    Ustar,
    Gnu,
}

/// One entry, with what stands before it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    before: Vec<u8>,
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    owner: (i128, i128),
    mtime: i128,
    link: Vec<u8>,
    payload: Vec<u8>,
    size: Option<i128>,
    device: (u32, u32),
    magic: Magic,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    fields: Vec<(usize, Vec<u8>)>,
    bad_checksum: bool,
}

impl Entry {
    pub(crate) fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref().to_vec();
        let mut entry = Self {
            before: Vec::new(),
            name,
            kind,
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_600_000_000,
            link: Vec::new(),
            payload: Vec::new(),
            size: None,
            device: (0, 0),
            magic: Magic::Ustar,
            pax: Vec::new(),
            fields: Vec::new(),
            bad_checksum: false,
        };
        if entry.name.len() > 100 {
            let name = entry.name.clone();
            entry = entry.pax("path", name);
        }
        entry
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: i128, gid: i128) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub(crate) fn mtime(mut self, seconds: i128) -> Self {
        self.mtime = seconds;
        self
    }

    pub(crate) fn payload(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.payload = payload.as_ref().to_vec();
        self
    }

    /// What the size field says, whatever the payload is.
    pub(crate) fn size(mut self, size: i128) -> Self {
        self.size = Some(size);
        self
    }

    pub(crate) fn magic(mut self, magic: Magic) -> Self {
        self.magic = magic;
        self
    }

    pub(crate) fn kind(mut self, kind: u8) -> Self {
        self.kind = kind;
        self
    }

    /// A record of the extended header in front.
    pub(crate) fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(format!("SCHILY.xattr.{name}"), value)
    }

    /// Bytes in front of the entry, and of its extended header.
    pub(crate) fn after(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.before.extend_from_slice(bytes.as_ref());
        self
    }

    /// Bytes that are put into the header before its checksum is made.
    pub(crate) fn field(mut self, offset: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.fields.push((offset, bytes.as_ref().to_vec()));
        self
    }

    pub(crate) fn bad_checksum(mut self) -> Self {
        self.bad_checksum = true;
        self
    }

    /// The bytes of the entry, padded to whole blocks.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.before.clone();
        if !self.pax.is_empty() {
            let records: Vec<_> = self.pax.iter().map(|(k, v)| record(k, v)).collect();
            bytes.extend(pax_block(b'x', &records.concat()));
        }
        bytes.extend(self.header());
        bytes.extend(padded(&self.payload));
        bytes
    }

    /// Zeros behind the payload.
    pub(crate) fn padding(&self) -> usize {
        self.payload.len().next_multiple_of(BLOCK) - self.payload.len()
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        let mut put = |offset: usize, bytes: &[u8]| {
            header[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, &number(self.mode.into(), 8));
        put(108, &number(self.owner.0, 8));
        put(116, &number(self.owner.1, 8));
        put(124, &number(self.size.unwrap_or(self.payload.len() as i128), 12));
        put(136, &number(self.mtime, 12));
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        match self.magic {
            Magic::V7 => {}
            Magic::Ustar => put(257, b"ustar\x0000"),
            Magic::Gnu => put(257, b"ustar  \0"),
        }
        if self.magic != Magic::V7 {
            put(329, &number(self.device.0.into(), 8));
            put(337, &number(self.device.1.into(), 8));
        }
        for (offset, bytes) in &self.fields {
            put(*offset, bytes);
        }
        put(148, b"        ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        let sum = if self.bad_checksum { sum + 1 } else { sum };
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }
}

pub(crate) fn dir(name: impl AsRef<[u8]>) -> Entry {
    Entry::new(b'5', name).mode(0o755)
}

pub(crate) fn file(name: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Entry {
    Entry::new(b'0', name).payload(payload)
}

/// A whiteout or an opaque marker, by its full name.
pub(crate) fn mark(name: impl AsRef<[u8]>) -> Entry {
    file(name, "")
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    linked(Entry::new(b'2', name).mode(0o777), target.as_ref())
}

pub(crate) fn link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    linked(Entry::new(b'1', name), target.as_ref())
}

fn linked(mut entry: Entry, target: &[u8]) -> Entry {
    entry.link = target.to_vec();
    if target.len() > 100 { entry.pax("linkpath", target) } else { entry }
}

pub(crate) fn fifo(name: impl AsRef<[u8]>) -> Entry {
    Entry::new(b'6', name)
}

pub(crate) fn char_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Entry {
    Entry { device: (major, minor), ..Entry::new(b'3', name) }
}

pub(crate) fn block_device(name: impl AsRef<[u8]>, major: u32, minor: u32) -> Entry {
    Entry { device: (major, minor), ..Entry::new(b'4', name) }
}

/// A whole archive, with its two end blocks.
pub(crate) fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = open_tar(entries);
    bytes.extend([0; 2 * BLOCK]);
    bytes
}

/// An archive that stops behind its last entry.
pub(crate) fn open_tar(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(Entry::bytes).collect()
}

/// An extended header of type `x` or `g` over these records.
pub(crate) fn pax_block(kind: u8, records: &[u8]) -> Vec<u8> {
    Entry::new(kind, "PaxHeader").payload(records).bytes()
}

/// One record, its length counting itself.
pub(crate) fn record(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (key, value) = (key.as_ref(), value.as_ref());
    let body = key.len() + value.len() + 3;
    let length = (1..20)
        .map(|digits| body + digits)
        .find(|length| length.to_string().len() + body == *length);
    let mut record = format!("{} ", length.unwrap()).into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// A long name (`L`) or link target (`K`) as GNU writes it.
pub(crate) fn gnu_long(kind: u8, text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = [text.as_ref(), b"\0"].concat();
    Entry::new(kind, "././@LongLink").magic(Magic::Gnu).payload(text).bytes()
}

/// Octal where it fits, else base 256.
pub(crate) fn number(value: i128, width: usize) -> Vec<u8> {
    let text = format!("{value:0width$o}\0", width = width - 1).into_bytes();
    if value >= 0 && text.len() <= width {
        return text;
    }
    let mut bytes = value.to_be_bytes()[16 - width..].to_vec();
    bytes[0] = if value < 0 { 0xff } else { bytes[0] | 0x80 };
    bytes
}

fn padded(payload: &[u8]) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    bytes.resize(payload.len().div_ceil(BLOCK) * BLOCK, 0);
    bytes
}
