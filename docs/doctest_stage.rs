// The scene of the examples in the documentation, which is included into each of them.

/// A directory with a store and an archive of one image, `example:latest`.
struct Stage {
    scratch: tempfile::TempDir,
    driver: overlay2::Driver,
}

#[allow(dead_code, reason = "not every example needs all of it")]
impl Stage {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in [
            ("bin/", None),
            ("etc/", None),
            ("etc/issue", Some("a system\n")),
            ("etc/motd", Some("hello\n")),
            ("srv/", None),
            ("tmp/", None),
        ] {
            let mut header = tar::Header::new_ustar();
            let bytes = content.unwrap_or("").as_bytes();
            header.set_size(bytes.len() as u64);
            header.set_mode(if content.is_some() { 0o644 } else { 0o755 });
            header.set_uid(0);
            header.set_gid(0);
            let kind = content.map_or(tar::EntryType::Directory, |_| tar::EntryType::Regular);
            header.set_entry_type(kind);
            tar.append_data(&mut header, name, bytes).unwrap();
        }
        let driver = overlay2::Driver::open(scratch.path().join("store")).unwrap();
        let mut options = overlay2::CommitOptions::default();
        options.created_by = Some("ADD rootfs.tar /".to_owned());
        options.config.cmd = Some(vec!["/bin/sh".to_owned()]);
        let tar = tar.into_inner().unwrap();
        let watch = overlay2::Watch::new();
        driver.import(tar.as_slice(), "example", &options, watch).unwrap();
        let stage = Self { scratch, driver };
        let archive = stage.path("image.tar");
        stage.driver.save_to("example", &archive, &Default::default(), watch).unwrap();
        stage
    }

    /// A store that has the image.
    fn driver(&self) -> &overlay2::Driver {
        &self.driver
    }

    /// A path in the directory.
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.scratch.path().join(name)
    }

    /// The archive.
    fn image_tar(&self) -> std::path::PathBuf {
        self.path("image.tar")
    }

    /// Whether an overlay can be mounted here.
    fn can_mount(&self) -> bool {
        let features = self.driver.features().unwrap();
        features.overlay_trusted || features.overlay_user
    }
}
