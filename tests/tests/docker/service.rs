//! A Compose service goes back to an earlier image: what stays, what goes, and what happens when it goes wrong.

use crate::shop::{CHECK, Shop, port, published};
use rollback_core::{
    Choose, Context, Health, HealthCheck as _, Look, Outcome, Policy, Rollback, Target, Verdict, Verifier as _,
    health::Http,
    seconds,
    verify::{StaysHealthy, Window},
};
use rollback_docker::{ComposeService, Container, Order};
use rollback_tests::bed::docker::{Bed, wait_until};
use std::{fs, time::Duration};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn all_that_was_given_survives_and_compose_takes_it_for_its_own() {
    let service = r#"
    environment: {MODE: till}
    restart: unless-stopped
    labels: {team: till}
    depends_on: [db]
    volumes: ["named:/named", "/anonymous"]
    secrets: [password]
    configs: [{source: settings, target: /etc/settings}]
    networks: {default: {aliases: [store]}, second: {}}
    healthcheck: {interval: 300ms}
  db:
    image: bed/shop:base
networks: {second: {}}
volumes: {named: {}}
secrets: {password: {file: ./password}}
configs: {settings: {file: ./settings}}
"#;
    let project = Bed::here().project("survives");
    let good = project.image("v1", &format!("ENV OF_IMAGE=v1\nLABEL of=v1\nWORKDIR /tmp\n{CHECK}"));
    let bad = project.image("v2", &format!("ENV OF_IMAGE=v2 ONLY_BAD=yes\nLABEL of=v2 bad=yes\nWORKDIR /etc\n{CHECK}"));
    fs::write(project.dir.join("password"), "hunter2").unwrap();
    fs::write(project.dir.join("settings"), "on").unwrap();
    let shop = Shop { project, good, bad, service: service.into() };
    shop.deploy("v2");
    let before = shop.project.containers("shop").remove(0);
    let name = before["Name"].as_str().unwrap().trim_start_matches('/').to_owned();
    shop.project.bed.docker(&[
        "exec",
        &name,
        "/bin/busybox",
        "sh",
        "-c",
        "echo kept > /named/a; echo kept > /anonymous/a",
    ]);

    let report = shop.roll_back().await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");

    let all = shop.project.containers("shop");
    assert_eq!(all.len(), 1);
    let after = &all[0];
    assert_eq!((&after["Image"], &after["Name"]), (&shop.good.as_str().into(), &before["Name"]));
    let env = after["Config"]["Env"].to_string();
    for line in ["MODE=till", "OF_IMAGE=v1", "VERSION=v1"] {
        assert!(env.contains(line), "{line} in {env}");
    }
    assert!(!env.contains("v2") && !env.contains("ONLY_BAD"), "{env}");
    let labels = &after["Config"]["Labels"];
    assert_eq!(
        (&labels["team"], &labels["of"], &labels["bad"]),
        (&"till".into(), &"v1".into(), &serde_json::Value::Null)
    );
    assert_eq!(labels["com.docker.compose.depends_on"], before["Config"]["Labels"]["com.docker.compose.depends_on"]);
    assert_eq!(
        (&after["Config"]["WorkingDir"], &after["HostConfig"]["RestartPolicy"]),
        (&"/tmp".into(), &before["HostConfig"]["RestartPolicy"])
    );
    assert_eq!(after["Config"]["Healthcheck"]["Interval"], 300_000_000);
    for network in ["default", "second"] {
        let network = format!("{}_{network}", shop.project.name);
        let aliases = after["NetworkSettings"]["Networks"][&network]["Aliases"].to_string();
        assert!(aliases.contains("\"shop\""), "{network}: {aliases}");
        assert!(!aliases.contains(&before["Id"].as_str().unwrap()[..12]), "{network}: {aliases}");
    }
    let aliases = after["NetworkSettings"]["Networks"][format!("{}_default", shop.project.name)]["Aliases"].to_string();
    assert!(aliases.contains("\"store\""), "{aliases}");
    let said = shop.project.bed.docker(&[
        "exec",
        &name,
        "/bin/busybox",
        "cat",
        "/named/a",
        "/anonymous/a",
        "/run/secrets/password",
        "/etc/settings",
    ]);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["kept", "kept", "hunter2on"]);

    // Compose takes it for its own, also when a pull (that brings nothing new) came between.
    let _ = shop.project.try_compose(&["pull", "--ignore-pull-failures"]);
    shop.project.compose(&["up", "-d"]);
    let again = shop.project.containers("shop");
    assert_eq!((again.len(), &again[0]["Id"]), (1, &after["Id"]), "docker compose up -d made it anew");
    assert!(shop.project.compose(&["ps"]).contains(&name));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_published_port_and_three_replicas_and_a_plain_container() {
    let shop = Shop::new("port", CHECK, &published(port()));
    let report = shop.roll_back().await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
    shop.accepted();
    drop(shop);

    let shop = Shop::new("three", "", "    scale: 3\n");
    let report = shop.roll_back().await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let all = shop.project.all_containers();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|c| c["Image"] == shop.good.as_str()));
    drop(shop);

    let project = Bed::here().project("plain");
    let (good, bad) = (project.image("v1", ""), project.image("v2", ""));
    let name = format!("{}-till", project.name);
    project.bed.docker(&[
        "run",
        "-d",
        "--name",
        &name,
        "-p",
        &format!("{}:8080", port()),
        "-e",
        "MODE=till",
        "-v",
        "/data",
        &bad,
    ]);
    let volume = |c: &serde_json::Value| c["Mounts"][0]["Name"].clone();
    let before = volume(&project.all_containers()[0]);
    let till = Container::new(project.bed.engine().await, &name).with_stable_for(Duration::from_millis(200));
    let shop = Shop { project, good, bad, service: String::new() };
    let report = shop.rollback(till).await.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let all = shop.project.all_containers();
    assert_eq!((all.len(), &all[0]["Image"], volume(&all[0])), (1, &shop.good.as_str().into(), before));
}

/// moby#34111, drydock#1023: the old container is healthy, the one that is gone back to is not. The old one goes on
/// serving, nothing is left over, and nobody calls that a recovery.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_good_one_that_never_gets_healthy_costs_nothing() {
    let check =
        "HEALTHCHECK --interval=200ms --timeout=1s --retries=2 CMD [\"/bin/shop\",\"health\"]\nENV NEVER_HEALTHY=1";
    let publish = published(port());
    for (what, good, service) in [
        ("never healthy, start first", check, ""),
        ("never healthy, stop first", check, publish.as_str()),
        ("crashes, start first", "ENV CRASH_AFTER=50ms", ""),
        ("crashes, stop first", "ENV CRASH_AFTER=50ms", publish.as_str()),
    ] {
        let shop = Shop::new("never", good, service);
        let before = shop.only()["Id"].clone();
        let report = shop.roll_back().await;
        assert!(!report.outcome().is_good(), "{what}: {report}");
        shop.serves("v2");
        assert_eq!(shop.only()["Id"], before, "{what}: the very container serves that served before");
        let text = report.to_string();
        assert!(text.contains("health check does not pass") || text.contains("does not stay up"), "{what}: {text}");
        // In its own words, which nobody can read any more afterwards.
        let words = if good.contains("NEVER_HEALTHY") {
            "its health check ended with 1, and said: "
        } else {
            "it logged last: "
        };
        assert!(text.contains(words), "{what}: {text}");
        assert!(text.contains("ends in the same way") && !text.contains("each part's state"), "{what}: {text}");
    }
}

/// aegis-stack#714: the health check takes longer than one call may.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_service_may_take_its_time_to_get_healthy() {
    let shop = Shop::new("slow", &format!("{CHECK}\nENV WARM_UP=9s"), &published(port()));
    let target = shop.target().await;
    let policy = Policy::default().with_reply_within(seconds(4)).with_poll(Duration::from_millis(200));
    let report = shop.rollback(target).await.policy(policy).run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    shop.serves("v1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn what_is_removed_by_hand_and_a_port_that_is_taken_are_named() {
    let port = port();
    let shop = Shop::new("hand", "", &published(port));
    let name = format!("{}-shop-1", shop.project.name);
    shop.project.bed.docker(&["stop", "-t", "0", &name]);
    let other = format!("{}-other", shop.project.name);
    shop.project.bed.docker(&["run", "-d", "--name", &other, "-p", &format!("{port}:8080"), "bed/shop:base"]);
    let report = shop.roll_back().await;
    assert!(!report.outcome().is_good() && report.to_string().contains(&format!("port {port}")), "{report}");
    shop.project.bed.docker(&["rm", "-f", &other]);
    shop.project.bed.docker(&["rm", "-f", &name]);
    let target = shop.target().await;
    let said = match shop.rollback(target).await.run().await {
        Ok(report) => {
            assert!(!report.outcome().is_good());
            report.to_string()
        }
        Err(e) => e.to_string(),
    };
    assert!(said.contains("has no container"), "{said}");
}

/// A slip of the fingers is answered by what there is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_mistyped_service_project_or_container_is_answered_by_what_there_is() {
    let shop = Shop::new("slip", "", "  other:\n    image: bed/shop:base\n");
    let engine = || shop.project.bed.engine();
    let name = shop.project.name.as_str();
    let service = |project: &str, service: &str, engine| ComposeService::new(engine, project, service);
    let said = async |target: &dyn Target| target.observe(Look::full()).await.unwrap_err().to_string();
    let text = said(&service(name, "shopp", engine().await)).await;
    assert!(text.contains(&format!("the services of {name} that have one are other, shop")), "{text}");
    let text = said(&service("slipp", "shop", engine().await)).await;
    assert!(text.contains("the projects here are ") && text.contains(name), "{text}");
    let text = said(&Container::new(engine().await, "slipp")).await;
    assert!(text.contains("those that are there: ") && text.contains(&format!("{name}-shop-1")), "{text}");
}

/// compose#13149: Compose itself has no way back; and somebody who uses it in the middle is not overruled.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn somebody_who_deploys_in_the_middle_is_left_alone() {
    let shop = Shop::new("middle", &format!("{CHECK}\nENV WARM_UP=6s"), "");
    shop.project.image("v3", "");
    let target = shop.target().await;
    let running = shop.rollback(target).await;
    let run = tokio::spawn(async move { running.run().await.unwrap() });
    let candidate = format!("{}-shop-1-rollback", shop.project.name);
    wait_until("a candidate is there", || shop.project.bed.try_docker(&["inspect", &candidate]).is_ok());
    shop.deploy("v3");
    let report = run.await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Superseded { .. }), "{report}");
    let only = shop.project.all_containers();
    assert_eq!(only.len(), 1, "{:?}", only.iter().map(|c| c["Name"].clone()).collect::<Vec<_>>());
    wait_until("it answers", || shop.project.get(&only[0], "/version").as_deref() == Ok("v3"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn break_glass_and_once_more() {
    let shop = Shop::new("glass", "", "");
    let journal = rollback_core::journal::MemoryJournal::new();
    shop.deploy("v1");
    shop.project.image("v0", "");
    shop.target().await.recorder().unwrap().record("1.0").await.unwrap();
    shop.deploy("v2");
    shop.target().await.recorder().unwrap().record("2.0").await.unwrap();
    let target = shop.target().await;
    let report = Rollback::break_glass_on(&target, "paged").await;
    assert!(report.outcome().is_good(), "{report}");
    shop.serves("v1");
    // Pressed again it does not walk on.
    let report = Rollback::break_glass_on(&target, "paged again").await;
    shop.serves("v1");
    println!("measured: break-glass once more: {}", report.outcome());
    drop(journal);
}

/// A container that nobody but docker run made: its evidence, an answer by HTTP as the proof, and break-glass.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_plain_container_leaves_evidence_is_verified_by_http_and_goes_back_by_break_glass() {
    let project = Bed::here().project("answers");
    let (good, bad) = (project.image("v1", ""), project.image("v2", ""));
    let target = Container::new(project.bed.engine().await, &project.name).with_stable_for(Duration::from_millis(200));
    let deploy = async |image: &str, label: &str| {
        let _ = project.bed.try_docker(&["rm", "-f", &project.name]);
        project.bed.docker(&["run", "-d", "--name", &project.name, image]);
        target.recorder().unwrap().record(label).await.unwrap();
    };
    let image = || project.all_containers()[0]["Image"].as_str().unwrap().to_owned();
    deploy(&good, "1.0").await;
    let window = Window::default().with_every(Duration::from_millis(200)).with_hold(seconds(1)).with_within(seconds(5));
    for (says, recovers) in [("v1", true), ("v9", false)] {
        deploy(&bad, "2.0").await;
        let answers = Http::at_each_part("/version").unwrap().expect_body_containing(says);
        let rollback = Rollback::of(target.clone())
            .because("a test")
            .to(Choose::exactly(good.as_str()))
            .recovered_when(StaysHealthy::for_at_least(seconds(1)).of(answers).with_window(window))
            .policy(Policy::default().with_poll(Duration::from_millis(200)));
        let report = rollback.run().await.unwrap();
        assert_eq!(report.outcome() == &Outcome::Recovered, recovers, "{says}: {report}");
        assert_eq!(image(), good, "{says}: {report}");
        for kind in ["docker-ps/1", "docker-inspect/1", "docker-events/1", "docker-logs/1"] {
            assert!(report.to_string().contains(kind), "{kind}: {report}");
        }
    }
    deploy(&bad, "2.0").await;
    let report = Rollback::break_glass_on(&target, "paged").await;
    assert!(report.outcome().is_good(), "{report}");
    assert_eq!(image(), good, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_service_that_must_not_run_twice_never_does() {
    let shop = Shop::new("once", "", "    volumes: [\"/data\"]\n");
    let target = shop.target().await.with_order(Order::StopFirst);
    let name = shop.project.name.clone();
    let bed = shop.project.bed.clone();
    let (over, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let up = bed.docker(&["ps", "-q", "-f", &format!("name=^/{name}"), "-f", "status=running"]);
            most = most.max(up.lines().count());
        }
        most
    });
    let report = shop.rollback(target).await.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    drop(over);
    assert_eq!(watch.join().unwrap(), 1);
    shop.serves("v1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn errors_in_the_log_are_no_recovery_and_a_program_in_the_container_says_how_it_is() {
    let shop = Shop::new("log", "ENV FAIL_PERCENT=100", "");
    let report = shop.roll_back().await;
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let target = shop.target().await;
    let mut checks = vec![];
    for argv in [&["/bin/shop", "health"][..], &["/bin/busybox", "false"], &["/bin/no-such"]] {
        let now = target.observe(Look::full()).await.unwrap();
        let context = Context::new(target.id().clone(), shop.bad.as_str(), shop.good.as_str(), now);
        checks.push(target.exec(argv.iter().copied()).unwrap().check(&context).await.unwrap());
    }
    assert!(
        matches!(&checks[..], [Health::Healthy(_), Health::Unhealthy(_), Health::Unknown(_)]),
        "a program in the container: {checks:?}"
    );
    let scan = target.log_scan("ERROR");
    let now = target.observe(Look::full()).await.unwrap();
    let context = Context::new(target.id().clone(), shop.bad.as_str(), shop.good.as_str(), now).with_since(seconds(60));
    assert!(scan.verify(&context).await.unwrap().holds());
    assert!(shop.project.get(&shop.only(), "/").is_err(), "it answers 500, and logs it");
    assert!(matches!(scan.verify(&context).await.unwrap(), Verdict::Fails(_)));
}

/// The tag of the file leads to the bad image, and the pin file takes it from there: `down`, `pull` and `up` end with the good
/// one. Without it the report says what brings the bad one back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn a_pin_file_keeps_the_good_image_through_down_pull_and_up() {
    let shop = Shop::new("pinned", "", "");
    let file = shop.project.dir.join("compose.override.yaml");
    let report = shop.roll_back().await;
    let todo = report.to_do().join("\n");
    assert!(todo.contains("correct the Compose file") && todo.contains("down and up"), "{report}");
    assert!(todo.contains(&shop.project.tag("v2")), "{report}");
    assert!(!report.to_string().contains("order of") || !report.to_string().contains(":  →"), "{report}");
    shop.project.compose(&["up", "-d", "--force-recreate"]);
    shop.serves("v2");

    // Somebody's own override is not replaced.
    let own = "services: {shop: {labels: {team: till}}}\n";
    fs::write(&file, own).unwrap();
    let _ = fs::remove_file(shop.journal());
    let target = shop.target().await.with_pin_file(&file);
    let report = shop.rollback(target.clone()).await.run().await.unwrap();
    assert!(matches!(report.outcome(), Outcome::Refused { .. }), "{report}");
    assert_eq!(fs::read_to_string(&file).unwrap(), own);
    fs::remove_file(&file).unwrap();
    let _ = fs::remove_file(shop.journal());
    let report = shop.rollback(target).await.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    let todo = report.to_do().join("\n");
    assert!(todo.contains(&file.display().to_string()) && todo.contains("silently"), "{report}");
    shop.serves("v1");
    shop.project.down();
    shop.project.compose(&["pull"]);
    shop.project.compose(&["up", "-d"]);
    shop.serves("v1");
    shop.accepted();
}
