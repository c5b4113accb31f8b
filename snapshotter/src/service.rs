//! The service: each call translated, and made on a thread that may block.

use std::sync::Arc;

use overlay2::snapshot::{
    LabelChange, Labels, Snapshot, SnapshotKind, SnapshotMount, SnapshotUsage, Snapshots,
};
use overlay2::{Error, ErrorKind, Timestamp};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use crate::filter::Filter;
use crate::proto::{
    CleanupRequest, CommitRequest, Info, InfoResponse, KeyRequest, Kind, ListRequest, ListResponse,
    Mount, MountsResponse, PrepareRequest, UpdateRequest, UsageResponse,
};
use crate::rpc::snapshots_server;

/// How many snapshots one message of a list tells of.
const AT_ONCE: usize = 100;

/// Snapshots, as containerd asks for them.
#[derive(Clone, Debug)]
pub struct Service {
    snapshots: Arc<Snapshots>,
}

/// [`Snapshots::prepare`] or [`Snapshots::view`].
type Make = fn(&Snapshots, &str, Option<&str>, Labels) -> overlay2::Result<Vec<SnapshotMount>>;

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Serves these; each call that is being made holds a share.
    pub fn new(snapshots: Arc<Snapshots>) -> Self {
        Self { snapshots }
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshots) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshots = Arc::clone(&self.snapshots);
        let done = tokio::task::spawn_blocking(move || work(&snapshots)).await;
        done.map_err(|error| Status::internal(format!("the call was not finished: {error}")))?
    }

    async fn make(&self, request: PrepareRequest, make: Make) -> Answer<MountsResponse> {
        let made = self.call(move |snapshots| {
            check_labels(&request.labels)?;
            make(snapshots, &request.key, given(&request.parent), request.labels).map_err(status)
        });
        Ok(Response::new(mounts(made.await?)))
    }
}

#[tonic::async_trait]
impl snapshots_server::Snapshots for Service {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Answer<MountsResponse> {
        self.make(request.into_inner(), Snapshots::prepare).await
    }

    async fn view(&self, request: Request<PrepareRequest>) -> Answer<MountsResponse> {
        self.make(request.into_inner(), Snapshots::view).await
    }

    async fn mounts(&self, request: Request<KeyRequest>) -> Answer<MountsResponse> {
        let key = request.into_inner().key;
        let found = self.call(move |snapshots| snapshots.mounts(&key).map_err(status));
        Ok(Response::new(mounts(found.await?)))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Answer<()> {
        let request = request.into_inner();
        let done = self.call(move |snapshots| {
            check_labels(&request.labels)?;
            let CommitRequest { name, key, labels, parent, .. } = request;
            snapshots.commit(&name, &key, given(&parent), labels).map_err(status)
        });
        done.await.map(Response::new)
    }

    async fn remove(&self, request: Request<KeyRequest>) -> Answer<()> {
        let key = request.into_inner().key;
        self.call(move |snapshots| snapshots.remove(&key).map_err(status)).await?;
        // Nobody waits for the files.
        let snapshots = Arc::clone(&self.snapshots);
        tokio::task::spawn_blocking(move || snapshots.cleanup().inspect_err(tell));
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<KeyRequest>) -> Answer<InfoResponse> {
        let key = request.into_inner().key;
        let found = self.call(move |snapshots| snapshots.stat(&key).map_err(status));
        Ok(Response::new(InfoResponse { info: Some(info(found.await?)) }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Answer<InfoResponse> {
        let request = request.into_inner();
        let changed = self.call(move |snapshots| {
            let info = request.info.ok_or_else(|| Status::invalid_argument("no snapshot given"))?;
            check_labels(&info.labels)?;
            let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
            let change = change_of(&info, &paths)?;
            snapshots.update(&info.name, change).map_err(status)
        });
        Ok(Response::new(InfoResponse { info: Some(info(changed.await?)) }))
    }

    type ListStream = std::pin::Pin<Box<dyn Stream<Item = Result<ListResponse, Status>> + Send>>;

    async fn list(&self, request: Request<ListRequest>) -> Answer<Self::ListStream> {
        let texts = request.into_inner().filters;
        let found = self.call(move |snapshots| {
            let filters: Result<Vec<Filter>, _> = texts.iter().map(|text| text.parse()).collect();
            let filters = filters.map_err(|error| {
                Status::invalid_argument(format!("filter of snapshots: {error}"))
            })?;
            let mut all = snapshots.list();
            if !filters.is_empty() {
                all.retain(|snapshot| filters.iter().any(|filter| filter.matches(snapshot)));
            }
            Ok(all)
        });
        let infos: Vec<Info> = found.await?.into_iter().map(info).collect();
        let parts: Vec<_> =
            infos.chunks(AT_ONCE).map(|part| Ok(ListResponse { info: part.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn usage(&self, request: Request<KeyRequest>) -> Answer<UsageResponse> {
        let key = request.into_inner().key;
        let found = self.call(move |snapshots| snapshots.usage(&key).map_err(status)).await?;
        let SnapshotUsage { size, inodes } = found;
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(Response::new(UsageResponse { size: number(size), inodes: number(inodes) }))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        self.call(|snapshots| snapshots.cleanup().map_err(status)).await.map(Response::new)
    }
}

/// Says what nobody waits for.
#[expect(clippy::print_stderr, reason = "a service's log is its standard error")]
pub fn tell(error: &Error) {
    eprintln!("overlay2-snapshotter: {error}");
    if let Some(help) = error.help() {
        eprintln!("  hint: {help}");
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A label may have 4096 bytes in all, as the interface says.
fn check_labels(labels: &Labels) -> Result<(), Status> {
    match labels.iter().find(|(key, value)| key.len() + value.len() > 4096) {
        Some((key, _)) => {
            let key: String = key.chars().take(40).collect();
            Err(Status::invalid_argument(format!("label {key:?} is longer than 4096 bytes")))
        }
        None => Ok(()),
    }
}

/// What an update of these fields changes.
fn change_of(info: &Info, paths: &[String]) -> Result<LabelChange, Status> {
    if paths.is_empty() || paths.iter().any(|path| path == "labels") {
        return Ok(LabelChange::All(info.labels.clone()));
    }
    let mut labels = Labels::new();
    for path in paths {
        let Some(key) = path.strip_prefix("labels.") else {
            return Err(Status::invalid_argument(format!(
                "field {path:?} of snapshot {:?} cannot be changed: only labels can",
                info.name
            )));
        };
        labels.insert(key.to_owned(), info.labels.get(key).cloned().unwrap_or_default());
    }
    Ok(LabelChange::Some(labels))
}

fn mounts(found: Vec<SnapshotMount>) -> MountsResponse {
    let mount = |mount: SnapshotMount| Mount {
        r#type: mount.kind.to_owned(),
        source: mount.source.to_string_lossy().into_owned(),
        target: String::new(),
        options: mount.options,
    };
    MountsResponse { mounts: found.into_iter().map(mount).collect() }
}

fn info(snapshot: Snapshot) -> Info {
    let time = |time: Timestamp| prost_types::Timestamp {
        seconds: time.seconds,
        nanos: i32::try_from(time.nanos).unwrap_or(0),
    };
    let kind = match snapshot.kind {
        SnapshotKind::View => Kind::View,
        SnapshotKind::Active => Kind::Active,
        SnapshotKind::Committed => Kind::Committed,
    };
    Info {
        created_at: Some(time(snapshot.created)),
        updated_at: Some(time(snapshot.updated)),
        name: snapshot.name,
        parent: snapshot.parent.unwrap_or_default(),
        kind: kind.into(),
        labels: snapshot.labels,
    }
}

/// An error as the codes by which containerd's clients decide.
fn status(error: Error) -> Status {
    let code = match error.kind() {
        // Not a snapshot, but a file of ours.
        ErrorKind::NotFound | ErrorKind::AlreadyExists if error.raw_os_error().is_some() => {
            Code::Internal
        }
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InUse | ErrorKind::WrongState => Code::FailedPrecondition,
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::NoSpace | ErrorKind::LimitExceeded => Code::ResourceExhausted,
        ErrorKind::Unsupported => Code::Unimplemented,
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}
