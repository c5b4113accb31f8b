//! An image that needs nothing but this program: the program itself, and the libraries it runs with.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use overlay2::{CommitOptions, Driver, Watch};
use tar::{Builder, EntryType, Header};

use crate::Result;

/// The argument with which this program says hello from inside.
pub(crate) const HELLO: &str = "--hello";

/// A store with the image, its name, and what is to be run.
pub(crate) fn image(store: &Path) -> Result<(Driver, String, Vec<OsString>)> {
    let mut tar = Builder::new(Vec::new());
    for name in ["dev", "etc", "proc", "tmp", "var"] {
        let mut header = header(EntryType::Directory, 0o755, 0);
        tar.append_data(&mut header, format!("{name}/"), std::io::empty())?;
    }
    put(&mut tar, Path::new("/bin/hello"), &std::env::current_exe()?)?;
    for library in libraries()? {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        put(&mut tar, &library, &library)?;
        // A program names its loader by a path of its own.
        if name.starts_with("ld-") {
            put(&mut tar, &Path::new("/lib64").join(&name), &library)?;
            put(&mut tar, &Path::new("/lib").join(&name), &library)?;
        }
    }
    let driver = Driver::open(store)?;
    let mut options = CommitOptions::default();
    options.created_by = Some("ADD hello /bin/".to_owned());
    driver.import(tar.into_inner()?.as_slice(), "example/hello", &options, Watch::new())?;
    Ok((driver, "example/hello".to_owned(), vec!["/bin/hello".into(), HELLO.into()]))
}

/// What this process has loaded: its libraries and their loader.
fn libraries() -> Result<BTreeSet<PathBuf>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let files = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    Ok(files.filter(|path| path.contains(".so")).map(PathBuf::from).collect())
}

fn put(tar: &mut Builder<Vec<u8>>, at: &Path, file: &Path) -> Result<()> {
    let bytes = std::fs::read(file)?;
    let mut header = header(EntryType::Regular, 0o755, bytes.len());
    Ok(tar.append_data(&mut header, at.strip_prefix("/")?, bytes.as_slice())?)
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// What the program says inside.
pub(crate) fn hello() -> Result<ExitStatus> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("/")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    println!("hello from process {} of {host}; / has {}", std::process::id(), names.join(" "));
    let interfaces = std::fs::read_to_string("/proc/net/dev")?.lines().count() - 2;
    println!("I see {interfaces} network interface");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open("/var/hello")?;
    file.write_all(b"I was here\n")?;
    Ok(ExitStatus::from_raw(0))
}
