//! [`Checksum`]: tells which file of a layer is damaged, where its digest can only tell that one is.

use std::fs::File;
use std::io::{self, Write};

use crate::sys::copy::next_data;
use crate::sys::dir::SysResult;
use rustix::io::Errno;

/// A CRC-32 (that of zip and ethernet) over the whole content of a file, holes as zeros.
///
/// It finds every flipped byte. Whether a whole layer is right is for its sha256 to say.
#[derive(Clone, Debug, Default)]
pub(super) struct Checksum(crc32fast::Hasher);

impl Checksum {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As many zeros, in a time that hardly depends on how many.
    pub(super) fn zeros(&mut self, mut count: u64) {
        let mut power = crc32fast::Hasher::new();
        power.update(&[0]);
        while count > 0 {
            if count & 1 == 1 {
                self.0.combine(&power);
            }
            let half = power.clone();
            power.combine(&half);
            count >>= 1;
        }
    }

    pub(super) fn value(&self) -> u32 {
        self.0.clone().finalize()
    }

    /// That of a file of `size` bytes; its holes are not read.
    pub(super) fn of_file(file: &File, size: u64) -> SysResult<u32> {
        let mut sum = Self::default();
        let mut buffer = vec![0; 256 << 10];
        let mut at = 0;
        while let Some((start, end)) = next_data(file, at, size)? {
            sum.zeros(start - at);
            at = start;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
                let piece = buffer.get_mut(..want).unwrap_or_default();
                let read = match rustix::io::pread(file, &mut *piece, at) {
                    Ok(0) => return Err(Errno::IO),
                    Err(Errno::INTR) => continue,
                    read => read?,
                };
                sum.update(piece.get(..read).unwrap_or_default());
                at += read as u64;
            }
        }
        sum.zeros(size - at);
        Ok(sum.value())
    }
}

/// Passes bytes on and sums them up.
pub(super) struct Summing<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) sum: Checksum,
    pub(super) bytes: u64,
}

impl Write for Summing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_count_as_though_they_were_read() {
        for count in [0, 1, 7, 4096, 100_003] {
            let (mut short, mut long) = (Checksum::default(), Checksum::default());
            for sum in [&mut short, &mut long] {
                sum.update(b"before");
            }
            short.zeros(count);
            long.update(&vec![0; usize::try_from(count).unwrap()]);
            for sum in [&mut short, &mut long] {
                sum.update(b"behind");
            }
            assert_eq!(short.value(), long.value(), "{count}");
        }
        let mut known = Checksum::default();
        known.update(b"123456789");
        assert_eq!(known.value(), 0xcbf4_3926);
    }

    #[test]
    fn a_file_with_holes_is_summed_as_a_whole() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"data", 1 << 20).unwrap();
        file.set_len(3 << 20).unwrap();
        let mut plain = Checksum::default();
        plain.update(&vec![0; 1 << 20]);
        plain.update(b"data");
        plain.update(&vec![0; (2 << 20) - 4]);
        assert_eq!(Checksum::of_file(&file, 3 << 20).unwrap(), plain.value());
    }
}
