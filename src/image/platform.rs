//! [`Platform`]: for which machine an image is, and which of several fits this one.

use std::fmt;
use std::str::FromStr;

use super::manifest::PlatformFields;
use crate::error::{Error, ErrorKind, Result};
use crate::image_config::ImageConfiguration;

/// An operating system, an architecture and its variant, in the words of Go and so of images.
///
/// Printed and parsed as `linux/arm64` or `linux/arm/v7`.
///
/// Source: OCI image-spec, image-index.md, "Platform Variants".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, `386`, …
    pub architecture: String,
    /// `v7` of `arm`, `v2` of `amd64`, where the image says so.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine, as far as the build of this program tells.
    ///
    /// For 32-bit ARM that is `v7`: what an older one runs must be asked for by name.
    pub fn host() -> Self {
        let little = cfg!(target_endian = "little");
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            "powerpc64" if little => "ppc64le",
            "powerpc64" => "ppc64",
            "mips64" if little => "mips64le",
            "mips" if little => "mipsle",
            other => other,
        };
        let variant = (architecture == "arm").then(|| "v7".to_owned());
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// How well this platform runs what was made for `image`: lower is better, `None` is not at
    /// all.
    ///
    /// A variant that says nothing is the lowest one (`v8` for arm64, `v7` for arm); a newer one
    /// runs what was made for an older one, and the nearest is best. A 64-bit machine runs 32-bit
    /// images where there is nothing better.
    pub(super) fn distance(&self, image: &Platform) -> Option<u32> {
        if self.os != image.os {
            return None;
        }
        let (mine, theirs) = (self.level(), image.level());
        match (self.architecture.as_str(), image.architecture.as_str()) {
            (mine_is, theirs_is) if mine_is == theirs_is => match (mine, theirs) {
                (Some(mine), Some(theirs)) => mine.checked_sub(theirs),
                _ => (self.variant == image.variant).then_some(0),
            },
            ("arm64", "arm") => Some(10_000u32.saturating_sub(theirs.unwrap_or(0))),
            ("amd64", "386") => Some(10_000),
            _ => None,
        }
    }

    /// The variant as a number with two digits behind the point: `v8.1` is 801.
    fn level(&self) -> Option<u32> {
        let default = match self.architecture.as_str() {
            "arm64" => "v8",
            "arm" => "v7",
            _ => "v1",
        };
        let digits = self.variant.as_deref().unwrap_or(default).strip_prefix('v')?;
        let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
        let (major, minor) = (major.parse::<u8>().ok()?, minor.parse::<u8>().ok()?);
        Some(u32::from(major) * 100 + u32::from(minor.min(99)))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        let mut next = || parts.next().map(str::to_owned).filter(|part| !part.is_empty());
        let (os, architecture, variant) = (next(), next(), next());
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None) if !text.ends_with('/') => {
                Ok(Self::normalized(os, architecture, variant))
            }
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("{text:?} is no platform"))
                .hint("a platform is like linux/amd64 or linux/arm/v7")),
        }
    }
}

impl Platform {
    /// Takes the words that other tools use for the same.
    pub(super) fn normalized(os: String, architecture: String, variant: Option<String>) -> Self {
        let [os, architecture] = [os, architecture].map(|word| word.to_ascii_lowercase());
        let variant = variant.filter(|variant| !variant.is_empty()).map(|variant| {
            let variant = variant.to_ascii_lowercase();
            if variant.starts_with(|char: char| char.is_ascii_digit()) {
                format!("v{variant}")
            } else {
                variant
            }
        });
        let (architecture, variant) = match (architecture.as_str(), variant) {
            ("x86_64" | "x86-64", variant) => ("amd64".to_owned(), variant),
            ("aarch64", variant) => ("arm64".to_owned(), variant),
            ("i386" | "x86", variant) => ("386".to_owned(), variant),
            ("armhf", None) => ("arm".to_owned(), Some("v7".to_owned())),
            ("armel", None) => ("arm".to_owned(), Some("v6".to_owned())),
            (_, variant) => (architecture, variant),
        };
        Self { os, architecture, variant }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl From<&PlatformFields> for Platform {
    fn from(fields: &PlatformFields) -> Self {
        let PlatformFields { os, architecture, variant } = fields.clone();
        Self::normalized(os, architecture, variant)
    }
}

impl From<&ImageConfiguration> for Platform {
    fn from(config: &ImageConfiguration) -> Self {
        Self::normalized(config.os.clone(), config.architecture.clone(), config.variant.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    /// What of `offered` a machine takes first, and all that it takes.
    fn check(machine: &str, offered: &[&str], best: &str, takes: usize) {
        let machine = platform(machine);
        let mut fitting: Vec<_> = offered
            .iter()
            .filter_map(|text| Some((machine.distance(&platform(text))?, *text)))
            .collect();
        fitting.sort();
        assert_eq!(fitting.first().map_or("", |(_, text)| text), best, "{machine}");
        assert_eq!(fitting.len(), takes, "{machine}");
    }

    #[test]
    fn the_nearest_variant_is_taken() {
        let all = ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/386"];
        check("linux/amd64", &all, "linux/amd64", 2);
        check("linux/arm64", &all, "linux/arm64/v8", 3);
        check("linux/arm/v7", &all, "linux/arm/v7", 2);
        check("linux/arm/v6", &all, "linux/arm/v6", 1);
        check("linux/arm/v5", &all, "", 0);
        check("linux/arm64", &["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", 2);
        check("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"], "linux/amd64/v2", 2);
        check("linux/amd64", &["linux/amd64/v2", "windows/amd64"], "", 0);
        check("linux/s390x", &["linux/s390x"], "linux/s390x", 1);
    }

    #[test]
    fn platforms_are_parsed_and_printed() {
        for text in ["linux/amd64", "linux/arm/v7", "unknown/unknown"] {
            assert_eq!(platform(text).to_string(), text);
        }
        assert_eq!(platform("Linux/x86_64"), platform("linux/amd64"));
        let told = |word: &str| word.to_owned();
        let config = Platform::normalized(told("Linux"), told("ARM64"), Some(told("V8")));
        assert_eq!(config, platform("linux/arm64/v8"), "as a config spells it");
        assert_eq!(platform("linux/arm/7"), platform("linux/arm/v7"));
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/arm/"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert!(Platform::host().distance(&Platform::host()) == Some(0));
    }
}
