//! A disk whose writes and flushes are written down, and that can be had as of any moment.
//!
//! `qemu-storage-daemon` passes writes on to a file, logs them in the format of the kernel's
//! dm-log-writes, and shows all that as a file, on which a loop device stands.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::need::run;
use crate::common::store::Scratch;
use crate::sample::Random;

const SIZE: u64 = 320 << 20;
/// A flush, and a discard, in an entry's flags.
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// One write or flush.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its bytes are in the log.
    at: u64,
}

#[derive(Debug)]
pub struct Disk {
    scratch: Scratch,
    file_system: String,
    daemon: Option<Child>,
    /// How much of the log is in the disk of which cuts are made.
    rolled: usize,
}

/// A file system that is mounted on a loop device; both go when this is dropped.
#[derive(Debug)]
pub struct Mounted {
    device: String,
    path: PathBuf,
}

impl Disk {
    /// An empty file system.
    pub fn new(file_system: &str) -> Self {
        let scratch = Scratch::new();
        let disk = Self { scratch, file_system: file_system.to_owned(), daemon: None, rolled: 0 };
        let base = disk.path("base.img");
        File::create(&base).unwrap().set_len(SIZE).unwrap();
        File::create(disk.path("log.img")).unwrap().set_len(8 << 30).unwrap();
        File::create(disk.path("disk")).unwrap();
        let force = if file_system == "ext4" { "-F" } else { "-f" };
        run(Command::new(format!("mkfs.{file_system}")).args(["-q", force]).arg(&base));
        run(Command::new("cp").arg("--sparse=always").arg(&base).arg(disk.path("rolled.img")));
        disk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Mounts it; from now on everything is logged.
    pub fn mount_logged(&mut self) -> Mounted {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let blockdev = |text: String| ["--blockdev".to_owned(), text];
        let daemon = Command::new("qemu-storage-daemon")
            .args(blockdev(format!("driver=file,node-name=data,filename={}", path("base.img"))))
            .args(blockdev(format!("driver=file,node-name=log,filename={}", path("log.img"))))
            .args(blockdev(
                "driver=blklogwrites,node-name=logged,file=data,log=log,log-sector-size=512,\
                 log-super-update-interval=1"
                    .to_owned(),
            ))
            .arg("--export")
            .arg(format!(
                "type=fuse,id=disk,node-name=logged,mountpoint={},writable=on",
                path("disk")
            ))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        let shown = self.path("disk");
        for _ in 0..500 {
            if fs::metadata(&shown).unwrap().len() == SIZE {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.mount(&shown).unwrap()
    }

    /// How many writes and flushes there have been.
    pub fn seen(&self) -> u64 {
        header(&mut File::open(self.path("log.img")).unwrap()).0
    }

    /// Ends the daemon and reads what it wrote down.
    pub fn log(&mut self) -> Vec<Entry> {
        self.stop();
        let mut file = File::open(self.path("log.img")).unwrap();
        let (count, sector_size) = header(&mut file);
        assert_eq!(sector_size, 512);
        let mut at = sector_size;
        let mut entries = Vec::new();
        for _ in 0..count {
            let [sector, sectors, flags, _] = numbers(&mut file, at);
            at += sector_size;
            entries.push(Entry { sector, sectors, flags, at });
            if flags & DISCARD == 0 {
                at += sectors * sector_size;
            }
        }
        assert!(entries.iter().any(|entry| entry.flags & FLUSH != 0), "nothing was ever flushed");
        entries
    }

    /// Makes the disk as it may be where the power fails after `moment` entries, moments in
    /// ascending order; tells how many of them were durable, and what became of the others.
    pub fn cut(&mut self, log: &[Entry], moment: usize, random: &mut Random) -> (u64, String) {
        let flush = log[..moment].iter().rposition(|entry| entry.flags & FLUSH != 0);
        let durable = flush.map_or(0, |at| at + 1);
        let mut bytes = File::open(self.path("log.img")).unwrap();
        let mut rolled = File::options().write(true).open(self.path("rolled.img")).unwrap();
        for entry in log.iter().take(durable).skip(self.rolled) {
            apply(&mut rolled, &mut bytes, entry, entry.sectors);
        }
        self.rolled = self.rolled.max(durable);
        let cut = self.path("cut.img");
        // A new file: the one before may still be mounted in a namespace that was made meanwhile.
        let _ = fs::remove_file(&cut);
        run(Command::new("cp").arg("--sparse=always").arg(self.path("rolled.img")).arg(&cut));
        let mut cut = File::options().write(true).open(cut).unwrap();
        let way = random.below(5);
        let pending: Vec<_> = log[durable..moment]
            .iter()
            .filter(|_| way == 1 || (way > 1 && random.below(2) == 0))
            .collect();
        for (index, entry) in pending.iter().enumerate() {
            let torn = way == 4 && index + 1 == pending.len() && entry.sectors > 1;
            let whole = usize::try_from(entry.sectors).unwrap();
            let sectors = if torn { 1 + random.below(whole - 1) } else { whole };
            apply(&mut cut, &mut bytes, entry, sectors as u64);
        }
        let how = ["without", "with all", "with some", "with some", "with some, the last torn, of"];
        let how = format!("{} {} writes since the last flush", how[way], moment - durable);
        (durable as u64, how)
    }

    /// Mounts what [`cut`](Self::cut) made; the file system recovers.
    pub fn mount_cut(&self) -> Result<Mounted, String> {
        self.mount(&self.path("cut.img"))
    }

    fn mount(&self, image: &Path) -> Result<Mounted, String> {
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(image));
        let path = self.path("mounted");
        fs::create_dir_all(&path).unwrap();
        let mounted = Mounted { device, path };
        // A namespace that was made meanwhile may keep the cut before this one mounted.
        let options = if self.file_system == "xfs" { "nouuid" } else { "rw" };
        let done = Command::new("mount")
            .args(["-t", &self.file_system, "-o", options])
            .args([Path::new(&mounted.device), &mounted.path])
            .output()
            .unwrap();
        match done.status.success() {
            true => Ok(mounted),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // It writes its log to the end.
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            let _ = daemon.wait();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Mounted {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for mounted in crate::common::store::mounts_beneath(&self.path) {
            let _ = rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::empty());
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// The number of entries and the size of a sector.
fn header(file: &mut File) -> (u64, u64) {
    let [_magic, _version, count, sector_size] = numbers(file, 0);
    (count, sector_size & 0xffff_ffff)
}

fn numbers(file: &mut File, at: u64) -> [u64; 4] {
    let mut bytes = [0; 32];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    [0, 8, 16, 24].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
}

fn apply(image: &mut File, log: &mut File, entry: &Entry, sectors: u64) {
    let mut bytes = vec![0; usize::try_from(sectors * 512).unwrap()];
    // A loop device passes zeroes on as a hole, which is logged as a discard.
    if entry.flags & DISCARD == 0 {
        log.seek(SeekFrom::Start(entry.at)).unwrap();
        log.read_exact(&mut bytes).unwrap();
    }
    image.seek(SeekFrom::Start(entry.sector * 512)).unwrap();
    image.write_all(&bytes).unwrap();
}
