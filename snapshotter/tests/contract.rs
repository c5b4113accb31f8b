//! What a client of `containerd.services.snapshots.v1` is answered, over the socket.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on ends")]
#![allow(clippy::disallowed_methods, reason = "a scene is laid out by path")]

mod common;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use common::{Bed, Client, commit, connect, key, listed, prepare, runtime};
use overlay2_snapshotter::proto::*;
use tonic::Code;

/// Runs a test against a snapshotter of its own.
fn with_client<F: Future<Output = ()>>(test: impl FnOnce(Client, Arc<Bed>) -> F) {
    runtime().block_on(async {
        let bed = Arc::new(Bed::new());
        let _process = bed.serve();
        let client = connect(&bed).await;
        test(client, Arc::clone(&bed)).await;
    });
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn committed(client: &mut Client, name: &str, parent: &str) {
    client.prepare(prepare("making", parent)).await.unwrap();
    client.commit(commit(name, "making", "")).await.unwrap();
}

/// The code of an answer that is an error.
macro_rules! code {
    ($call:expr) => {
        $call.await.unwrap_err().code()
    };
}

#[test]
fn refusals_have_the_codes_that_clients_decide_by() {
    with_client(|mut c, _bed| async move {
        committed(&mut c, "base", "").await;
        c.prepare(prepare("active", "base")).await.unwrap();
        c.view(prepare("view", "base")).await.unwrap();
        assert_eq!(code!(c.prepare(prepare("active", ""))), Code::AlreadyExists);
        assert_eq!(code!(c.view(prepare("base", ""))), Code::AlreadyExists);
        assert_eq!(code!(c.prepare(prepare("x", "nowhere"))), Code::NotFound);
        assert_eq!(code!(c.prepare(prepare("x", "active"))), Code::InvalidArgument);
        assert_eq!(code!(c.prepare(prepare("", ""))), Code::InvalidArgument);
        assert_eq!(code!(c.mounts(key("nowhere"))), Code::NotFound);
        assert_eq!(code!(c.mounts(key("base"))), Code::FailedPrecondition);
        assert_eq!(code!(c.commit(commit("base", "active", ""))), Code::AlreadyExists);
        assert_eq!(code!(c.commit(commit("x", "nowhere", ""))), Code::NotFound);
        assert_eq!(code!(c.commit(commit("x", "view", ""))), Code::FailedPrecondition);
        assert_eq!(code!(c.commit(commit("x", "active", "y"))), Code::InvalidArgument);
        assert_eq!(code!(c.remove(key("base"))), Code::FailedPrecondition);
        assert_eq!(code!(c.remove(key("nowhere"))), Code::NotFound);
        assert_eq!(code!(c.stat(key("nowhere"))), Code::NotFound);
        assert_eq!(code!(c.usage(key("nowhere"))), Code::NotFound);
        let bad = ListRequest { filters: vec!["name==".into()], ..Default::default() };
        assert_eq!(code!(c.list(bad)), Code::InvalidArgument);
        let mut long = prepare("x", "");
        long.labels = labels(&[("key", &"v".repeat(4094))]);
        assert_eq!(code!(c.prepare(long)), Code::InvalidArgument);
        assert_eq!(listed(&mut c, &[]).await, ["active", "base", "view"]);
    });
}

#[test]
fn a_snapshot_lives() {
    with_client(|mut c, bed| async move {
        let mut request = prepare("a", "");
        request.labels = labels(&[("k", "v"), ("containerd.io/gc.root", "now")]);
        let mounts = c.prepare(request).await.unwrap().into_inner().mounts;
        assert_eq!((mounts[0].r#type.as_str(), mounts.len()), ("bind", 1));
        assert_eq!(mounts[0].options, ["rw", "rbind"]);
        std::fs::write(format!("{}/file", mounts[0].source), [7; 10_000]).unwrap();
        assert_eq!(c.mounts(key("a")).await.unwrap().into_inner().mounts, mounts);

        let info = c.stat(key("a")).await.unwrap().into_inner().info.unwrap();
        assert_eq!((info.kind(), info.parent.as_str()), (Kind::Active, ""));
        assert_eq!(info.labels["k"], "v");
        assert!(info.created_at.is_some() && info.created_at == info.updated_at);
        let live = c.usage(key("a")).await.unwrap().into_inner();
        assert!(live.size >= 10_000 && live.inodes == 2, "{live:?}");

        let mut request = commit("one", "a", "");
        request.labels = labels(&[("other", "1")]);
        c.commit(request).await.unwrap();
        assert_eq!(code!(c.stat(key("a"))), Code::NotFound);
        let info = c.stat(key("one")).await.unwrap().into_inner().info.unwrap();
        assert_eq!((info.kind(), &info.labels), (Kind::Committed, &labels(&[("other", "1")])));
        assert_eq!(c.usage(key("one")).await.unwrap().into_inner(), live);

        let mounts = c.prepare(prepare("b", "one")).await.unwrap().into_inner().mounts;
        assert_eq!(mounts[0].r#type, "overlay");
        for option in ["index=off", "workdir=", "upperdir=", "lowerdir="] {
            assert!(mounts[0].options.iter().any(|o| o.starts_with(option)), "{mounts:?}");
        }
        let mounts = c.view(prepare("v", "one")).await.unwrap().into_inner().mounts;
        assert_eq!((mounts[0].r#type.as_str(), mounts[0].options[0].as_str()), ("bind", "ro"));
        let none = c.usage(key("v")).await.unwrap().into_inner();
        assert_eq!((none.size, none.inodes), (0, 0));

        for name in ["v", "b", "one"] {
            c.remove(key(name)).await.unwrap();
        }
        c.cleanup(CleanupRequest::default()).await.unwrap();
        assert!(bed.names("records").is_empty() && bed.names("snapshots").is_empty());
        assert!(bed.names("trash").is_empty());
    });
}

#[test]
fn updates_change_labels_alone() {
    with_client(|mut c, _bed| async move {
        c.prepare(prepare("a", "")).await.unwrap();
        let mut update = async |given: &[(&str, &str)], paths: &[&str]| {
            let info = Info { name: "a".into(), labels: labels(given), ..Default::default() };
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let update_mask = Some(prost_types::FieldMask { paths });
            let request = UpdateRequest { info: Some(info), update_mask, ..Default::default() };
            let answer = c.update(request).await;
            answer.map(|answer| answer.into_inner().info.unwrap().labels)
        };
        let all = [("a", "1"), ("b", "2")];
        assert_eq!(update(&all, &[]).await.unwrap(), labels(&all));
        let dotted = [("a", "3"), ("x.y", "4")];
        let expected = labels(&[("a", "3"), ("b", "2"), ("x.y", "4")]);
        assert_eq!(update(&dotted, &["labels.a", "labels.x.y"]).await.unwrap(), expected);
        // A field that is named and not given goes.
        let expected = labels(&[("b", "2"), ("x.y", "4")]);
        assert_eq!(update(&[], &["labels.a"]).await.unwrap(), expected);
        assert_eq!(update(&[("c", "5")], &["labels"]).await.unwrap(), labels(&[("c", "5")]));
        let refused = update(&all, &["parent"]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

#[test]
fn lists_are_filtered_and_come_in_parts() {
    with_client(|mut c, _bed| async move {
        committed(&mut c, "base", "").await;
        for n in 0..250 {
            let mut request = prepare(&format!("k{n:03}"), "base");
            request.labels = labels(&[("third", if n % 3 == 0 { "yes" } else { "no" })]);
            c.view(request).await.unwrap();
        }
        assert_eq!(listed(&mut c, &[]).await.len(), 251);
        assert_eq!(listed(&mut c, &["kind==committed"]).await, ["base"]);
        assert_eq!(listed(&mut c, &["labels.third==yes,name~=/^k00/"]).await.len(), 4);
        assert_eq!(listed(&mut c, &["name==k001", "name==k002"]).await, ["k001", "k002"]);
        assert_eq!(listed(&mut c, &["parent==base"]).await.len(), 250);
    });
}

#[test]
fn a_killed_snapshotter_has_lost_nothing() {
    let runtime = runtime();
    let bed = Bed::new();
    for round in 0..5 {
        let mut process = bed.serve();
        let reported = runtime.block_on(async {
            let client = connect(&bed).await;
            // Four clients that prepare, commit and remove, until it is killed in the middle.
            let tasks: Vec<_> = (0..4)
                .map(|n| tokio::spawn(work(client.clone(), format!("r{round}c{n}"))))
                .collect();
            let (mut other, prefix) = (client, format!("r{round}c"));
            while !listed(&mut other, &["kind==committed"])
                .await
                .iter()
                .any(|name| name.starts_with(&prefix))
            {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(70 * round)).await;
            process.kill();
            let mut reported = Vec::new();
            for task in tasks {
                reported.extend(task.await.unwrap());
            }
            reported
        });
        assert!(!reported.is_empty());
        let _again = bed.serve();
        runtime.block_on(async {
            let mut client = connect(&bed).await;
            let names = listed(&mut client, &["kind==committed"]).await;
            for name in &reported {
                assert!(names.contains(name), "{name} was reported as committed");
            }
            // Each directory has a record, and each record a directory.
            let all = listed(&mut client, &[]).await;
            assert_eq!(bed.names("snapshots").len(), all.len());
            assert_eq!(bed.names("records").len(), all.len());
            assert!(bed.names("damaged").is_empty());
        });
    }
}

/// Commits snapshots on each other, removes others, and gives the names that were reported.
async fn work(mut client: Client, prefix: String) -> Vec<String> {
    let mut reported: Vec<String> = Vec::new();
    for n in 0.. {
        let parent = reported.last().cloned().unwrap_or_default();
        let (active, name) = (format!("{prefix}-a{n}"), format!("{prefix}-{n}"));
        let done = async {
            client.prepare(prepare(&active, &parent)).await?;
            client.commit(commit(&name, &active, "")).await?;
            Ok::<_, tonic::Status>(())
        };
        if done.await.is_err() {
            break;
        }
        reported.push(name);
        let gone = format!("{prefix}-gone{n}");
        if client.view(prepare(&gone, &parent)).await.is_err()
            || client.remove(key(&gone)).await.is_err()
        {
            break;
        }
    }
    reported
}
