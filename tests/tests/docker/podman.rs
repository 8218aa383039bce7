//! What answers is not always Docker's engine.

use crate::connect::contexts;
use axum::{Json, Router, routing::get};
use rollback_core::{Effect, Kind};
use rollback_docker::{ConnectOptions, Engine};
use rollback_tests::bed::{docker::Bed, proxy::Proxy};
use serde_json::{Value, json};

async fn says(version: Value) -> rollback_core::Result<Engine> {
    let answer = move || {
        let version = version.clone();
        async move { Json(version) }
    };
    let info = || async { Json(json!({ "ID": "AAAA:BBBB", "Name": "prod-7" })) };
    let app = Router::new()
        .route("/version", get(answer.clone()))
        .route("/{api}/version", get(answer))
        .route("/{api}/info", get(info))
        .route("/info", get(info));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let engine = Engine::connect(ConnectOptions::new().with_host(format!("tcp://{at}"))).await;
    server.abort();
    engine
}

#[tokio::test]
async fn podman_is_refused_by_name_and_an_old_engine_is_spoken_to_as_it_speaks() {
    let podman = json!({
        "ApiVersion": "1.41", "MinAPIVersion": "1.24", "Version": "5.2.0",
        "Components": [{ "Name": "Podman Engine", "Version": "5.2.0" }],
    });
    let e = says(podman).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Unsupported, Effect::None));
    assert!(e.to_string().contains("Podman"), "{e}");
    let docker = |api: &str| {
        json!({
            "ApiVersion": api, "MinAPIVersion": "1.12", "Version": "20.10.24",
            "Components": [{ "Name": "Engine", "Version": "20.10.24" }],
        })
    };
    let old = says(docker("1.41")).await.unwrap();
    assert_eq!((old.api_version(), old.name()), ("1.41", "prod-7"));
    let e = says(docker("1.30")).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(e.to_string().contains("1.30"), "{e}");
}

/// The real one, with a container in it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_real_podman_is_refused_by_name_before_anything_but_its_version_was_asked() {
    let bed = Bed::here();
    let podman = bed.podman();
    let project = bed.project("podman");
    let till = podman.container(&project.name);
    let state = || podman.docker(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}} {{.State.Running}}", &till]);
    let (before, all) = (state(), podman.docker(&["ps", "-aq"]));
    let version = podman.docker(&["version", "-f", "{{(index .Server.Components 0).Version}}"]);

    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::before(&project, podman.socket.clone());
    contexts(&bed, dir.path(), &[("till", &format!("host={}", proxy.host))]);
    let client = bollard::Docker::connect_with_unix(&proxy.host, 60, bollard::API_DEFAULT_VERSION).unwrap();
    for (how, connected) in [
        ("an address", Engine::connect(ConnectOptions::new().with_host(&proxy.host)).await),
        ("a context", Engine::connect(ConnectOptions::new().with_config_dir(dir.path()).with_context("till")).await),
        ("a client", Engine::from_client(client).await),
    ] {
        let e = connected.map(|engine| engine.id().to_owned()).unwrap_err();
        assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Unsupported, Effect::None, false), "{how}: {e}");
        let said = e.to_string();
        for part in [&format!("Podman {version}"), "name an engine of Docker's by DOCKER_HOST or a context"] {
            assert!(said.contains(part), "{how}: {said}");
        }
    }
    // What it is, and nothing else.
    let asked = proxy.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line.starts_with("GET ") && line.ends_with("/version")),
        "{asked:?}"
    );
    // Why: an id that is another one each time.
    let id = || podman.docker(&["info", "-f", "{{.ID}}"]);
    assert_ne!(id(), id(), "it can be told from another one now: then it can be asked what else it lacks");
    assert_eq!((state(), podman.docker(&["ps", "-aq"])), (before, all));
    podman.docker(&["rm", "-f", &till]);
}
