//! What the config of an image says, as far as it is read.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, IgnoredAny};

/// The config of an image: which machine it is for, how to run it, what it is made of.
///
/// A list or a map that is missing is an empty one; fields that have no place here are passed over.
///
/// Source: OCI image-spec, config.md.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct ImageConfiguration {
    /// When it was made: RFC 3339.
    pub created: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// `amd64`, `arm64`, …: as the config spells it.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7` of `arm`, `v2` of `amd64`.
    pub variant: Option<String>,
    /// How to run it.
    pub config: Option<Config>,
    /// Its layers.
    pub rootfs: RootFs,
    /// The steps that made it, oldest first.
    #[serde(default)]
    pub history: Vec<History>,
}

/// How an image is run, where the caller does not say otherwise.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    /// `80/tcp`, in order.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// What runs; `cmd` are its arguments.
    pub entrypoint: Vec<String>,
    /// The command, or the entrypoint's arguments.
    pub cmd: Vec<String>,
    /// Directories that are to outlive the container, in order.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// Whatever the maker wrote down.
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM` or a number: what asks the process to end.
    pub stop_signal: Option<String>,
}

/// The layers of an image.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct RootFs {
    /// The diff IDs as they are written, lowest first; [`diff_ids`](crate::image::diff_ids) parses them.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// One step of an image's making, as its config has it.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct History {
    /// When: RFC 3339.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Who.
    pub author: Option<String>,
    /// Anything else.
    pub comment: Option<String>,
    /// Whether the step made no layer.
    pub empty_layer: bool,
}

/// The keys of a map whose values say nothing: how Go writes a set.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let map = BTreeMap::<String, IgnoredAny>::deserialize(deserializer)?;
    Ok(map.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &str) -> serde_json::Result<Config> {
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{}},"config":{{{fields}}}}}"#
        );
        let parsed: ImageConfiguration = serde_json::from_str(&text)?;
        Ok(parsed.config.unwrap_or_default())
    }

    #[test]
    fn sets_and_maps_come_in_order() {
        let fields = r#""ExposedPorts":{"80/tcp":{},"443/tcp":{}},"Volumes":{"/b":{},"/a":{}},
            "Labels":{"z":"1","a":""}"#;
        let config = config(fields).unwrap();
        assert_eq!(config.exposed_ports, ["443/tcp", "80/tcp"]);
        assert_eq!(config.volumes, ["/a", "/b"]);
        let labels: Vec<_> = config.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(labels, [("a", ""), ("z", "1")]);
    }

    #[test]
    fn what_is_of_another_type_is_an_error() {
        for bad in [r#""Env":"A=b""#, r#""Labels":{"a":1}"#, r#""User":0"#, r#""Volumes":["/a"]"#] {
            assert!(config(bad).is_err(), "{bad}");
        }
    }
}
