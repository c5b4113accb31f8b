//! Which of several manifests of one image is meant: the one for the machine that was asked for.

use std::collections::BTreeMap;

use super::platform::Platform;
use crate::error::{Error, ErrorKind, Result};

/// One that may be chosen.
pub(super) struct Choice<T> {
    pub(super) item: T,
    /// For which platform it is, where anything tells.
    pub(super) platform: Option<Platform>,
    /// The error to give where it is chosen and is not there.
    pub(super) missing: Option<Error>,
}

/// What was passed over, by what it is; told where no image is left.
#[derive(Debug, Default)]
pub(super) struct Skipped(BTreeMap<String, usize>);

impl Skipped {
    pub(super) fn note(&mut self, kind: &str) {
        *self.0.entry(kind.to_owned()).or_default() += 1;
    }

    /// Gives what was passed over in words; `None` where nothing was.
    pub(super) fn in_words(&self) -> Option<String> {
        let words: Vec<_> = self.0.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Chooses those that suit `wanted` best: several only where they suit it equally.
///
/// Where nothing is `wanted`, that is this machine, and an image that there is for one platform
/// alone is taken whatever that is. What is not there (an archive need not hold the manifests of
/// all platforms) is chosen only where nothing else suits, and is then an error.
pub(super) fn choose<T>(
    choices: Vec<Choice<T>>,
    wanted: Option<&Platform>,
    skipped: &mut Skipped,
) -> Result<Vec<T>> {
    let (present, absent): (Vec<_>, Vec<_>) =
        choices.into_iter().partition(|choice| choice.missing.is_none());
    if present.len() == 1 && wanted.is_none() {
        return Ok(present.into_iter().map(|choice| choice.item).collect());
    }
    let machine = wanted.cloned().unwrap_or_else(Platform::host);
    let distance = |choice: &Choice<T>| match &choice.platform {
        Some(platform) => machine.distance(platform),
        None => Some(0),
    };
    if let Some(best) = present.iter().filter_map(distance).min() {
        let suits = |choice: &Choice<T>| distance(choice) == Some(best);
        return Ok(present.into_iter().filter(suits).map(|choice| choice.item).collect());
    }
    let offered = offered(&present);
    let lacks_blobs = !absent.is_empty();
    let only = absent.len() == 1 && present.is_empty() && wanted.is_none();
    let lacking = absent.into_iter().find(|choice| only || distance(choice).is_some());
    if let Some(error) = lacking.and_then(|choice| choice.missing) {
        return Err(error);
    }
    if present.is_empty() {
        if lacks_blobs {
            skipped.note("manifests without their blobs");
        }
        return Ok(Vec::new());
    }
    Err(no_platform(&machine, &offered))
}

/// The error where there are images, and none for the machine.
pub(super) fn no_platform(machine: &Platform, offered: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no image for {machine}; there is one for {offered}"))
        .hint("name one of these platforms")
}

fn offered<T>(choices: &[Choice<T>]) -> String {
    let mut platforms: Vec<_> = choices.iter().filter_map(|it| it.platform.as_ref()).collect();
    platforms.sort();
    platforms.dedup();
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `!` in front of a platform: its manifest is missing.
    fn check(wanted: Option<&str>, choices: &[&str], chosen: &[&str]) {
        let wanted = wanted.map(|text| text.parse::<Platform>().unwrap());
        let choices = choices.iter().map(|text| {
            let name = text.trim_start_matches('!');
            let missing = text.starts_with('!').then(|| Error::new(ErrorKind::NotFound, "gone"));
            Choice { item: *text, platform: name.parse().ok(), missing }
        });
        match choose(choices.collect(), wanted.as_ref(), &mut Skipped::default()) {
            Ok(found) => assert_eq!(found, chosen),
            Err(error) => assert_eq!(&[error.to_string().as_str()], chosen),
        }
    }

    #[test]
    fn the_image_for_the_machine_is_chosen() {
        let both = ["linux/s390x", "linux/arm64"];
        check(Some("linux/s390x"), &both, &["linux/s390x"]);
        check(Some("linux/arm64"), &both, &["linux/arm64"]);
        let refused = "no image for linux/386; there is one for linux/arm64, linux/s390x";
        check(Some("linux/386"), &both, &[refused]);
        check(Some("linux/386"), &["any"], &["any"]);
        check(None, &["plan9/mips"], &["plan9/mips"]);
        check(None, &["!linux/s390x", "plan9/mips"], &["plan9/mips"]);
        check(
            Some("linux/386"),
            &["plan9/mips"],
            &["no image for linux/386; there is one for plan9/mips"],
        );
    }

    #[test]
    fn what_is_missing_is_an_error_only_where_it_is_needed() {
        let half = ["!linux/s390x", "linux/arm64", "linux/arm64"];
        check(Some("linux/arm64"), &half, &["linux/arm64", "linux/arm64"]);
        check(Some("linux/s390x"), &half, &["gone"]);
        check(None, &["!plan9/mips"], &["gone"]);
        check(Some("linux/386"), &["!plan9/mips"], &[]);
        check(None, &[], &[]);
    }
}
