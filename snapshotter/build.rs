//! Writes the server and client of the service from its list of methods; the messages are in
//! `src/proto.rs`. No compiler of protocol buffers is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str, input: &str, output: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::proto::{input}"))
            .output_type(output)
            .codec_path("tonic_prost::ProstCodec")
    };
    let answer = |name: &str| format!("crate::proto::{name}");
    let empty = "crate::proto::Empty";
    let service = Service::builder()
        .name("Snapshots")
        .package("containerd.services.snapshots.v1")
        .method(method("prepare", "Prepare", "PrepareRequest", &answer("MountsResponse")).build())
        .method(method("view", "View", "PrepareRequest", &answer("MountsResponse")).build())
        .method(method("mounts", "Mounts", "KeyRequest", &answer("MountsResponse")).build())
        .method(method("commit", "Commit", "CommitRequest", empty).build())
        .method(method("remove", "Remove", "KeyRequest", empty).build())
        .method(method("stat", "Stat", "KeyRequest", &answer("InfoResponse")).build())
        .method(method("update", "Update", "UpdateRequest", &answer("InfoResponse")).build())
        .method(
            method("list", "List", "ListRequest", &answer("ListResponse"))
                .server_streaming()
                .build(),
        )
        .method(method("usage", "Usage", "KeyRequest", &answer("UsageResponse")).build())
        .method(method("cleanup", "Cleanup", "CleanupRequest", empty).build())
        .build();
    Builder::new().compile(&[service]);
}
