//! What a container gets that nobody asked for: mounts, namespaces, capabilities.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDeviceCgroupBuilder,
    LinuxNamespaceType, LinuxResources, Mount, get_default_maskedpaths, get_default_mounts,
    get_default_namespaces, get_default_readonly_paths,
};

use super::{Network, Place, Process};

/// Where commands are looked for in an image that does not say.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Those that Docker leaves to a container.
const CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// A user who is not root has none to begin with, but programs may give some.
pub(super) fn capabilities(uid: u32) -> LinuxCapabilities {
    let all: Capabilities = CAPABILITIES.into_iter().collect();
    let held = if uid == 0 { all.clone() } else { Capabilities::default() };
    let mut out = LinuxCapabilities::default();
    out.set_bounding(Some(all))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    out
}

pub(super) fn mounts(place: Place, process: &Process) -> Vec<Mount> {
    let mut mounts = get_default_mounts();
    if let Place::UserNamespace { tty_group } = place {
        mounts.retain(|mount| mount.destination() != Path::new("/sys/fs/cgroup"));
        for mount in &mut mounts {
            let at = mount.destination().clone();
            if at == Path::new("/dev/pts") && !tty_group {
                let options = mount.options().clone().unwrap_or_default();
                let kept = options.into_iter().filter(|option| option != "gid=5").collect();
                mount.set_options(Some(kept));
            }
            // The host's network is not ours to show in a new sysfs.
            if at == Path::new("/sys") && process.network == Network::Host {
                let options = ["nosuid", "noexec", "nodev", "ro", "rbind"].map(str::to_owned);
                mount.set_typ(Some("none".to_owned()));
                mount.set_source(Some("/sys".into())).set_options(Some(options.to_vec()));
            }
        }
    }
    if process.network == Network::Host {
        mounts.extend(["/etc/resolv.conf", "/etc/hosts"].map(read_only_bind));
    }
    mounts
}

fn read_only_bind(path: &str) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(path))
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(PathBuf::from(path)))
        .set_options(Some(["rbind", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec()));
    mount
}

pub(super) fn linux(place: Place, process: &Process) -> Linux {
    let mut namespaces = get_default_namespaces();
    namespaces.retain(|namespace| match namespace.typ() {
        LinuxNamespaceType::Network => process.network == Network::None,
        // Control groups of the first version have none on some hosts.
        LinuxNamespaceType::Cgroup => false,
        _ => true,
    });
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces))
        .set_resources(None)
        .set_devices(None)
        .set_masked_paths(Some(get_default_maskedpaths()))
        .set_readonly_paths(Some(get_default_readonly_paths()));
    if place == Place::Host {
        let none = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build();
        let mut resources = LinuxResources::default();
        resources.set_devices(none.ok().map(|rule| vec![rule]));
        linux.set_resources(Some(resources));
    }
    linux
}
