//! [`UserNamespace`]: a command as root of a user and mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Pid;

use super::interrupts::Interrupts;
use super::subid::{self, Granted};
use super::unshare;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::id_map::{IdMap, IdRange};

/// The inode number of the first user namespace's file (`USER_NS_INIT_INO` of `linux/nsfs.h`).
const INITIAL: u64 = 0xEFFF_FFFD;

/// Which ids a command gets in a user namespace of its own, and who writes them into it.
///
/// ```no_run
/// # use std::process::Command;
/// # use overlay2::userns::UserNamespace;
/// let status = UserNamespace::plan()?.run(Command::new("id"))?;
/// # Ok::<(), overlay2::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    uids: IdMap,
    gids: IdMap,
    writer: Writer,
}

/// Who may write the maps of the new namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Writer {
    /// This process, because it may set any id.
    Privileged,
    /// This process, because only its own ids are mapped.
    OwnIds,
    /// `newuidmap` and `newgidmap`, which may do so by their file mode.
    Helpers { uids: PathBuf, gids: PathBuf },
}

impl UserNamespace {
    /// Takes as many ids as the process can have.
    ///
    /// - Effective user id 0: all ids that the process has now, each as itself.
    /// - Else, where `/etc/subuid` and `/etc/subgid` grant ranges to the user, and `newuidmap` and
    ///   `newgidmap` are installed and can do their work: the own ids as 0, the ranges from 1 on.
    /// - Else: [its own ids alone](Self::single_id).
    ///
    /// # Errors
    /// Where `/proc` or one of the two files cannot be read.
    pub fn plan() -> Result<Self> {
        let (uids, gids) = current_maps()?;
        if rustix::process::geteuid().is_root() {
            let (uids, gids) = (as_themselves(&uids)?, as_themselves(&gids)?);
            return Ok(Self { uids, gids, writer: Writer::Privileged });
        }
        match Self::with_ranges(&uids, &gids)? {
            Some(planned) => Ok(planned),
            None => Self::single_id(),
        }
    }

    /// Takes the effective user and group id of the process as 0, and no other id.
    ///
    /// Nothing in such a namespace can be given to another owner, and its supplementary groups
    /// cannot be changed (`setgroups(2)` is denied, as the kernel demands).
    ///
    /// # Errors
    /// None today.
    pub fn single_id() -> Result<Self> {
        let alone = |outside| IdMap::new([IdRange { inside: 0, outside, count: 1 }]);
        let uids = alone(rustix::process::geteuid().as_raw())?;
        let gids = alone(rustix::process::getegid().as_raw())?;
        Ok(Self { uids, gids, writer: Writer::OwnIds })
    }

    fn with_ranges(uids: &IdMap, gids: &IdMap) -> Result<Option<Self>> {
        let (Some(new_uids), Some(new_gids)) = (find("newuidmap"), find("newgidmap")) else {
            return Ok(None);
        };
        // The two programs get their rights by their file mode, which this forbids.
        if rustix::thread::no_new_privs().unwrap_or(false) {
            return Ok(None);
        }
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let passwd = read_if_exists("/etc/passwd")?;
        let login = subid::login_name(&passwd, uid.as_raw());
        // Both files name the user; group ids are granted to users, too.
        let granted = |file| -> Result<Vec<Granted>> {
            Ok(subid::granted(&read_if_exists(file)?, uid.as_raw(), login))
        };
        let uids = subid::map_of(uid.as_raw(), &granted("/etc/subuid")?, uids);
        let gids = subid::map_of(gid.as_raw(), &granted("/etc/subgid")?, gids);
        let writer = Writer::Helpers { uids: new_uids, gids: new_gids };
        Ok(uids.zip(gids).map(|(uids, gids)| Self { uids, gids, writer }))
    }

    /// The user ids that the command will have; `outside` is as this process sees them.
    pub fn uids(&self) -> &IdMap {
        &self.uids
    }

    /// The group ids that the command will have; `outside` is as this process sees them.
    pub fn gids(&self) -> &IdMap {
        &self.gids
    }

    /// Runs a command in a new user and mount namespace, and waits for its end.
    ///
    /// It starts as user and group 0 with all capabilities over the namespace. Supplementary
    /// groups stay; those that are not mapped show as the overflow group. Mounts are private: none
    /// that it makes is seen outside, none made outside later is seen by it. Everything else is as
    /// `command` says; what is said about standard input and output there holds.
    ///
    /// Until its end this process ignores SIGINT and SIGQUIT, as `system(3)` does, because a
    /// terminal sends them to both; and if this process dies, the command gets SIGTERM. The process
    /// may have several threads.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] or [`ErrorKind::LimitExceeded`] where user namespaces are
    /// forbidden or used up, or a map is refused; and what starting the program can meet. The
    /// command has not run then.
    pub fn run(&self, command: Command) -> Result<ExitStatus> {
        let program = command.get_program().to_os_string();
        let (_ignoring, before) = Interrupts::ignore();
        let mut child = unshare::spawn(command, before, |pid| self.write_maps(pid))?;
        child.wait().during("wait for", Path::new(&program))
    }

    fn write_maps(&self, pid: Pid) -> Result<()> {
        let proc = format!("/proc/{}", pid.as_raw_nonzero());
        match &self.writer {
            Writer::Helpers { uids, gids } => {
                call_helper(uids, pid, &self.uids)?;
                call_helper(gids, pid, &self.gids)
            }
            Writer::Privileged => {
                write_proc(&format!("{proc}/uid_map"), &self.uids.to_string())?;
                write_proc(&format!("{proc}/gid_map"), &self.gids.to_string())
            }
            Writer::OwnIds => {
                // Who could leave a group could get at what is closed to that group.
                write_proc(&format!("{proc}/setgroups"), "deny")?;
                write_proc(&format!("{proc}/uid_map"), &self.uids.to_string())?;
                write_proc(&format!("{proc}/gid_map"), &self.gids.to_string())
            }
        }
    }
}

/// The user and group ids of the user namespace that this process is in.
///
/// # Errors
/// Where `/proc` is not mounted, or is not that of Linux.
pub fn current_maps() -> Result<(IdMap, IdMap)> {
    let read = |path: &str| -> Result<IdMap> {
        let text = std::fs::read_to_string(path).during("read", path)?;
        text.parse().map_err(|error: Error| error.within(format!("read {path}")))
    };
    Ok((read("/proc/self/uid_map")?, read("/proc/self/gid_map")?))
}

/// Whether this process is in the first user namespace, the one that exists from boot on.
///
/// The id maps do not tell: a namespace made by root can have all ids, each as itself. Where
/// `/proc` is not mounted nothing can be told, and the answer is yes.
pub fn in_initial_namespace() -> bool {
    rustix::fs::stat("/proc/self/ns/user").map_or(true, |stat| stat.st_ino == INITIAL)
}

/// All ids that a namespace with this map has, each as itself.
fn as_themselves(current: &IdMap) -> Result<IdMap> {
    IdMap::new(current.ranges().iter().map(|range| IdRange { outside: range.inside, ..*range }))
}

/// The whole text of a file, nothing where it does not exist; other lines than UTF-8 are damaged,
/// which does not hurt: no login name that matters is there.
fn read_if_exists(path: &str) -> Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).during("read", path),
    }
}

/// The program of that name on the search path, or where systems have it.
fn find(program: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&search).chain(usual).filter(|dir| dir.is_absolute()).find_map(|dir| {
        let path = dir.join(program);
        let may = rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file();
        may.then_some(path)
    })
}

/// Runs `newuidmap PID INSIDE OUTSIDE COUNT…`.
fn call_helper(program: &Path, pid: Pid, map: &IdMap) -> Result<()> {
    let ids = map.to_string();
    let mut command = Command::new(program);
    command.arg(pid.as_raw_nonzero().to_string()).args(ids.split_ascii_whitespace());
    let output = command.env_clear().output().during("run", program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = format!("run {}: {}: {}", program.display(), output.status, said.trim());
    Err(Error::new(ErrorKind::PermissionDenied, message).hint(
        "newuidmap and newgidmap must be set-user-id root or have the file capabilities \
         cap_setuid and cap_setgid, and /etc/subuid and /etc/subgid must be right",
    ))
}

/// Writes a file of `/proc`, which takes its text in one piece.
fn write_proc(path: &str, text: &str) -> Result<()> {
    let open = || std::fs::OpenOptions::new().write(true).open(path);
    let write = |mut file: std::fs::File| std::io::Write::write_all(&mut file, text.as_bytes());
    open().and_then(write).during("write", path).map_err(|error| {
        error.hint(
            "mapping ids needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP as root, \
             and for a plain user a system that permits user namespaces",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script in what `namespace` says; `None` where that is forbidden on this system.
    fn sh(test: &str, namespace: &UserNamespace, script: &str) -> Option<(Option<i32>, String)> {
        let mut out = tempfile::tempfile().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-euc", script]).stdout(out.try_clone().unwrap());
        let status = match namespace.run(command) {
            Ok(status) => status,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::LimitExceeded
                ) =>
            {
                eprintln!("SKIP {test}: {error}");
                assert!(std::env::var_os("OVERLAY2_REQUIRE").is_none_or(|value| value != "all"));
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let mut text = String::new();
        std::io::Seek::rewind(&mut out).unwrap();
        std::io::Read::read_to_string(&mut out, &mut text).unwrap();
        Some((status.code(), text))
    }

    #[test]
    fn a_command_is_root_and_may_mount() {
        let script = "id -u; id -g; mount -t tmpfs none /mnt; touch /mnt/here; cat /proc/self/uid_map; \
                      readlink /proc/self/ns/user /proc/self/ns/mnt; \
                      grep -c shared: /proc/self/mountinfo || exit 7";
        for namespace in [UserNamespace::plan().unwrap(), UserNamespace::single_id().unwrap()] {
            let test = "a_command_is_root_and_may_mount";
            let Some((code, text)) = sh(test, &namespace, script) else { return };
            // No mount is shared, so grep counts none and fails.
            assert_eq!(code, Some(7), "{namespace:?}: {text}");
            let mut lines = text.lines();
            assert_eq!(
                (lines.next(), lines.next(), lines.next_back()),
                (Some("0"), Some("0"), Some("0"))
            );
            for own in ["user", "mnt"] {
                let here = std::fs::read_link(format!("/proc/self/ns/{own}")).unwrap();
                assert!(!text.contains(here.to_str().unwrap()), "{text}");
            }
            assert!(!Path::new("/mnt/here").exists());
        }
    }

    #[test]
    fn the_ids_are_those_that_were_planned() {
        let test = "the_ids_are_those_that_were_planned";
        let namespace = UserNamespace::plan().unwrap();
        let script = "cat /proc/self/uid_map; echo --; cat /proc/self/gid_map";
        let Some((_, text)) = sh(test, &namespace, script) else { return };
        let (uids, gids) = text.split_once("--").unwrap();
        assert_eq!(&uids.parse::<IdMap>().unwrap(), namespace.uids());
        assert_eq!(&gids.parse::<IdMap>().unwrap(), namespace.gids());
        let scratch = tempfile::tempdir_in("/tmp").unwrap();
        let script =
            format!("cd {}; touch f; chown 7:8 f; stat -c %u:%g f; rm f", scratch.path().display());
        let (code, text) = sh(test, &namespace, &script).unwrap();
        if namespace.uids().count() > 8 && namespace.gids().count() > 8 {
            assert_eq!((code, text.as_str()), (Some(0), "7:8\n"));
        } else {
            assert_ne!(code, Some(0));
        }
    }

    #[test]
    fn the_exit_status_and_a_missing_program_are_passed_on() {
        let test = "the_exit_status_and_a_missing_program_are_passed_on";
        let namespace = UserNamespace::plan().unwrap();
        let Some((code, _)) = sh(test, &namespace, "exit 42") else { return };
        assert_eq!(code, Some(42));
        assert_eq!(sh(test, &namespace, "kill -9 $$").unwrap().0, None);
        let error = namespace.run(Command::new("/no/such/program")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }

    #[test]
    fn a_map_that_is_refused_stops_the_command() {
        let test = "a_map_that_is_refused_stops_the_command";
        let allowed = UserNamespace::plan().unwrap();
        if sh(test, &allowed, "true").is_none() {
            return;
        }
        let missing = PathBuf::from("/no/such/newuidmap");
        let writer = Writer::Helpers { uids: missing.clone(), gids: missing };
        let error =
            UserNamespace { writer, ..allowed.clone() }.run(Command::new("true")).unwrap_err();
        assert!(error.to_string().contains("newuidmap"), "{error}");
        let writer = Writer::Helpers { uids: "/bin/false".into(), gids: "/bin/false".into() };
        let error = UserNamespace { writer, ..allowed }.run(Command::new("true")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.help().is_some());
    }

    #[test]
    fn a_namespace_knows_where_it_is() {
        let (uids, gids) = current_maps().unwrap();
        assert!(uids.count() > 0 && gids.count() > 0);
        let link = std::fs::read_link("/proc/self/ns/user").unwrap();
        assert_eq!(in_initial_namespace(), link.to_str() == Some("user:[4026531837]"));
    }
}
