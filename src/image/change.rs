//! What an image says of the process that is run from it, changed as a build step changes it.

use serde_json::{Map, Value, json};

/// What an image's config is to say otherwise of the process: what is not told stays as it was.
///
/// As in a Dockerfile: a variable or a label takes the place of the one of its name.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// `ENTRYPOINT`: the program and its first arguments; an empty list takes it away.
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`: further arguments, or the program where there is no entrypoint; an empty list takes
    /// it away.
    pub cmd: Option<Vec<String>>,
    /// `ENV`: names and values.
    pub env: Vec<(String, String)>,
    /// `WORKDIR`: an absolute path.
    pub working_dir: Option<String>,
    /// `USER`: a user and perhaps a group, names or numbers, as `user:group`.
    pub user: Option<String>,
    /// `LABEL`: names and values.
    pub labels: Vec<(String, String)>,
}

impl ConfigChanges {
    /// Changes the object `config` inside an image's config; `None` where something in it is of the
    /// wrong type.
    pub(super) fn change(&self, config: &mut Map<String, Value>) -> Option<()> {
        for (key, words) in [("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd)] {
            match words {
                Some(words) if words.is_empty() => drop(config.remove(key)),
                Some(words) => drop(config.insert(key.to_owned(), json!(words))),
                None => {}
            }
        }
        for (key, text) in [("WorkingDir", &self.working_dir), ("User", &self.user)] {
            config.extend(text.iter().map(|text| (key.to_owned(), json!(text))));
        }
        if !self.env.is_empty() {
            let variables = present(config, "Env", || json!([])).as_array_mut()?;
            for (name, value) in &self.env {
                let text = json!(format!("{name}={value}"));
                let names_it = |one: &&mut Value| {
                    one.as_str().is_some_and(|one| one.split('=').next() == Some(name))
                };
                match variables.iter_mut().find(names_it) {
                    Some(one) => *one = text,
                    None => variables.push(text),
                }
            }
        }
        if !self.labels.is_empty() {
            let labels = present(config, "Labels", || json!({})).as_object_mut()?;
            labels.extend(self.labels.iter().map(|(name, value)| (name.clone(), json!(value))));
        }
        Some(())
    }
}

/// The value of `key`, made where it is absent or null.
pub(super) fn present<'a>(
    fields: &'a mut Map<String, Value>,
    key: &str,
    make: impl FnOnce() -> Value,
) -> &'a mut Value {
    let value = fields.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = make();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(before: Value, changes: &ConfigChanges) -> Option<Value> {
        let mut before = before.as_object().unwrap().clone();
        changes.change(&mut before).map(|()| Value::Object(before))
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn what_is_not_told_stays() {
        let before =
            json!({"Cmd": ["a"], "Env": ["A=1", "AB=2"], "Healthcheck": {}, "Labels": null});
        assert_eq!(changed(before.clone(), &ConfigChanges::default()), Some(before.clone()));
        let changes = ConfigChanges {
            entrypoint: Some(vec!["/serve".to_owned()]),
            cmd: Some(Vec::new()),
            env: vec![pair("A", "x=y"), pair("B", "")],
            working_dir: Some("/app".to_owned()),
            user: Some("1:2".to_owned()),
            labels: vec![pair("k", "v")],
        };
        let after = json!({
            "Entrypoint": ["/serve"], "Env": ["A=x=y", "AB=2", "B="], "Healthcheck": {},
            "Labels": {"k": "v"}, "User": "1:2", "WorkingDir": "/app",
        });
        assert_eq!(changed(before, &changes), Some(after));
        assert_eq!(changed(json!({"Env": "A=1"}), &changes), None);
    }
}
