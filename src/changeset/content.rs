//! Writes a payload into a file: only what is data, long zeros become holes.

use std::fs::File;
use std::io::BufRead;

use super::checksum::Checksum;
use super::header::invalid;
use super::reader::TarReader;
use crate::error::{Context, Result, Subject};
use crate::layer_path::LayerPath;
use crate::sys::copy;

/// Runs of zeros of at least this many bytes become holes.
const HOLE: usize = 16 << 10;
/// The granularity of holes: the block size of nearly every file system.
const GRAIN: usize = 4 << 10;

/// The content of one file on its way to it: long zeros become holes.
pub(super) struct Content<'a> {
    file: &'a File,
    path: &'a LayerPath,
    sum: Checksum,
    /// Where what was seen ends, and where what was written does.
    end: u64,
    end_of_data: u64,
}

impl<'a> Content<'a> {
    pub(super) fn new(file: &'a File, path: &'a LayerPath) -> Self {
        Self { file, path, sum: Checksum::default(), end: 0, end_of_data: 0 }
    }

    /// Writes what stands at `at`; what lies before it and was not written becomes a hole.
    pub(super) fn write(&mut self, piece: &[u8], at: u64) -> Result<()> {
        self.sum.zeros(at.saturating_sub(self.end));
        self.sum.update(piece);
        self.end = at + piece.len() as u64;
        for (start, data) in data_runs(piece, at) {
            copy::write_at(self.file, data, start).during("write", self.path)?;
            self.end_of_data = start + data.len() as u64;
        }
        Ok(())
    }

    /// Gives the file its size, and gives the checksum of the whole content.
    pub(super) fn finish(mut self, size: u64) -> Result<u32> {
        if self.end_of_data < size {
            rustix::io::retry_on_intr(|| rustix::fs::ftruncate(self.file, size))
                .during("write", self.path)?;
        }
        self.sum.zeros(size.saturating_sub(self.end));
        Ok(self.sum.value())
    }
}

/// Writes the payload into the file's runs; long zeros, and what lies between runs, become holes.
/// Gives the checksum of the whole content.
pub(super) fn write_content<R: BufRead>(
    file: &File,
    runs: &[(u64, u64)],
    size: u64,
    tar: &mut TarReader<R>,
    path: &LayerPath,
) -> Result<u32> {
    let mut content = Content::new(file, path);
    for &(offset, length) in runs {
        let mut at = offset;
        each_piece(tar, length, path, |piece| {
            content.write(piece, at)?;
            at += piece.len() as u64;
            Ok(())
        })?;
    }
    content.finish(size)
}

/// Takes so many bytes of a payload, piece by piece.
pub(super) fn each_piece<R: BufRead>(
    tar: &mut TarReader<R>,
    mut left: u64,
    path: &LayerPath,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    while left > 0 {
        let piece = tar.payload(left)?;
        if piece.is_empty() {
            return Err(invalid(format!("the payload of {} ends early", path.shown())));
        }
        left -= piece.len() as u64;
        take(piece)?;
    }
    Ok(())
}

/// The parts of `piece`, which begins at `offset` of its file, that are no long zeros.
pub(super) fn data_runs(piece: &[u8], offset: u64) -> Vec<(u64, &[u8])> {
    let mut runs = Vec::new();
    // Where the current run of data began, and where the current zeros.
    let (mut data, mut zeros) = (0, None);
    // The first step ends where a block of the file does.
    let lead = usize::try_from(offset % GRAIN as u64).unwrap_or(0);
    let mut at = 0;
    let mut close = |data: usize, end: usize| {
        if let Some(bytes) = piece.get(data..end).filter(|bytes| !bytes.is_empty()) {
            runs.push((offset + data as u64, bytes));
        }
    };
    while at < piece.len() {
        let step = if at == 0 { GRAIN - lead } else { GRAIN };
        let end = (at + step).min(piece.len());
        let is_zero = piece.get(at..end).is_some_and(is_zero);
        match (is_zero, zeros) {
            (true, None) => zeros = Some(at),
            (false, Some(start)) if at - start >= HOLE => {
                close(data, start);
                (data, zeros) = (at, None);
            }
            (false, Some(_)) => zeros = None,
            _ => {}
        }
        at = end;
    }
    match zeros {
        Some(start) if piece.len() - start >= HOLE => close(data, start),
        _ => close(data, piece.len()),
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    // Nearly all data shows itself in the first bytes; the rest is compared in wide steps.
    bytes.first() == Some(&0) && bytes.iter().fold(0, |any, &byte| any | byte) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_zeros_become_holes() {
        let runs = |piece: &[u8], offset: u64| -> Vec<(u64, usize)> {
            data_runs(piece, offset).into_iter().map(|(at, data)| (at, data.len())).collect()
        };
        let mut piece = vec![1; 4096];
        piece.extend(vec![0; 5 * 4096]);
        piece.extend(vec![2; 100]);
        assert_eq!(runs(&piece, 0), [(0, 4096), (6 * 4096, 100)]);
        assert_eq!(runs(&piece, 1 << 20), [(1 << 20, 4096), ((1 << 20) + 6 * 4096, 100)]);
        // Holes begin and end where the file's blocks do, whatever the piece begins with.
        let found = runs(&piece, 96);
        assert!(found.iter().skip(1).all(|(at, _)| at % 4096 == 0), "{found:?}");
        assert_eq!(found.iter().map(|(_, length)| length).sum::<usize>(), 4096 + 100 + 4096);
        assert_eq!(runs(&vec![0; 64 << 10], 0), []);
        assert_eq!(runs(&vec![0; 64 << 10], 96), []);
        assert_eq!(runs(&[0; 100], 0), [(0, 100)]);
        assert_eq!(runs(b"", 0), []);
    }
}
