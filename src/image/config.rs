//! The config of an image: parsed, its history paired with its layers, and one made by a commit.

use serde_json::{Map, Value, json};

use super::change::{ConfigChanges, present};
use super::document::{self, invalid};
use super::platform::Platform;
use crate::digest::DiffId;
use crate::error::{ErrorKind, Result};
use crate::image_config::ImageConfiguration;
use crate::inode::Timestamp;

/// Parses the config of an image.
///
/// # Errors
/// [`ErrorKind::InvalidData`] where it is malformed, [`ErrorKind::LimitExceeded`] where it is
/// larger than 16 MiB.
pub fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration> {
    parse_named(bytes, "image config")
}

pub(super) fn parse_named(bytes: &[u8], name: &str) -> Result<ImageConfiguration> {
    document::parse(bytes, name)
}

/// The diff IDs of an image's layers, lowest first.
///
/// # Errors
/// [`ErrorKind::InvalidData`] for a malformed digest, [`ErrorKind::Unsupported`] for one that is no
/// sha256.
pub fn diff_ids(config: &ImageConfiguration) -> Result<Vec<DiffId>> {
    let parse = |text: &String| {
        text.parse::<DiffId>().map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => invalid("diff ID", error),
            _ => error.within("diff ID"),
        })
    };
    config.rootfs.diff_ids.iter().map(parse).collect()
}

/// One step of an image's making: a row of `docker history`.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRow {
    /// When, as the config has it: RFC 3339.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Who.
    pub author: Option<String>,
    /// Anything else.
    pub comment: Option<String>,
    /// Which of the diff IDs the step made, counted from 0, the lowest; `None` where it made none.
    pub layer: Option<usize>,
}

/// The history of an image, oldest step first, each step with its layer.
///
/// A config need not have a history, nor one that fits: layers that no step tells of have rows of
/// their own at the end, and a step that claims a layer beyond the last has none.
pub fn history_rows(config: &ImageConfiguration) -> Vec<HistoryRow> {
    let layers = config.rootfs.diff_ids.len();
    let mut next = 0;
    let mut rows = Vec::new();
    for step in &config.history {
        let made_layer = !step.empty_layer && next < layers;
        rows.push(HistoryRow {
            created: step.created.clone(),
            created_by: step.created_by.clone(),
            author: step.author.clone(),
            comment: step.comment.clone(),
            layer: made_layer.then_some(next),
        });
        next += usize::from(made_layer);
    }
    rows.extend(
        (next..layers).map(|layer| HistoryRow { layer: Some(layer), ..Default::default() }),
    );
    rows
}

/// What a commit tells of itself in the image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// When; the image's `created` too.
    pub created: Timestamp,
    /// The command that ran in the container.
    pub created_by: Option<String>,
    /// Who; the image's `author` too, where it is given.
    pub author: Option<String>,
    /// Anything else.
    pub comment: Option<String>,
    /// What the image says otherwise of its process.
    pub changes: ConfigChanges,
}

/// The config of the image that a commit makes: `base` with one more layer and one more step.
///
/// All that `base` holds is kept, fields that this crate does not know included. Without a base it
/// is an image for this machine. `layer` is the new layer's diff ID; `None` adds a step without a
/// layer. Where the history of `base` has fewer steps than layers, steps that say so are put in, so
/// that the new step stands for the new layer.
///
/// # Errors
/// [`ErrorKind::InvalidData`] where `base` is no image config.
pub fn commit_config(
    base: Option<&[u8]>,
    layer: Option<&DiffId>,
    commit: &Commit,
) -> Result<Vec<u8>> {
    const NAME: &str = "image config";
    let mut value = match base {
        Some(bytes) => {
            parse_config(bytes)?;
            document::parse_value(bytes, NAME)?
        }
        None => empty_config(),
    };
    let fields = value.as_object_mut().ok_or_else(|| invalid(NAME, "no JSON object"))?;
    let diff_ids = diff_id_list(fields).ok_or_else(|| invalid(NAME, "malformed rootfs"))?;
    let layers = diff_ids.len();
    diff_ids.extend(layer.map(|id| json!(id)));

    let history = list(fields, "history").ok_or_else(|| invalid(NAME, "malformed history"))?;
    let makes_layer = |step: &&Value| !step.get("empty_layer").is_some_and(|it| it == true);
    let told = history.iter().filter(makes_layer).count();
    let untold = json!({"comment": "a layer without history"});
    history.extend(std::iter::repeat_n(untold, layers.saturating_sub(told)));
    history.push(step(layer, commit));

    if commit.changes != ConfigChanges::default() {
        let config = present(fields, "config", || json!({})).as_object_mut();
        config
            .and_then(|config| commit.changes.change(config))
            .ok_or_else(|| invalid(NAME, "malformed config"))?;
    }
    fields.insert("created".to_owned(), json!(commit.created.rfc3339()));
    if let Some(author) = &commit.author {
        fields.insert("author".to_owned(), json!(author));
    }
    document::to_bytes(&value)
}

fn empty_config() -> Value {
    let host = Platform::host();
    let mut config = json!({
        "architecture": host.architecture,
        "os": host.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    if let (Some(variant), Some(fields)) = (host.variant, config.as_object_mut()) {
        fields.insert("variant".to_owned(), json!(variant));
    }
    config
}

fn step(layer: Option<&DiffId>, commit: &Commit) -> Value {
    let texts = [
        ("created_by", &commit.created_by),
        ("author", &commit.author),
        ("comment", &commit.comment),
    ];
    let mut step = Map::new();
    step.insert("created".to_owned(), json!(commit.created.rfc3339()));
    for (key, text) in texts {
        step.extend(text.iter().map(|text| (key.to_owned(), json!(text))));
    }
    if layer.is_none() {
        step.insert("empty_layer".to_owned(), json!(true));
    }
    Value::Object(step)
}

fn diff_id_list(fields: &mut Map<String, Value>) -> Option<&mut Vec<Value>> {
    list(fields.get_mut("rootfs")?.as_object_mut()?, "diff_ids")
}

/// The list `key`, made where it is absent or null.
fn list<'a>(fields: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Vec<Value>> {
    present(fields, key, || json!([])).as_array_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn diff(text: &str) -> DiffId {
        DiffId::new(Digest::of(text.as_bytes()))
    }

    fn layers_of(history: &str, layers: usize) -> Vec<Option<usize>> {
        let ids: Vec<_> = (0..layers).map(|n| diff(&n.to_string())).collect();
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":{}}}
                {history}}}"#,
            serde_json::to_string(&ids).unwrap()
        );
        let config = parse_config(text.as_bytes()).unwrap();
        assert_eq!(diff_ids(&config).unwrap(), ids);
        history_rows(&config).into_iter().map(|row| row.layer).collect()
    }

    #[test]
    fn every_step_has_its_layer_and_every_layer_a_step() {
        let mixed = r#","history":[{},{"empty_layer":true},{"empty_layer":false}]"#;
        assert_eq!(layers_of(mixed, 2), [Some(0), None, Some(1)]);
        assert_eq!(layers_of(mixed, 1), [Some(0), None, None], "a step too many");
        assert_eq!(layers_of(mixed, 3), [Some(0), None, Some(1), Some(2)], "a step too few");
        assert_eq!(layers_of("", 2), [Some(0), Some(1)]);
        assert_eq!(layers_of(r#","history":null"#, 1), [Some(0)]);
    }

    #[test]
    fn configs_as_go_leaves_them_are_read() {
        for rootfs in [r#"{"type":"layers"}"#, r#"{"type":"layers","diff_ids":null}"#] {
            let text = format!(r#"{{"os":"linux","architecture":"arm64","rootfs":{rootfs}}}"#);
            assert!(parse_config(text.as_bytes()).unwrap().rootfs.diff_ids.is_empty());
        }
        for fields in [
            "",
            r#""Env":null,"Cmd":null,"Entrypoint":null,"ExposedPorts":null,"Volumes":null,
               "Labels":null,"User":null,"WorkingDir":null,"StopSignal":null"#,
            r#""Healthcheck":{"Test":["NONE"]},"OnBuild":null,"ArgsEscaped":true"#,
        ] {
            let text = format!(
                r#"{{"os":"linux","architecture":"amd64","rootfs":{{}},"config":{{{fields}}}}}"#
            );
            let config = parse_config(text.as_bytes()).unwrap().config;
            assert_eq!(config, Some(crate::image_config::Config::default()), "{fields}");
        }
        for bad in ["", "[]", "{}", "null", r#"{"os":"linux","architecture":"amd64"}"#] {
            let error = parse_config(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{bad}");
        }
    }

    #[test]
    fn a_commit_keeps_what_it_does_not_know() {
        let base = format!(
            r#"{{"os":"plan9","architecture":"mips","x":{{"y":[1,null]}},"created":"old",
                "config":{{"Healthcheck":{{"Test":["NONE"]}},"Env":["A=b"]}},
                "rootfs":{{"type":"layers","diff_ids":["{}","{}"]}},
                "history":[{{"created_by":"a","z":1}},{{"empty_layer":true}}]}}"#,
            diff("1"),
            diff("2")
        );
        let commit = Commit {
            created: Timestamp { seconds: 1_000_000_000, nanos: 500_000_000 },
            created_by: Some("sh".to_owned()),
            ..Commit::default()
        };
        let new = diff("3");
        let bytes = commit_config(Some(base.as_bytes()), Some(&new), &commit).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["x"], json!({"y": [1, null]}));
        assert_eq!(value["config"]["Healthcheck"]["Test"], json!(["NONE"]));
        assert_eq!(value["os"], "plan9");
        assert_eq!(value["created"], "2001-09-09T01:46:40.5Z");
        assert_eq!(value["history"][0], json!({"created_by": "a", "z": 1}));
        assert_eq!(value["rootfs"]["diff_ids"][2], json!(new));
        let rows = history_rows(&parse_config(&bytes).unwrap());
        let layers: Vec<_> = rows.iter().map(|row| row.layer).collect();
        assert_eq!(layers, [Some(0), None, Some(1), Some(2)]);
        assert_eq!(rows[3].created_by.as_deref(), Some("sh"));
        assert_eq!(commit_config(Some(base.as_bytes()), Some(&new), &commit).unwrap(), bytes);
    }

    #[test]
    fn a_commit_without_a_base_or_a_layer() {
        let first = commit_config(None, Some(&diff("1")), &Commit::default()).unwrap();
        let second = commit_config(Some(&first), None, &Commit::default()).unwrap();
        let config = parse_config(&second).unwrap();
        assert_eq!(diff_ids(&config).unwrap(), [diff("1")]);
        let layers: Vec<_> = history_rows(&config).into_iter().map(|row| row.layer).collect();
        assert_eq!(layers, [Some(0), None]);
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert!(commit_config(Some(b"{}"), None, &Commit::default()).is_err());
    }
}
