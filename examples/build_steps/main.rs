//! A Dockerfile's steps on a [`Driver`]: each is a container that is changed and committed to a layer,
//! and is found again by what went into it: `cargo run --example build_steps [STORE]`, with or
//! without root.
//!
//! ```dockerfile
//! FROM base AS stage0
//! WORKDIR /build
//! COPY ./gateway.sh ./
//! RUN (cat gateway.sh; yes | head -c 20200000) > 0voiceGateway; chmod +x 0voiceGateway
//!
//! FROM base
//! ADD ./curl-amd64 /usr/bin/curl
//! RUN chmod +x /usr/bin/curl
//! WORKDIR /app/
//! ADD ./config.yaml /app/config.yaml
//! COPY --from=stage0 /build/0voiceGateway ./
//! ENV MODE=release
//! ENTRYPOINT ["/app/0voiceGateway"]
//! CMD ["--serve"]
//! ```
//!
//! The base is made of the static busybox of this machine. Where there is none, or nothing can be
//! mounted, `RUN` is done by this program itself, in the merged tree in userspace. Without `STORE`
//! all of it goes at the end.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a walk-through is to be read")]

mod base;
mod build;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use build::{Builder, Runs, Step};
use overlay2::userns::UserNamespace;
use overlay2::{Driver, KernelFeatures};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const IMAGE: &str = "example/gateway:latest";
const GATEWAY: &[u8] =
    b"#!/bin/sh\necho \"0voiceGateway $*, $MODE\"\nhead -n 1 /app/config.yaml\nexit 0\n";
const BUILD: &str =
    "(cat gateway.sh; yes | head -c 20200000) > 0voiceGateway; chmod +x 0voiceGateway";
const CURL: usize = 3_580_000;
const CONFIG: usize = 356;

/// The argument of the process that runs inside a user namespace, which starts no other.
const INSIDE: &str = "--inside-user-namespace";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("build_steps: {error}");
            if let Some(help) = error.downcast_ref::<overlay2::Error>().and_then(|e| e.help()) {
                eprintln!("hint: {help}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let inside = arguments.iter().any(|argument| argument == INSIDE);
    let scratch = tempfile::Builder::new().prefix("overlay2-build-").tempdir()?;
    let features = KernelFeatures::probe(&overlay2::Dir::open_ambient(scratch.path())?)?;
    let can_mount = features.overlay_trusted || features.overlay_user;
    if !can_mount && !inside {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(INSIDE).args(&arguments);
        match UserNamespace::plan().and_then(|namespace| namespace.run(command)) {
            Ok(status) if status.success() => return Ok(ExitCode::SUCCESS),
            // It has said why.
            Ok(_) => return Ok(ExitCode::FAILURE),
            Err(error) => println!("No user namespace: {error}"),
        }
    }
    let runs = match (can_mount, base::busybox()) {
        (true, Some(_)) => Runs::Chroot,
        (true, None) => Runs::Here("there is no static busybox on this machine"),
        (false, _) => Runs::Here("nothing can be mounted here"),
    };
    if let Runs::Here(why) = runs {
        println!("RUN is done by this program, in userspace: {why}.");
    }

    let kept = arguments.iter().find(|argument| *argument != INSIDE).map(PathBuf::from);
    let store = kept.clone().unwrap_or_else(|| scratch.path().join("store"));
    let driver = Driver::open(store)?;
    let made = build(&driver, runs)?;
    println!("\n{made} steps were made.");
    if kept.is_none() {
        println!("\nThe same once more:");
        let made = build(&driver, runs)?;
        println!("\n{made} steps were made.");
    }
    show(&driver)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds both stages; tells how many steps were not found in the cache.
fn build(driver: &Driver, runs: Runs) -> Result<usize> {
    let curl = vec![0xc5; CURL];
    let mut config = b"listen: 8081\n#".to_vec();
    config.resize(CONFIG - 1, b'.');
    config.push(b'\n');

    let mut builder = Builder::new(driver, runs);
    let base = builder.scratch("ADD rootfs.tar /", &base::rootfs()?)?;

    println!("\nFROM base AS stage0");
    let steps = [
        Step::WorkDir("/build"),
        Step::Copy("COPY ./gateway.sh ./", GATEWAY, "/build/gateway.sh"),
        Step::Run(BUILD),
    ];
    let stage0 = builder.steps(&base, &steps)?;

    println!("\nFROM base");
    let steps = [
        Step::Copy("ADD ./curl-amd64 /usr/bin/curl", &curl, "/usr/bin/curl"),
        Step::Run("chmod +x /usr/bin/curl"),
        Step::WorkDir("/app/"),
        Step::Copy("ADD ./config.yaml /app/config.yaml", &config, "/app/config.yaml"),
        Step::CopyFrom {
            told: "COPY --from=stage0 /build/0voiceGateway ./",
            stage: &stage0,
            from: "/build/0voiceGateway",
            to: "/app/0voiceGateway",
        },
        Step::Env("MODE", "release"),
        Step::Entrypoint(&["/app/0voiceGateway"]),
        Step::Cmd(&["--serve"]),
    ];
    let last = builder.steps(&base, &steps)?;
    driver.tag(&last, IMAGE)?;
    Ok(builder.made())
}

/// The image's history, as `docker history` prints it, and its layers.
fn show(driver: &Driver) -> Result<()> {
    println!("\nThe history of {IMAGE}, the last step first:");
    for step in driver.history(IMAGE)? {
        let layer = step.diff_id.map_or("(no layer)".into(), |id| id.digest().hex());
        let layer: String = layer.chars().take(12).collect();
        println!("{:>9} B  {layer:12}  {}", step.size, step.created_by.unwrap_or_default());
    }
    let inspection = driver.inspect(IMAGE)?;
    let lower = inspection.graph_driver.data.lower_dir.unwrap_or_default();
    let (diff_ids, lower) = (inspection.root_fs.layers.len(), lower.split(':').count());
    println!("{diff_ids} diff IDs = {lower} lower directories + 1 upper; stage0 left none.");
    Ok(())
}
