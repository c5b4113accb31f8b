//! `overlay2-snapshotter`: serves snapshots to containerd on a socket, until it is told to end.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use overlay2::Durability;
use overlay2::snapshot::{Snapshots, SnapshotsOptions};
use overlay2_snapshotter::rpc::snapshots_server::SnapshotsServer;
use overlay2_snapshotter::service::{Service, tell};
use overlay2_snapshotter::socket::Socket;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// A snapshotter for containerd, on overlayfs.
///
/// containerd finds it by these lines in /etc/containerd/config.toml:
///
///   [proxy_plugins.overlay2]
///     type = "snapshot"
///     address = "/run/overlay2-snapshotter/overlay2-snapshotter.sock"
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment)]
struct Arguments {
    /// Where snapshots are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/overlay2-snapshotter")]
    root: PathBuf,
    /// The socket on which it is asked.
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/overlay2-snapshotter/overlay2-snapshotter.sock"
    )]
    address: PathBuf,
    /// What is still there after a power cut.
    #[arg(long, value_enum, default_value_t = Kept::Full)]
    durability: Kept,
    /// An option that each overlay is mounted with, besides its directories; may be repeated.
    #[arg(long = "mount-option", value_name = "OPTION", default_value = "index=off")]
    mount_options: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kept {
    /// All that was reported as done.
    Full,
    /// Whatever the kernel had written by then.
    None,
}

/// How long clients and calls are waited for, once it was told to end.
const GRACE: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[expect(clippy::print_stderr, reason = "a service's log is its standard error")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let served = runtime.map_err(|error| format!("start: {error}").into()).and_then(|runtime| {
        let served = runtime.block_on(serve(arguments));
        // What is not finished by now is as after a crash.
        runtime.shutdown_background();
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref() {
                Some(ours) => tell(ours),
                None => eprintln!("overlay2-snapshotter: {error}"),
            }
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), Failure> {
    let mut options = SnapshotsOptions::default();
    options.durability = match arguments.durability {
        Kept::Full => Durability::Full,
        Kept::None => Durability::None,
    };
    options.mount_options = arguments.mount_options;
    let snapshots = Arc::new(Snapshots::open(&arguments.root, &options)?);
    warn_of_damage(&snapshots)?;
    let cleaner = Arc::clone(&snapshots);
    // What was removed by one that was killed.
    tokio::task::spawn_blocking(move || cleaner.cleanup().inspect_err(tell));
    let mut signals = Signals::new()?;
    let (listener, socket) = Socket::listen(&arguments.address)
        .await
        .map_err(|error| format!("listen on {}: {error}", arguments.address.display()))?;
    notify_ready();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        .add_service(SnapshotsServer::new(Service::new(Arc::clone(&snapshots))))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            drop(stopped.await);
        });
    let mut served = pin!(async {
        server.await?;
        // Whoever still works for a client that went has a share of them.
        while Arc::strong_count(&snapshots) > 1 {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
    tokio::select! {
        done = &mut served => return done,
        () = signals.come() => {}
    }
    // While it is open. Whoever comes after makes its own.
    socket.remove();
    drop(stop);
    tokio::select! {
        done = &mut served => return done,
        () = signals.come() => {}
        () = sleep(GRACE) => {}
    }
    warn_of_haste();
    Ok(())
}

/// What tells a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next.
    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[expect(clippy::print_stderr, reason = "a service's log is its standard error")]
fn warn_of_haste() {
    eprintln!("overlay2-snapshotter: ended while a client was connected, or a call not finished");
}

#[expect(clippy::print_stderr, reason = "a service's log is its standard error")]
fn warn_of_damage(snapshots: &Snapshots) -> Result<(), Failure> {
    for name in snapshots.damaged()? {
        eprintln!("overlay2-snapshotter: damaged/{name}: a record that could not be read");
    }
    snapshots.problems().iter().for_each(tell);
    Ok(())
}

/// Tells a service manager that waits for it (sd_notify(3)).
fn notify_ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(own) = std::os::unix::net::UnixDatagram::unbound() else { return };
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => std::os::unix::net::SocketAddr::from_abstract_name(name),
        _ => std::os::unix::net::SocketAddr::from_pathname(&socket),
    };
    // One that does not wait any more needs no word.
    let _ = address.and_then(|address| own.send_to_addr(b"READY=1", &address));
}
