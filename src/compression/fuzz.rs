//! What fuzzing tries here: streams, compressed or not, whole or not.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "compiled for tests and fuzzing alone"
)]

use std::io::{self, Read, Write};

use super::Compression;

/// The most that is decompressed of one input.
const BOUND: u64 = 1 << 22;

/// Gives one byte after the other, as a slow pipe does.
struct Dripping<'a>(&'a [u8]);

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}

/// What is inside, as far as it is decompressed here.
fn unpacked(input: impl Read) -> io::Result<Vec<u8>> {
    let (how, whole) = Compression::sniff(input)?;
    let mut plain = Vec::new();
    how.decoder(whole)?.take(BOUND).read_to_end(&mut plain)?;
    Ok(plain)
}

fn packed(how: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = how.encoder(Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// How a stream is cut into reads makes no difference; what was compressed comes out whole or not at
/// all.
pub(crate) fn streams(data: &[u8]) {
    let at_once = unpacked(data);
    let dripping = unpacked(Dripping(data));
    match (&at_once, &dripping) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.kind(), other.kind()),
        _ => panic!("{at_once:?} at once, {dripping:?} byte by byte"),
    }
    if Compression::detect(data) == Compression::None {
        assert_eq!(at_once.unwrap(), data);
    }
    let Some((&choice, rest)) = data.split_first() else { return };
    let (one, other) = rest.split_at(usize::from(choice) % (rest.len() + 1));
    for how in ["gzip", "zstd"] {
        let how: Compression = how.parse().unwrap();
        if how.encoder(Vec::new()).is_err() {
            // A build without it.
            continue;
        }
        let members = [packed(how, one), packed(how, other)];
        let whole = members.concat();
        assert_eq!(unpacked(&whole[..]).unwrap(), rest, "{how}");
        let cut = usize::from(choice) * whole.len() / 256;
        if cut < whole.len() && cut >= 4 && cut != members[0].len() {
            assert!(unpacked(&whole[..cut]).is_err(), "{how} cut at {cut}");
        }
        if how == Compression::Gzip {
            // It has a checksum: what was damaged is never taken for something else.
            let mut damaged = whole.clone();
            damaged[cut] ^= 1 << (choice % 8);
            assert!(unpacked(&damaged[..]).map_or(true, |found| found == rest || cut < 2));
        }
    }
}
