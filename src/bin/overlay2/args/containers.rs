//! The command line of containers.

use std::path::PathBuf;

use clap::Args;
use overlay2::Quota;

use super::{Shown, look};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 create --name web app:1
  overlay2 create --name web --quota 10G app:1
  overlay2 create --chain b6d355b1916a        on layers that were applied one at a time")]
pub(crate) struct Create {
    /// The container's name; one is made up where it is left out
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Stand on this stack of layers instead of an image
    #[arg(long, value_name = "CHAIN-ID", conflicts_with = "image")]
    pub(crate) chain: Option<String>,
    /// Faster mounts, but what was written may be torn after a crash
    #[arg(long)]
    pub(crate) volatile: bool,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// The image's name or ID
    #[arg(required_unless_present = "chain")]
    pub(crate) image: Option<String>,
}

/// What a container may hold.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// At most this many bytes of what is changed, such as 500M or 10G; needs root, and XFS or ext4
    /// mounted with prjquota
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    quota: Option<u64>,
    /// At most this many files and directories that are changed
    #[arg(long, value_name = "NUMBER")]
    quota_inodes: Option<u64>,
}

impl Limits {
    /// Those that are given, the others as they were; 0 for none.
    pub(crate) fn instead_of(&self, now: Quota) -> Quota {
        let limit = |given: Option<u64>, now| given.or(now).filter(|limit| *limit != 0);
        Quota { bytes: limit(self.quota, now.bytes), inodes: limit(self.quota_inodes, now.inodes) }
    }

    /// Whether any is given.
    pub(crate) fn is_given(&self) -> bool {
        self.quota.is_some() || self.quota_inodes.is_some()
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 quota web                          what it holds, and may hold
  overlay2 quota web --quota 20G              more, even while it is mounted
  overlay2 quota web --quota-inodes 0         as many files as there is room for")]
pub(crate) struct ShowQuota {
    /// The container's name or ID
    pub(crate) container: String,
    #[command(flatten)]
    pub(crate) limits: Limits,
}

/// A number of bytes, or of 1024, 1024² or more of them, as docker has sizes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let letters = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let (digits, _) = text.split_at(text.len() - letters.len());
    let unit = letters.to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err("a size is a number, or one with K, M, G, T or P behind it".to_owned()),
    };
    if digits.is_empty() {
        return Err("a size begins with a number".to_owned());
    }
    let number = digits.parse().ok().and_then(|number: u64| number.checked_mul(1 << shift));
    number.ok_or_else(|| "there is no disk of that size".to_owned())
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 ps
  overlay2 rm $(overlay2 ps -q)               all of them
  overlay2 ps --format json | jq -r '.[] | select(.mounted) | .name'")]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) shown: Shown,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 mount web                          at a directory of its own, which is printed
  overlay2 mount web /mnt
  overlay2 unshare sh -c 'ls $(overlay2 mount web)'     without root")]
pub(crate) struct Mount {
    /// The container's name or ID
    pub(crate) container: String,
    /// Where; the container's own directory where it is left out
    pub(crate) target: Option<PathBuf>,
    /// Mount read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Faster, but what was written may be torn after a crash
    #[arg(long)]
    pub(crate) volatile: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 unmount web")]
pub(crate) struct Unmount {
    /// Their names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 commit web app:2
  overlay2 commit -a Ada -m 'new port' web app:2
  overlay2 commit --entrypoint /app/serve --cmd --port --cmd 80 web app:2
  SOURCE_DATE_EPOCH=0 overlay2 commit --pruned web app:2     the same bytes each time")]
pub(crate) struct Commit {
    /// The container's name or ID
    pub(crate) container: String,
    /// What the new image is called
    pub(crate) name: String,
    /// Who made it
    #[arg(short, long)]
    pub(crate) author: Option<String>,
    /// What it is
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    #[command(flatten)]
    pub(crate) config: Config,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) tar: look::Tar,
}

/// What the new image says otherwise.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the new image says")]
pub(crate) struct Config {
    /// What is run; once for each word. "" takes it away
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// Its arguments, or what is run where there is no entrypoint; once for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,
    /// A variable, NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// The directory in which it is run
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The user: USER[:GROUP], names or numbers
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// A label, NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 export web | tar -t
  overlay2 export -o web.tar web")]
pub(crate) struct Export {
    /// The container's name or ID
    pub(crate) container: String,
    /// The file to write; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) times: look::Times,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 recover --accept web               go on with the files as they are
  overlay2 recover --discard web              start over from the image")]
#[command(group = clap::ArgGroup::new("torn").required(true))]
pub(crate) struct Recover {
    /// Use the files as they are; some may be empty or half written
    #[arg(long, group = "torn")]
    pub(crate) accept: bool,
    /// Throw away what was changed in the container
    #[arg(long, group = "torn")]
    pub(crate) discard: bool,
    /// The container's name or ID
    pub(crate) container: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay2 rm web db
  overlay2 rm -f web                          unmount it first, where it is mounted")]
pub(crate) struct Remove {
    /// Unmount those that are mounted
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Their names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_as_docker_has_them() {
        for (text, size) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("1k", Some(1024)),
            ("500M", Some(500 << 20)),
            ("10GiB", Some(10 << 30)),
            ("10gb", Some(10 << 30)),
            ("2T", Some(2 << 40)),
            ("16384P", None),
            ("99999999999999999999", None),
            ("G", None),
            ("", None),
            ("-1", None),
            ("1.5G", None),
            ("1GG", None),
            ("1 G", None),
        ] {
            assert_eq!(bytes(text).ok(), size, "{text:?}");
        }
    }
}
