//! Makes the image of the walk-through: six layers of small files, as a docker-archive.

use std::io;

use overlay2::Digest;
use tar::{Builder, EntryType, Header};

/// One file or directory of a layer: path, mode, content (`None` for a directory).
type Item<'a> = (&'a str, u32, Option<&'a [u8]>);

/// What makes each layer, as the history tells it: the steps of the last stage alone. The stage that
/// built the gateway is where its file came from, and leaves no layer.
const STEPS: [&str; 6] = [
    "ADD rootfs.tar /",
    "ADD ./curl-amd64 /usr/bin/curl",
    "RUN chmod +x /usr/bin/curl",
    "WORKDIR /app/",
    "ADD ./config.yaml /app/config.yaml",
    "COPY --from=stage0 0voiceGateway ./",
];

/// The whole archive, as `docker save` writes it.
pub(crate) fn archive() -> io::Result<Vec<u8>> {
    let layers = layers().map(layer).into_iter().collect::<io::Result<Vec<_>>>()?;
    let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let mut history: Vec<_> = STEPS
        .iter()
        .map(|step| serde_json::json!({"created": "2026-01-01T00:00:00Z", "created_by": step}))
        .collect();
    history.push(serde_json::json!({
        "created": "2026-01-01T00:00:00Z",
        "created_by": "ENTRYPOINT [\"./0voiceGateway\"]",
        "empty_layer": true,
    }));
    let config = serde_json::json!({
        "created": "2026-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["./0voiceGateway"], "WorkingDir": "/app"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let names: Vec<String> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
    let manifest = serde_json::json!([{
        "Config": config_name,
        "RepoTags": ["example/gateway:latest"],
        "Layers": names,
    }]);

    let mut archive = Builder::new(Vec::new());
    for (name, layer) in names.iter().zip(&layers) {
        put(&mut archive, name, 0o644, Some(layer))?;
    }
    put(&mut archive, &config_name, 0o644, Some(&config))?;
    put(&mut archive, "manifest.json", 0o644, Some(&serde_json::to_vec(&manifest)?))?;
    archive.into_inner()
}

fn layers() -> [Vec<Item<'static>>; 6] {
    let directories = [
        "bin",
        "dev",
        "etc",
        "etc/nginx",
        "home",
        "lib",
        "media",
        "mnt",
        "opt",
        "proc",
        "root",
        "run",
        "sbin",
        "srv",
        "sys",
        "tmp",
        "usr",
        "usr/bin",
        "var",
    ];
    let mut base: Vec<Item<'_>> = directories
        .iter()
        .map(|name| (*name, if *name == "tmp" { 0o1777 } else { 0o755 }, None))
        .collect();
    base.push(("bin/sh", 0o755, Some(b"#!the shell\n")));
    base.push(("etc/passwd", 0o644, Some(b"root:x:0:0:root:/root:/bin/sh\n")));
    base.push(("etc/nginx/nginx.conf", 0o644, Some(b"events {}\n")));
    let curl: &[u8] = b"#!curl, as large as it needs to be\n";
    let config: &[u8] = b"server:\n  listen: 0.0.0.0:8081\n";
    [
        base,
        vec![("usr", 0o755, None), ("usr/bin", 0o755, None), ("usr/bin/curl", 0o644, Some(curl))],
        vec![("usr", 0o755, None), ("usr/bin", 0o755, None), ("usr/bin/curl", 0o755, Some(curl))],
        vec![("app", 0o755, None)],
        vec![("app", 0o755, None), ("app/config.yaml", 0o644, Some(config))],
        vec![("app", 0o755, None), ("app/0voiceGateway", 0o755, Some(b"#!the gateway\n"))],
    ]
}

fn layer(items: Vec<Item<'_>>) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (name, mode, content) in items {
        put(&mut tar, name, mode, content)?;
    }
    tar.into_inner()
}

fn put(
    tar: &mut Builder<Vec<u8>>,
    name: &str,
    mode: u32,
    content: Option<&[u8]>,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_767_225_600);
    let bytes = content.unwrap_or_default();
    header.set_size(bytes.len() as u64);
    if content.is_some() {
        header.set_entry_type(EntryType::Regular);
        tar.append_data(&mut header, name, bytes)
    } else {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, format!("{name}/"), bytes)
    }
}
