//! What an image's config comes to.

use super::*;

fn config(fields: &str) -> ImageConfiguration {
    let text = format!(
        r#"{{"os":"linux","architecture":"amd64","author":"A","config":{fields},
            "rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn made(fields: &str, process: &Process) -> Result<serde_json::Value> {
    made_in(Place::Host, fields, process)
}

fn made_in(place: Place, fields: &str, process: &Process) -> Result<serde_json::Value> {
    let accounts = Accounts::parse(b"web:x:33:34::/srv:\n", b"");
    let spec = spec(&config(fields), &accounts, Path::new("/merged"), place, process)?;
    Ok(serde_json::to_value(spec).unwrap())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn entrypoint_and_command_as_docker_joins_them() {
    let both = r#"{"Entrypoint":["/e","x"],"Cmd":["c","d"]}"#;
    let only_command = r#"{"Cmd":["c","d"]}"#;
    for (fields, entrypoint, args, expected) in [
        (both, None, "", "/e x c d"),
        (both, None, "y", "/e x y"),
        (both, Some("/f"), "", "/f"),
        (both, Some("/f"), "y z", "/f y z"),
        (only_command, None, "", "c d"),
        (only_command, None, "y", "y"),
        ("{}", None, "y", "y"),
        (both, Some(""), "y", "y"),
    ] {
        let process =
            Process { entrypoint: entrypoint.map(words), args: words(args), ..Process::default() };
        let value = made(fields, &process).unwrap();
        assert_eq!(value["process"]["args"], serde_json::json!(words(expected)), "{fields} {args}");
    }
    let error = made("{}", &Process::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn variables_take_each_others_place() {
    let fields = r#"{"Cmd":["c"],"Env":["PATH=/bin","A=1","B=x=y"],"User":"web"}"#;
    let env = ["A=2", "B", "C=", "HOME=/h"].map(str::to_owned).to_vec();
    let value = made(fields, &Process { env, ..Process::default() }).unwrap();
    assert_eq!(value["process"]["env"], serde_json::json!(["PATH=/bin", "HOME=/h", "A=2", "C="]));
    for bad in ["", "=x", "A=\0"] {
        let env = vec![bad.to_owned()];
        assert!(made(fields, &Process { env, ..Process::default() }).is_err(), "{bad:?}");
    }
}

#[test]
fn the_rest_of_a_config() {
    let fields = r#"{"Cmd":["c"],"User":"web","WorkingDir":"/app","StopSignal":"SIGINT",
        "Labels":{"org.opencontainers.image.author":"B","l":"1"},"ExposedPorts":{"80/tcp":{}}}"#;
    let value = made(fields, &Process::default()).unwrap();
    assert_eq!(
        value["process"]["user"],
        serde_json::json!({"uid": 33, "gid": 34, "additionalGids": []})
    );
    assert_eq!(value["process"]["cwd"], "/app");
    assert_eq!(value["process"]["env"][1], "HOME=/srv");
    assert_eq!(value["root"], serde_json::json!({"path": "/merged", "readonly": false}));
    let annotation = |name: &str| value["annotations"][name].as_str().map(str::to_owned);
    assert_eq!(annotation("org.opencontainers.image.author").as_deref(), Some("B"));
    assert_eq!(annotation("org.opencontainers.image.stopSignal").as_deref(), Some("SIGINT"));
    assert_eq!(annotation("org.opencontainers.image.exposedPorts").as_deref(), Some("80/tcp"));
    assert_eq!(annotation("l").as_deref(), Some("1"));
    let held = &value["process"]["capabilities"];
    assert_eq!(held["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(held["effective"], serde_json::json!([]), "a plain user holds none");
    assert!(made(r#"{"Cmd":["c"],"WorkingDir":"app"}"#, &Process::default()).is_err());
}

#[test]
fn what_a_user_namespace_cannot_have_is_left_out() {
    let place = Place::UserNamespace { tty_group: false };
    let value = made_in(place, r#"{"Cmd":["c"]}"#, &Process::default()).unwrap();
    let text = value.to_string();
    assert!(!text.contains("cgroup") && !text.contains("gid=5"), "{text}");
    let host = Process { network: Network::Host, ..Process::default() };
    let value = made_in(place, r#"{"Cmd":["c"]}"#, &host).unwrap();
    let namespaces = value["linux"]["namespaces"].to_string();
    assert!(!namespaces.contains("network"), "{namespaces}");
    assert!(value["mounts"].to_string().contains("/etc/resolv.conf"));
}
