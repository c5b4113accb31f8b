//! The names of containers: each means one container, and no two have the same.

use std::str::FromStr;

use rustix::io::Errno;

use super::Store;
use super::broken::unless_broken;
use super::hold::wait_exclusive;
use super::layout::{CONTAINER_NAMES, ContainerId, Object, STAGING};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::random;

/// The longest name, as file systems have it.
const LONGEST_NAME: usize = 255;

const ADJECTIVES: [&str; 32] = [
    "able", "amber", "brisk", "calm", "candid", "clear", "crisp", "deft", "eager", "early", "fair",
    "fleet", "fond", "glad", "golden", "hardy", "keen", "kind", "lively", "lucid", "merry", "mild",
    "nimble", "plain", "proud", "quiet", "rapid", "sound", "steady", "sunny", "tidy", "warm",
];

const NOUNS: [&str; 32] = [
    "acorn", "badger", "beacon", "birch", "brook", "cedar", "cliff", "comet", "coral", "crane",
    "delta", "ember", "falcon", "fern", "finch", "grove", "harbor", "heron", "island", "lark",
    "maple", "meadow", "otter", "pebble", "pine", "raven", "reef", "river", "sparrow", "summit",
    "thistle", "willow",
];

/// Fails where `name` does not follow docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
pub(super) fn check_container_name(name: &str) -> Result<()> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts && name.bytes().all(inner) && name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("{name:?} cannot be a container's name"))
        .hint("a name is made of letters, digits, and after its start of '_', '.' and '-'"))
}

/// A name of two words, with digits behind them after the first few `attempt`s.
pub(super) fn generated(attempt: u32) -> Result<String> {
    let [first, second, third, fourth] = random::bytes::<4>().during("read", "random bytes")?;
    let word = |words: &[&'static str; 32], byte: u8| {
        words.get(usize::from(byte) % words.len()).copied().unwrap_or("plain")
    };
    let (adjective, noun) = (word(&ADJECTIVES, first), word(&NOUNS, second));
    Ok(match attempt {
        0..3 => format!("{adjective}_{noun}"),
        _ => format!("{adjective}_{noun}_{third:02x}{fourth:02x}"),
    })
}

impl Store {
    /// Gives `name` to a container that is in staging; gives back who has it where it is taken.
    pub(super) fn take_container_name(
        &self,
        name: &str,
        id: &ContainerId,
    ) -> Result<Option<ContainerId>> {
        let names = self.top(CONTAINER_NAMES);
        let target = format!("../containers/{id}");
        loop {
            match names.make_symlink(name.as_bytes(), target.as_bytes()) {
                Ok(()) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(error) => {
                    return Err(error).during("write", &self.at(&[CONTAINER_NAMES, name]));
                }
            }
            match self.container_named(name)? {
                Some(other) if self.is_there(&other)? => return Ok(Some(other)),
                Some(other) => self.forget_container_name(name, &other)?,
                None => {}
            }
        }
    }

    /// Whether a container is in the store, or on its way.
    pub(super) fn is_there(&self, id: &ContainerId) -> Result<bool> {
        let object = Object::Container(*id);
        // In this order: it moves from staging to its place, and not back.
        let staged = self.top(STAGING).stat_if_exists(object.tag().as_bytes());
        Ok(staged.during("look at", &self.at(&[STAGING, &object.tag()]))?.is_some()
            || self.exists(object)?)
    }

    /// Removes a name that means a container which is gone, or is about to go from staging.
    pub(super) fn forget_container_name(&self, name: &str, id: &ContainerId) -> Result<()> {
        let names = self.top(CONTAINER_NAMES);
        // So that no other process removes it at this moment, and a third takes it meanwhile.
        let _lock = wait_exclusive(names).during("lock", &self.at(&[CONTAINER_NAMES]))?;
        if unless_broken(self.container_named(name))? == Some(*id) {
            names
                .remove_file(name.as_bytes())
                .during("remove", &self.at(&[CONTAINER_NAMES, name]))?;
        }
        Ok(())
    }

    /// What exactly this name means, whether that exists or not.
    pub(super) fn container_named(&self, name: &str) -> Result<Option<ContainerId>> {
        match self.top(CONTAINER_NAMES).read_link(name.as_bytes()) {
            Ok(target) => {
                let target = String::from_utf8_lossy(&target);
                let id = target.rsplit('/').next().unwrap_or_default();
                let malformed = |error: Error| {
                    let message = format!("{} is malformed", self.at(&[CONTAINER_NAMES, name]));
                    Error::new(ErrorKind::Corrupt, message).because(error)
                };
                ContainerId::from_str(id).map(Some).map_err(malformed)
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::INVAL) => {
                let message = format!("{} is no symlink", self.at(&[CONTAINER_NAMES, name]));
                Err(Error::new(ErrorKind::Corrupt, message).hint("overlay2 gc removes it"))
            }
            Err(error) => Err(error).during("read", &self.at(&[CONTAINER_NAMES, name])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_names_follow_the_rule() {
        for good in ["a", "web-1", "0.x_y"] {
            check_container_name(good).unwrap();
        }
        for bad in ["", "-a", ".a", "_a", "a/b", "a b", "ü", "a\0", &"a".repeat(256)] {
            assert!(check_container_name(bad).is_err(), "{bad:?}");
        }
        for attempt in 0..5 {
            check_container_name(&generated(attempt).unwrap()).unwrap();
        }
    }
}
