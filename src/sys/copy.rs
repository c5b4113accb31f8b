//! Copies the content of a file: by reflink where the file system can, and never filling holes.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::dir::SysResult;

/// What a copy has left to be written to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// There was nothing to copy.
    Nothing,
    /// The knowledge of which blocks are shared. File systems that can share keep it in their
    /// journals, in order with the name that the copy gets later; the kernel's overlayfs does not
    /// sync it either.
    Shared,
    /// Bytes.
    Bytes,
}

/// Whether a file system shares blocks, as far as is known: it is not asked again for each file.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    is_impossible: AtomicBool,
}

/// The most bytes that one `copy_file_range` is asked for.
const CHUNK: u64 = 1 << 30;

/// The size of most file systems' blocks.
const BLOCK: usize = 4 << 10;

/// The size of the smallest blocks that a file system leaves out as holes.
const SMALLEST_BLOCK: usize = 1 << 10;

/// The most bytes that are sooner read and written than handed over inside the kernel.
const SMALL: u64 = 64 << 10;

/// Makes `to`, which is empty, the same `length` bytes as `from`, holes included.
///
/// Shares the blocks where the file system can (`FICLONE`), else lets the kernel copy
/// (`copy_file_range`), else reads and writes. The offsets of both files are left anywhere.
pub(crate) fn contents(
    from: &File,
    to: &File,
    length: u64,
    sharing: &Sharing,
) -> SysResult<Written> {
    if length == 0 {
        return Ok(Written::Nothing);
    }
    if share(from, to, sharing)? {
        return Ok(Written::Shared);
    }
    if length <= BLOCK as u64 && one_block(from, to, length)? {
        return Ok(Written::Bytes);
    }
    if is_dense(from, length)? {
        let copy = if length <= SMALL { by_hand } else { range };
        // Where the file became shorter meanwhile, it is cut below.
        if copy(from, to, 0, length)? == length {
            return Ok(Written::Bytes);
        }
    }
    rustix::io::retry_on_intr(|| rustix::fs::ftruncate(to, length))?;
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, length)? {
        range(from, to, start, end)?;
        at = end;
    }
    Ok(Written::Bytes)
}

fn share(from: &File, to: &File, sharing: &Sharing) -> SysResult<bool> {
    if sharing.is_impossible.load(Ordering::Relaxed) {
        return Ok(false);
    }
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        // The file system cannot: `to` is on the same one each time.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
            sharing.is_impossible.store(true, Ordering::Relaxed);
            Ok(false)
        }
        Err(Errno::XDEV | Errno::INVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies a file of one block, unless it is not all there, or may have holes: then does nothing.
fn one_block(from: &File, to: &File, length: u64) -> SysResult<bool> {
    let mut buffer = [0; BLOCK];
    let length = usize::try_from(length).unwrap_or(BLOCK);
    let read = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..], 0))?;
    let bytes = buffer.get(..read).filter(|_| read == length).unwrap_or_default();
    let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
    if bytes.is_empty() || bytes.chunks(SMALLEST_BLOCK).any(is_zero) {
        return Ok(false);
    }
    write_at(to, bytes, 0).map(|()| true)
}

/// Whether there is no hole in the first `length` bytes.
fn is_dense(file: &File, length: u64) -> SysResult<bool> {
    match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(hole) => Ok(hole >= length),
        // A file system that knows no holes; or the file became empty meanwhile.
        Err(Errno::INVAL | Errno::NXIO) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The next run of bytes at or after `at` that is no hole; `None` where only a hole follows.
pub(crate) fn next_data(file: &File, at: u64, length: u64) -> SysResult<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL) => return Ok(Some((at, length))),
        Err(error) => return Err(error),
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.min(length),
        Err(Errno::INVAL | Errno::NXIO) => length,
        Err(error) => return Err(error),
    };
    Ok((start < end).then_some((start, end)))
}

/// Copies a run of bytes, and tells where it ended: before `end` where the file became shorter.
fn range(from: &File, to: &File, start: u64, end: u64) -> SysResult<u64> {
    let (mut source, mut target) = (start, start);
    while source < end {
        let want = usize::try_from((end - source).min(CHUNK)).unwrap_or(1 << 20);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), want) {
            Ok(0) => return Ok(source),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return by_hand(from, to, source, end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(end)
}

fn by_hand(from: &File, to: &File, mut at: u64, end: u64) -> SysResult<u64> {
    let most = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; most.min(256 << 10)];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = match rustix::io::pread(from, buffer.get_mut(..want).unwrap_or_default(), at) {
            Ok(0) => return Ok(at),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        write_at(to, buffer.get(..read).unwrap_or_default(), at)?;
        at += read as u64;
    }
    Ok(at)
}

/// Writes all of `data` at an offset of a file.
pub(crate) fn write_at(file: &File, mut data: &[u8], mut at: u64) -> SysResult<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(file, data, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                at += written as u64;
                data = data.get(written..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn holes_stay_holes() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(8 << 20).unwrap();
        from.write_all_at(b"middle", 4 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        contents(&from, &to, 8 << 20, &Sharing::default()).unwrap();
        let mut text = [0; 6];
        to.read_exact_at(&mut text, 4 << 20).unwrap();
        assert_eq!(&text, b"middle");
        assert_eq!(to.metadata().unwrap().len(), 8 << 20);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_hole_of_one_block_stays_a_hole() {
        for (length, written) in [(4096, &b""[..]), (3000, b""), (4096, b"x"), (2048, b"\0")] {
            let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all_at(written, 0).unwrap();
            from.set_len(length).unwrap();
            let copied = contents(&from, &to, length, &Sharing { is_impossible: true.into() });
            assert_eq!(copied.unwrap(), Written::Bytes, "{length}");
            let (from, to) = (from.metadata().unwrap(), to.metadata().unwrap());
            assert_eq!((to.len(), to.blocks()), (length, from.blocks()), "{written:?}");
        }
    }

    #[test]
    fn a_dense_file_of_any_size_is_copied_whole() {
        for length in [1, 4096, SMALL, SMALL + 1, 3 << 20] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all_at(&bytes, 0).unwrap();
            contents(&from, &to, length, &Sharing::default()).unwrap();
            let mut copy = vec![0; bytes.len()];
            to.read_exact_at(&mut copy, 0).unwrap();
            assert!(copy == bytes && to.metadata().unwrap().len() == length, "{length}");
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_it_was_is_still_as_long_as_it_was_said_to_be() {
        for there in [0, 5, 3 << 20] {
            let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all_at(&vec![7; there], 0).unwrap();
            let length = there as u64 + 100;
            contents(&from, &to, length, &Sharing { is_impossible: true.into() }).unwrap();
            assert_eq!(to.metadata().unwrap().len(), length);
        }
    }

    #[test]
    fn copying_by_hand_gives_the_same_bytes() {
        let from = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
        from.write_all_at(&bytes, 0).unwrap();
        let to = tempfile::tempfile().unwrap();
        by_hand(&from, &to, 0, bytes.len() as u64).unwrap();
        let mut copy = vec![0; bytes.len()];
        to.read_exact_at(&mut copy, 0).unwrap();
        assert!(copy == bytes);
    }
}
