//! A builder: steps on images, each found again where the same was done to the same before.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use overlay2::copy::{CopyOptions, CopySource, CopyTarget, copy};
use overlay2::image::ConfigChanges;
use overlay2::mount::MountOptions;
use overlay2::{CommitOptions, Digest, Driver, Watch};

use crate::Result;

/// What is done to an image.
pub(crate) enum Step<'a> {
    /// As the history tells it, the file's bytes, where it goes.
    Copy(&'a str, &'a [u8], &'a str),
    CopyFrom {
        told: &'a str,
        stage: &'a str,
        from: &'a str,
        to: &'a str,
    },
    Run(&'a str),
    WorkDir(&'a str),
    Env(&'a str, &'a str),
    Entrypoint(&'a [&'a str]),
    Cmd(&'a [&'a str]),
}

/// Who carries out `RUN`.
#[derive(Clone, Copy)]
pub(crate) enum Runs {
    /// The image's own shell, its root mounted.
    Chroot,
    /// This program, which knows the two commands of the example; and why.
    Here(&'static str),
}

pub(crate) struct Builder<'a> {
    driver: &'a Driver,
    runs: Runs,
    made: usize,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(driver: &'a Driver, runs: Runs) -> Self {
        Self { driver, runs, made: 0 }
    }

    /// How many steps were not found in the cache.
    pub(crate) fn made(&self) -> usize {
        self.made
    }

    /// An image of one layer, a tar.
    pub(crate) fn scratch(&mut self, told: &str, tar: &[u8]) -> Result<String> {
        let name = cached(&[told.as_bytes(), tar]);
        let driver = self.driver;
        self.once(told, &name, || {
            driver.import(tar, &name, &options(told), Watch::new())?;
            Ok(())
        })?;
        Ok(name)
    }

    /// Steps one after the other; the name of the image after the last.
    pub(crate) fn steps(&mut self, base: &str, steps: &[Step<'_>]) -> Result<String> {
        let mut image = base.to_owned();
        for step in steps {
            image = self.step(&image, step)?;
        }
        Ok(image)
    }

    fn step(&mut self, image: &str, step: &Step<'_>) -> Result<String> {
        let (driver, runs, told) = (self.driver, self.runs, step.told());
        // What goes in: the image below, the instruction, and the content that it names.
        let id = |image: &str| driver.inspect(image).map(|shown| shown.id);
        let content = match step {
            Step::Copy(_, bytes, _) => Digest::of(bytes).to_string(),
            Step::CopyFrom { stage, .. } => id(stage)?,
            _ => String::new(),
        };
        let name = cached(&[id(image)?.as_bytes(), told.as_bytes(), content.as_bytes()]);
        let mut options = options(&told);
        step.configure(&mut options.config);
        self.once(&told, &name, || {
            if !step.makes_layer() {
                driver.make_image(&image.into(), &name, &options)?;
                return Ok(());
            }
            let container = driver.create(&image.into(), None)?.name;
            let done = step.act(driver, runs, image, &container).and_then(|()| {
                driver.commit(&container, &name, &options, Watch::new())?;
                Ok(())
            });
            driver.remove_container(&container, Watch::new())?;
            done
        })?;
        Ok(name)
    }

    /// Does what makes the image `name`, unless there is one.
    fn once(&mut self, told: &str, name: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let found = self.driver.has(name)?;
        println!("{} {told}", if found { "CACHED" } else { "      " });
        if !found {
            make()?;
            self.made += 1;
        }
        Ok(())
    }
}

impl Step<'_> {
    /// The instruction, as the history has it.
    fn told(&self) -> String {
        match self {
            Self::Copy(told, ..) | Self::CopyFrom { told, .. } => (*told).to_owned(),
            Self::Run(script) => format!("RUN {script}"),
            Self::WorkDir(dir) => format!("WORKDIR {dir}"),
            Self::Env(name, value) => format!("ENV {name}={value}"),
            Self::Entrypoint(words) => format!("ENTRYPOINT {words:?}"),
            Self::Cmd(words) => format!("CMD {words:?}"),
        }
    }

    fn makes_layer(&self) -> bool {
        !matches!(self, Self::Env(..) | Self::Entrypoint(_) | Self::Cmd(_))
    }

    /// What the image says otherwise after the step.
    fn configure(&self, config: &mut ConfigChanges) {
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
        match self {
            Self::WorkDir(dir) => config.working_dir = Some(dir.trim_end_matches('/').to_owned()),
            Self::Env(name, value) => config.env.push(((*name).to_owned(), (*value).to_owned())),
            Self::Entrypoint(program) => config.entrypoint = words(program),
            Self::Cmd(arguments) => config.cmd = words(arguments),
            Self::Copy(..) | Self::CopyFrom { .. } | Self::Run(_) => {}
        }
    }

    /// Changes a container's files; all but `RUN` needs neither a mount nor privilege.
    fn act(&self, driver: &Driver, runs: Runs, image: &str, container: &str) -> Result<()> {
        match self {
            Self::Copy(_, bytes, to) => {
                let opened = driver.tree(container)?;
                let mut file = overlay2::merged::OpenOptions::new();
                file.write(true).create(true).truncate(true).mode(0o644);
                opened.tree().open_with(to, &file)?.write_all(bytes)?;
            }
            Self::CopyFrom { stage, from, to, .. } => {
                let (source, target) = (driver.read_tree(stage)?, driver.tree(container)?);
                let source = CopySource::Tree(source.tree(), Path::new(from));
                let target = CopyTarget::Tree(target.tree(), Path::new(to));
                copy(source, target, &CopyOptions::default(), Watch::new())?;
            }
            Self::WorkDir(dir) => driver.tree(container)?.tree().create_dir_all(dir, 0o755)?,
            Self::Run(script) => match runs {
                Runs::Chroot => run_inside(driver, image, container, script)?,
                Runs::Here(_) => run_here(driver, container, script)?,
            },
            Self::Env(..) | Self::Entrypoint(_) | Self::Cmd(_) => {}
        }
        Ok(())
    }
}

/// Runs a script by the container's own shell, in its root and the image's working directory.
fn run_inside(driver: &Driver, image: &str, container: &str, script: &str) -> Result<()> {
    let config = driver.inspect(image)?.config.unwrap_or_default();
    let dir = config.get("WorkingDir").and_then(|dir| dir.as_str()).unwrap_or("/");
    let mounted = driver.mount(container, None, &MountOptions::default())?;
    let status = Command::new("/usr/sbin/chroot")
        .arg(&mounted.target)
        .args(["/bin/sh", "-ec", "cd \"$0\"; eval \"$1\"", dir, script])
        .env_clear()
        .env("PATH", "/bin:/usr/bin:/usr/sbin:/sbin")
        .status();
    driver.unmount(container)?;
    match status? {
        status if status.success() => Ok(()),
        status => Err(format!("RUN {script}: {status}").into()),
    }
}

/// Does what the example's two scripts do.
fn run_here(driver: &Driver, container: &str, script: &str) -> Result<()> {
    let opened = driver.tree(container)?;
    let tree = opened.tree();
    if let Some(path) = script.strip_prefix("chmod +x ") {
        return Ok(tree.set_permissions(path, 0o755)?);
    }
    let mut gateway = tree.read("/build/gateway.sh")?;
    gateway.extend(b"y\n".iter().cycle().take(20_200_000));
    tree.write("/build/0voiceGateway", gateway)?;
    Ok(tree.set_permissions("/build/0voiceGateway", 0o755)?)
}

fn options(told: &str) -> CommitOptions {
    let mut options = CommitOptions::default();
    options.created_by = Some(told.to_owned());
    options
}

/// The name of the image that the cache keeps for these inputs.
fn cached(inputs: &[&[u8]]) -> String {
    let digests: Vec<String> = inputs.iter().map(|input| Digest::of(input).to_string()).collect();
    format!("build.cache/steps:{}", Digest::of(digests.concat().as_bytes()).hex())
}
