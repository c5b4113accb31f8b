//! The snapshotter as a process: how it starts on what it finds, and how it ends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on ends")]
#![allow(clippy::disallowed_methods, reason = "a scene is laid out by path")]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bed, Client, Process, connect, key, listed, prepare, runtime, skip, wait_for};
use overlay2_snapshotter::proto::CleanupRequest;
use tonic::Code;

const MINUTE: Duration = Duration::from_secs(60);

/// Prepares and commits a snapshot.
async fn committed(client: &mut Client, name: &str) {
    client.prepare(prepare("making", "")).await.unwrap();
    client.commit(common::commit(name, "making", "")).await.unwrap();
}

/// The snapshotter where something else is done before, as root in mounts of its own.
fn after(bed: &Bed, script: &str) -> Command {
    let snapshotter = bed.command();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec"]).arg(format!("{script}\nexec \"$@\"")).arg("sh");
    command.arg(snapshotter.get_program()).args(snapshotter.get_args());
    command.current_dir(bed.path()).stderr(Stdio::piped());
    command
}

#[test]
fn a_record_that_can_be_neither_read_nor_moved_hinders_no_other() {
    let unshared = Command::new("unshare").args(["-m", "true"]).output();
    if !unshared.is_ok_and(|output| output.status.success()) {
        return skip("a_record_that_can_be_neither_read_nor_moved_hinders_no_other", "needs root");
    }
    let bed = Bed::new();
    let process = bed.serve();
    runtime().block_on(async {
        let mut client = connect(&bed).await;
        committed(&mut client, "bad").await;
        committed(&mut client, "good").await;
    });
    drop(process);
    // Reading it is EIO, and renaming it EBUSY.
    let broken = "mount --bind /proc/$$/mem snapshots/records/bad";
    let mut process = bed.wait_for_it(&mut after(&bed, broken));
    runtime().block_on(async {
        let mut client = connect(&bed).await;
        assert_eq!(listed(&mut client, &[]).await, ["good"]);
        client.prepare(prepare("on-good", "good")).await.unwrap();
        let refused = client.prepare(prepare("bad", "")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unknown);
        assert!(refused.message().contains("a damaged record of a snapshot \"bad\""), "{refused}");
        let refused = client.commit(common::commit("bad", "on-good", "")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unknown);
        client.remove(key("on-good")).await.unwrap();
        client.cleanup(CleanupRequest::default()).await.unwrap();
    });
    process.kill();
    let log = process.log();
    let why = "set aside a damaged record: Device or resource busy (os error 16): \
               read record bad: Input/output error (os error 5)";
    assert!(log.contains(why) && log.contains("hint: until it is mended"), "{log}");
    // Once it can be read again, its snapshot is there.
    let _again = bed.serve();
    runtime().block_on(async {
        assert_eq!(listed(&mut connect(&bed).await, &[]).await, ["bad", "good"]);
    });
    assert!(bed.names("damaged").is_empty());
    assert_eq!(bed.names("snapshots").len(), 2);
}

#[test]
fn what_the_process_lacks_is_no_damage() {
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        return skip("what_the_process_lacks_is_no_damage", "needs strace");
    }
    let bed = Bed::new();
    let process = bed.serve();
    runtime().block_on(async { committed(&mut connect(&bed).await, "it").await });
    drop(process);
    // The second thing that is opened there; the first is the list. The tracer is no parent (-D), so
    // that signals and the end are those of what is traced.
    let opened_with = |error: &str| {
        let snapshotter = bed.command();
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o"]).arg(bed.path().join("trace"));
        command.arg("-P").arg(bed.root().join("records"));
        command.args(["-e", "trace=openat", "-e"]);
        command.arg(format!("inject=openat:error={error}:when=2")).arg("--");
        command.arg(snapshotter.get_program()).args(snapshotter.get_args());
        command.stderr(Stdio::piped());
        command
    };
    for error in ["EMFILE", "ENFILE", "ENOMEM"] {
        let mut process = Process::start(&mut opened_with(error));
        assert_eq!(process.wait(MINUTE).code(), Some(1), "{error}");
        let log = process.log();
        assert!(log.contains("open record it: "), "{error}: {log}");
        assert_eq!((bed.names("records").len(), bed.names("damaged").len()), (1, 0), "{error}");
    }
    for error in ["EIO", "EUCLEAN"] {
        let mut process = bed.wait_for_it(&mut opened_with(error));
        assert_eq!(bed.names("damaged"), ["it"], "{error}");
        assert_eq!(bed.names("snapshots").len(), 1, "{error}");
        process.terminate();
        process.wait(MINUTE);
        let log = process.log();
        assert!(log.contains("damaged/it: a record that could not be read"), "{error}: {log}");
        std::fs::rename(bed.root().join("damaged/it"), bed.root().join("records/it")).unwrap();
    }
}

/// Starts it where it cannot, and gives what it says.
fn refused(bed: &Bed) -> String {
    let mut process = Process::start(bed.command().stderr(Stdio::piped()));
    assert_eq!(process.wait(MINUTE).code(), Some(1));
    process.log()
}

#[test]
fn nothing_but_a_socket_that_nobody_uses_is_removed() {
    let bed = Bed::new();
    let socket = bed.socket();
    std::fs::write(&socket, "mine").unwrap();
    let log = refused(&bed);
    let said = format!("listen on {}: a file has that name; give another", socket.display());
    assert!(log.contains(&said), "{log}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");
    std::fs::remove_file(&socket).unwrap();

    std::os::unix::fs::symlink("elsewhere", &socket).unwrap();
    assert!(refused(&bed).contains("a symlink has that name"));
    assert_eq!(std::fs::read_link(&socket).unwrap().to_str(), Some("elsewhere"));
    std::fs::remove_file(&socket).unwrap();

    std::fs::create_dir(&socket).unwrap();
    assert!(refused(&bed).contains("a directory has that name"));
    std::fs::remove_dir(&socket).unwrap();

    // In use, though not by one that listens.
    let other = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    assert!(refused(&bed).contains("whether anybody uses that socket is not known"));
    assert!(socket.exists());
    drop(other);
    // One that was left behind goes.
    bed.serve().kill();
    assert!(socket.exists());
    let running = bed.serve();
    let elsewhere = bed.command_in(&bed.path().join("another"));
    let mut process = Process::start({ elsewhere }.stderr(Stdio::piped()));
    assert_eq!(process.wait(MINUTE).code(), Some(1));
    assert!(process.log().contains("somebody listens there already"));
    runtime().block_on(async { listed(&mut connect(&bed).await, &[]).await });
    drop(running);
}

#[test]
fn the_socket_of_another_stays_at_the_end() {
    let bed = Bed::new();
    let mut process = bed.serve();
    std::fs::remove_file(bed.socket()).unwrap();
    let other = std::os::unix::net::UnixListener::bind(bed.socket()).unwrap();
    process.terminate();
    assert_eq!(process.wait(MINUTE).code(), Some(0));
    assert!(bed.socket().exists(), "another listens on it");
    drop(other);
    let mut process = bed.serve();
    process.terminate();
    assert_eq!(process.wait(MINUTE).code(), Some(0));
    assert!(!bed.socket().exists(), "its own");
}

/// How long it is waited for clients, nearly.
const NEARLY: Duration = Duration::from_millis(4500);

#[test]
fn it_ends_though_a_client_does_not_answer() {
    let bed = Bed::new();
    let mut process = bed.serve();
    let silent = std::os::unix::net::UnixStream::connect(bed.socket()).unwrap();
    let began = Instant::now();
    process.signal("INT");
    assert_eq!(process.wait(MINUTE / 3).code(), Some(0));
    assert!(began.elapsed() > NEARLY, "it waited {:?}", began.elapsed());
    assert!(!bed.socket().exists());
    drop(silent);

    let mut process = bed.serve();
    let silent = std::os::unix::net::UnixStream::connect(bed.socket()).unwrap();
    let began = Instant::now();
    process.terminate();
    wait_for("the end of the socket", || !bed.socket().exists());
    process.terminate();
    assert_eq!(process.wait(MINUTE).code(), Some(0));
    assert!(began.elapsed() < NEARLY, "at the second signal: {:?}", began.elapsed());
    drop(silent);

    // One that does nothing, but answers.
    let mut process = bed.serve();
    let runtime = runtime();
    let mut client = runtime.block_on(connect(&bed));
    runtime.block_on(committed(&mut client, "it"));
    let began = Instant::now();
    process.terminate();
    assert_eq!(process.wait(MINUTE).code(), Some(0));
    assert!(began.elapsed() < NEARLY, "it had nothing to wait for: {:?}", began.elapsed());
}

#[test]
fn a_call_that_is_being_made_is_waited_for() {
    let bed = Bed::new();
    // A record is written to a FIFO, for which somebody has to read it.
    let fifo = bed.root().join("records/.slow.new");
    let prepare_slowly = |runtime: &tokio::runtime::Runtime| {
        let process = bed.wait_for_it(bed.command().args(["--durability", "none"]));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let mut client = runtime.block_on(connect(&bed));
        let call = runtime.spawn(async move { client.prepare(prepare("slow", "")).await });
        wait_for("the call", || !bed.names("snapshots").is_empty());
        process.terminate();
        wait_for("the end of the socket", || !bed.socket().exists());
        (process, call)
    };
    let runtime = runtime();
    // It takes too long.
    let began = Instant::now();
    let (mut process, call) = prepare_slowly(&runtime);
    assert_eq!(process.wait(MINUTE / 3).code(), Some(0));
    assert!(began.elapsed() > NEARLY, "it waited {:?}", began.elapsed());
    assert!(runtime.block_on(call).unwrap().is_err());
    bed.serve().kill();
    assert!(bed.names("snapshots").is_empty() && bed.names("records").is_empty());

    let (mut process, call) = prepare_slowly(&runtime);
    std::thread::sleep(Duration::from_secs(1));
    let record = std::fs::read_to_string(&fifo).unwrap();
    assert!(record.contains("\"slow\""), "{record}");
    assert_eq!(process.wait(MINUTE).code(), Some(0));
    assert!(runtime.block_on(call).unwrap().is_ok(), "it was answered");
    assert_eq!(bed.names("records"), ["slow"]);
}
