//! Engines elsewhere: over TLS with certificates, and over SSH; by address and by context.

use crate::shop::Shop;
use rollback_core::{Effect, Kind, Outcome};
use rollback_docker::{ComposeService, ConnectOptions, Engine};
use rollback_tests::bed::{docker::Bed, ssh::Ssh};
use std::{path::Path, time::Duration};

const TLS: &str = "tcp://127.0.0.1:2376";

/// A docker configuration of its own, with contexts that docker itself made.
pub(crate) fn contexts(bed: &Bed, dir: &Path, all: &[(&str, &str)]) {
    std::os::unix::fs::symlink(bed.dir().join("config/cli-plugins"), dir.join("cli-plugins")).unwrap();
    let config = dir.display().to_string();
    for (name, endpoint) in all {
        bed.docker(&["--config", &config, "context", "create", name, "--docker", endpoint]);
    }
}
fn files(bed: &Bed, side: &str) -> String {
    let at = |file: &str| bed.dir().join("tls").join(side).join(file).display().to_string();
    format!("host={TLS},ca={},cert={},key={}", at("ca.pem"), at("cert.pem"), at("key.pem"))
}
async fn by(dir: &Path, context: &str) -> rollback_core::Result<Engine> {
    Engine::connect(ConnectOptions::new().with_config_dir(dir).with_context(context)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_context_over_tls_reaches_its_engine_and_no_other_certificates_do() {
    let bed = Bed::here();
    let dir = tempfile::tempdir().unwrap();
    let mixed = |ca: &str, cert: &str| {
        let at = |side: &str, file: &str| bed.dir().join("tls").join(side).join(file).display().to_string();
        format!("host={TLS},ca={},cert={},key={}", at(ca, "ca.pem"), at(cert, "cert.pem"), at(cert, "key.pem"))
    };
    let away = files(&bed, "ok").replace("2376", "1");
    contexts(
        &bed,
        dir.path(),
        &[
            ("prod", &files(&bed, "ok")),
            ("who", &mixed("ok", "other")),
            ("which", &mixed("other", "ok")),
            ("away", &away),
            ("plain", &format!("host={TLS}")),
        ],
    );
    let engine = by(dir.path(), "prod").await.unwrap();
    assert_eq!((engine.id(), engine.context()), (bed.engine().await.id(), Some("prod")));
    for (context, why) in [
        ("who", "certificate"),
        ("which", "certificate"),
        ("away", "cannot be reached"),
        ("plain", "HTTP request to an HTTPS server"),
    ] {
        let e = by(dir.path(), context).await.unwrap_err();
        assert_eq!(e.effect(), Effect::None, "{context}: {e}");
        assert!(e.to_string().contains(why) && e.to_string().contains("127.0.0.1"), "{context}: {e}");
        // Waiting does not mend a certificate.
        assert_eq!(e.is_transient(), context == "away", "{context}: {e}");
    }

    // A rollback through it; Compose's half by the docker command line over the same context.
    let shop = Shop::new("tls", "", "");
    let target = ComposeService::new(engine, &shop.project.name, "shop").with_stable_for(Duration::from_millis(300));
    let report = shop.rollback(target).await.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn another_engine_than_the_one_that_was_meant_is_refused_and_versions_are_agreed_on() {
    let bed = Bed::here();
    let dir = tempfile::tempdir().unwrap();
    contexts(&bed, dir.path(), &[("prod", &format!("host={}", bed.host()))]);
    let options = || ConnectOptions::new().with_config_dir(dir.path()).with_context("prod");
    let engine = Engine::connect(options()).await.unwrap();
    let says = |what: &str| bed.docker(&["version", "-f", &format!("{{{{.Server.{what}}}}}")]);
    assert_eq!((engine.api_version(), engine.server_version()), (&*says("APIVersion"), &*says("Version")));
    let major = engine.server_version().split('.').next().unwrap();
    for meant in [options().expecting(engine.id()), options().expecting(engine.name()).expecting_version(major)] {
        assert_eq!(Engine::connect(meant).await.unwrap().id(), engine.id());
    }
    for (other, why) in
        [(options().expecting("prod-7"), "prod-7 was meant"), (options().expecting_version("9."), "9. was meant")]
    {
        let e = Engine::connect(other).await.unwrap_err();
        assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Invalid, Effect::None, false), "{e}");
        let said = e.to_string();
        assert!(said.contains(why) && said.contains("context prod") && said.contains(&bed.host()), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_context_over_ssh_reaches_its_engine_and_nobody_else_is_let_in() {
    let bed = Bed::here();
    let _ssh = Ssh::start(&bed);
    let dir = tempfile::tempdir().unwrap();
    let hosts = ["bed-ok", "bed-stranger", "bed-changed", "bed-down"];
    let endpoints = hosts.map(|host| format!("host=ssh://{host}"));
    let all: Vec<(&str, &str)> = hosts.into_iter().zip(endpoints.iter().map(String::as_str)).collect();
    contexts(&bed, dir.path(), &all);
    for (context, why, kind) in [
        ("bed-stranger", "Permission denied", Kind::Denied),
        ("bed-changed", "ost key", Kind::Denied),
        ("bed-down", "refused", Kind::Unavailable),
    ] {
        let e = by(dir.path(), context).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (kind, Effect::None), "{context}: {e}");
        assert!(e.to_string().contains(why) && e.to_string().contains(context), "{context}: {e}");
    }
    let engine = by(dir.path(), "bed-ok").await.unwrap();
    assert_eq!(engine.id(), bed.engine().await.id());
    let shop = Shop::new("ssh", "", "");
    let target = ComposeService::new(engine, &shop.project.name, "shop").with_stable_for(Duration::from_millis(300));
    let report = shop.rollback(target).await.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
}
