//! OCI runtime bundles: what crun, runc or youki is told to run a process in a container's tree.
//!
//! [`spec`] reads and writes no file: it turns an image's config, and what the caller wants
//! otherwise, into a `config.json`
//! ([conversion](https://github.com/opencontainers/image-spec/blob/main/conversion.md)).

mod defaults;
mod runtime;
mod user;

pub use runtime::Runtime;
pub use user::{Accounts, UserIds};

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{self as oci, Spec};

use crate::error::{Error, ErrorKind, Result};
use crate::image_config::{Config, ImageConfiguration};
use crate::sys::userns;

/// What is to run, where that differs from what the image's config says.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Takes the place of the image's `Entrypoint`; its `Cmd` is left out then.
    pub entrypoint: Option<Vec<String>>,
    /// Takes the place of the image's `Cmd`: the command, or the entrypoint's arguments.
    pub args: Vec<String>,
    /// `NAME=VALUE`, added to the image's; a `NAME` alone takes that variable away.
    pub env: Vec<String>,
    /// The working directory, absolute.
    pub cwd: Option<PathBuf>,
    /// `USER[:GROUP]`, each a name of the container's own `/etc/passwd` and `/etc/group` or a
    /// number.
    pub user: Option<String>,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// What the machine is called inside.
    pub hostname: Option<String>,
    /// Which network the process sees.
    pub network: Network,
    /// Whether the root filesystem is read-only to the process.
    pub read_only: bool,
}

/// Which network a process sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Its own, with a loopback device alone.
    #[default]
    None,
    /// The host's, with the host's `/etc/resolv.conf` and `/etc/hosts`.
    Host,
}

/// Where the runtime runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// As root of the machine.
    #[default]
    Host,
    /// As root of a user namespace, where control groups belong to somebody else.
    UserNamespace {
        /// Whether group 5, which terminals belong to, is mapped there.
        tty_group: bool,
    },
}

impl Place {
    /// Where this process is, and the runtimes that it starts.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        if userns::in_initial_namespace() {
            return Ok(Self::Host);
        }
        let (_, gids) = userns::current_maps()?;
        Ok(Self::UserNamespace { tty_group: gids.to_outside(TTY).is_some() })
    }
}

/// The group that terminals belong to.
const TTY: u32 = 5;

/// The `config.json` of a process in a container.
///
/// `root` is where the container is mounted, `accounts` what its `/etc/passwd` and `/etc/group`
/// hold.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] where neither the image nor the caller says what to run, or a
/// variable or directory is malformed; [`ErrorKind::NotFound`] for a user who has no account.
pub fn spec(
    config: &ImageConfiguration,
    accounts: &Accounts,
    root: &Path,
    place: Place,
    process: &Process,
) -> Result<Spec> {
    let wanted = process.user.as_ref().or(config.config.as_ref().and_then(|c| c.user.as_ref()));
    let user = accounts.find(wanted.map_or("", String::as_str))?;
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned());
    spec.set_process(Some(runtime_process(config, &user, process)?));
    let mut root_field = oci::Root::default();
    root_field.set_path(root.to_path_buf()).set_readonly(Some(process.read_only));
    spec.set_root(Some(root_field));
    spec.set_hostname(Some(process.hostname.clone().unwrap_or_else(|| "overlay2".to_owned())));
    spec.set_mounts(Some(defaults::mounts(place, process)));
    spec.set_linux(Some(defaults::linux(place, process)));
    spec.set_annotations(Some(annotations(config)));
    Ok(spec)
}

fn runtime_process(
    config: &ImageConfiguration,
    user: &UserIds,
    process: &Process,
) -> Result<oci::Process> {
    let image = config.config.as_ref();
    let cwd = match (&process.cwd, image.and_then(|image| image.working_dir.as_ref())) {
        (Some(cwd), _) => cwd.clone(),
        (None, Some(cwd)) if !cwd.is_empty() => PathBuf::from(cwd),
        _ => PathBuf::from("/"),
    };
    if !cwd.is_absolute() {
        let what = format!("working directory {} is not absolute", cwd.display());
        return Err(Error::new(ErrorKind::InvalidInput, what));
    }
    let mut ids = oci::User::default();
    ids.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    let mut out = oci::Process::default();
    out.set_terminal(Some(process.terminal))
        .set_user(ids)
        .set_args(Some(command(config, process)?))
        .set_env(Some(environment(config, user, process)?))
        .set_cwd(cwd)
        .set_capabilities(Some(defaults::capabilities(user.uid)))
        .set_rlimits(None)
        .set_no_new_privileges(Some(false));
    Ok(out)
}

/// The entrypoint and its arguments, as `docker run` puts them together.
fn command(config: &ImageConfiguration, process: &Process) -> Result<Vec<String>> {
    let image = config.config.as_ref();
    let of_image =
        |list: fn(&Config) -> &[String]| image.map(list).unwrap_or_default().iter().cloned();
    let mut words = match &process.entrypoint {
        Some(entrypoint) => entrypoint.clone(),
        None => of_image(|image| &image.entrypoint).collect(),
    };
    if !process.args.is_empty() {
        words.extend(process.args.iter().cloned());
    } else if process.entrypoint.is_none() {
        words.extend(of_image(|image| &image.cmd));
    }
    if words.first().is_none_or(String::is_empty) {
        let error = Error::new(ErrorKind::InvalidInput, "the image does not say what to run");
        return Err(error.hint("name a command"));
    }
    Ok(words)
}

/// The image's variables, then the caller's; a later one takes the place of an earlier.
fn environment(
    config: &ImageConfiguration,
    user: &UserIds,
    process: &Process,
) -> Result<Vec<String>> {
    let mut out: Vec<String> = vec![defaults::PATH.to_owned()];
    if process.terminal {
        out.push("TERM=xterm".to_owned());
    }
    out.push(format!("HOME={}", user.home));
    let image = config.config.iter().flat_map(|image| &image.env);
    for variable in image.chain(&process.env) {
        let name = variable.split('=').next().unwrap_or_default();
        if name.is_empty() || variable.contains('\0') {
            let what = format!("{variable:?} is no environment variable");
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("write NAME=VALUE"));
        }
        let named = |known: &String| known.split('=').next() == Some(name);
        match (out.iter().position(named), variable.contains('=')) {
            (Some(at), true) => {
                if let Some(known) = out.get_mut(at) {
                    known.clone_from(variable);
                }
            }
            (Some(at), false) => drop(out.remove(at)),
            (None, true) => out.push(variable.clone()),
            (None, false) => {}
        }
    }
    Ok(out)
}

/// What the image's config tells of itself, under the names that the image specification gives.
fn annotations(config: &ImageConfiguration) -> HashMap<String, String> {
    let image = config.config.clone().unwrap_or_default();
    let mut out: HashMap<_, _> = image.labels.into_iter().collect();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.entry(format!("org.opencontainers.image.{name}")).or_insert(value);
        }
    };
    add("os", Some(config.os.clone()));
    add("architecture", Some(config.architecture.clone()));
    add("author", config.author.clone());
    add("created", config.created.clone());
    add("stopSignal", image.stop_signal);
    add("exposedPorts", Some(image.exposed_ports.join(",")));
    out
}

#[cfg(test)]
mod tests;
