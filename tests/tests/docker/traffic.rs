//! What those who use the service notice: a steady 200 requests a second during the rollback, and Compose's own way in the
//! same run.

use crate::shop::{CHECK, Shop, port, published};
use rollback_core::Outcome;
use rollback_docker::{ComposeService, ConnectOptions, Engine};
use rollback_tests::bed::{
    docker::{Counted, Project, wait_until},
    proxy::Proxy,
};
use std::{fs, time::Duration};

const NGINX: &str = r"
user nobody nogroup;
pid /tmp/nginx.pid;
error_log /dev/stderr error;
events {}
http {
    access_log off;
    client_body_temp_path /tmp; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
    resolver 127.0.0.11 valid=1s;
    server {
        listen 80;
        location / {
            set $service shop;
            proxy_connect_timeout 500ms;
            proxy_pass http://$service:8080;
        }
    }
}
";

/// It asks for addresses twice a second, tries the next one where a connection is refused, and asks again.
const HAPROXY: &str = r"
global
    nbthread 1
defaults
    mode http
    timeout connect 500ms
    timeout client 10s
    timeout server 10s
    retries 3
    retry-on conn-failure empty-response
    option redispatch 1
resolvers docker
    nameserver dns 127.0.0.11:53
    resolve_retries 3
    timeout resolve 500ms
    timeout retry 500ms
    hold valid 500ms
    hold obsolete 0s
frontend all
    bind *:80
    default_backend shop
backend shop
    server-template shop 4 shop:8080 check inter 200ms fastinter 50ms resolvers docker init-addr libc,none
";

/// A proxy before the shop, under its own name as an alias.
fn proxy(shop: &Shop, program: &str, conf: &str) {
    let project = &shop.project;
    let file = project.dir.join(format!("{program}.conf"));
    fs::write(&file, conf).unwrap();
    let (name, network) = (format!("{}-{program}", project.name), format!("{}_default", project.name));
    let at = if program == "nginx" { "/etc/nginx.conf" } else { "/etc/haproxy.cfg" };
    let (mount, image) = (format!("{}:{at}:ro", file.display()), format!("bed/{program}:base"));
    let run = ["run", "-d", "--name", &name, "--network", &network, "--network-alias", program, "-v", &mount, &image];
    project.bed.docker(&run);
    let url = format!("http://{program}/");
    let through = ["exec", &format!("{}-shop-1", project.name), "/bin/busybox", "wget", "-q", "-O-", &url];
    wait_until("the proxy answers", || project.bed.try_docker(&through).is_ok());
}

fn say(what: &str, counted: &Counted) {
    let Counted { sent, failed, gap_ms, versions, errors } = counted;
    println!("measured: {what}: {failed} of {sent} failed, longest gap {gap_ms} ms; {versions:?} {errors:?}");
}

async fn pause() {
    // A load needs some time before and after to have something to compare with.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn without_a_published_port_nothing_fails() {
    let shop = Shop::new("traffic", CHECK, "");
    let project = &shop.project;
    proxy(&shop, "nginx", NGINX);
    proxy(&shop, "haproxy", HAPROXY);
    let name = format!("{}-shop-1", project.name);

    let proxied = project.load("proxied", "http://nginx/", &[]);
    let balanced = project.load("balanced", "http://haproxy/", &[]);
    let kept = project.load("kept", "http://shop:8080/", &["-keep-alive", "-every-address"]);
    let naive = project.load("naive", "http://shop:8080/", &[]);
    pause().await;
    // The default drain time: nginx asks for addresses once a second.
    let target = ComposeService::new(project.bed.engine().await, &project.name, "shop");
    let report = shop.rollback(target).await.run().await.unwrap();
    assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
    pause().await;
    let (proxied, balanced, kept, naive) = (proxied.end(), balanced.end(), kept.end(), naive.end());
    say("rollback, through nginx", &proxied);
    say("rollback, through haproxy", &balanced);
    say("rollback, kept-alive connections", &kept);
    say("rollback, one address tried once", &naive);

    // Compose's own way: scale to two, then stop the old one.
    shop.deploy("v2");
    project.compose(&["up", "-d", "--force-recreate"]);
    let by_hand = project.load("by-hand", "http://shop:8080/", &[]);
    pause().await;
    shop.file("v1");
    project.compose(&["up", "-d", "--no-recreate", "--scale", "shop=2"]);
    project.bed.docker(&["stop", &name]);
    project.bed.docker(&["rm", &name]);
    pause().await;
    let by_hand = by_hand.end();
    say("compose --scale 2, then stop; one address tried once", &by_hand);

    for (what, counted) in [("nginx", &proxied), ("haproxy", &balanced), ("kept-alive", &kept)] {
        assert_eq!(counted.failed, 0, "{what}: {counted:?}");
        assert!(counted.versions.contains_key("v1") && counted.versions.contains_key("v2"), "{what}: {counted:?}");
    }
}

/// What happened to the project's containers from the moment the one that served was told to stop until the next one ran, as
/// the engine tells. Its health checks are left out.
fn between(project: &Project, since: &str) -> Vec<String> {
    let until = project.bed.docker(&["info", "-f", "{{.SystemTime}}"]);
    let format = "{{.Action}} {{.Actor.Attributes.name}}";
    let said = project.bed.docker(&[
        "events",
        "--since",
        since,
        "--until",
        &until,
        "-f",
        "type=container",
        "--format",
        format,
    ]);
    let ours = said.lines().filter(|line| line.contains(&project.name) && !line.contains("exec_"));
    let actions: Vec<&str> = ours.filter_map(|line| line.split_once(' ')).map(|(action, _)| action).collect();
    let begin = actions.iter().position(|action| *action == "kill").unwrap();
    let end = actions.iter().skip(begin).position(|action| *action == "start").unwrap();
    actions[begin..=begin + end].iter().map(|action| (*action).to_owned()).collect()
}

/// Nobody is served from the stop of the old container to the start of the good one, so all that counts is what is done in
/// between. That is less than Compose does, in what is asked of the engine and in what the engine does. How long it takes is
/// the engine's affair, and printed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Docker bed"]
async fn with_a_published_port_less_is_done_while_nobody_serves_than_by_compose() {
    for (what, good) in [
        ("listens at once", String::new()),
        ("listens after 0.5 s", "ENV START_DELAY=500ms".into()),
        ("healthy after 1.5 s", format!("{CHECK}\nENV START_DELAY=1500ms")),
    ] {
        let port = port();
        let shop = Shop::new("gap", &good, &published(port));
        let project = &shop.project;
        let url = format!("http://127.0.0.1:{port}/");
        let now = || project.bed.docker(&["info", "-f", "{{.SystemTime}}"]);
        let proxy = Proxy::new(project);
        let engine = Engine::connect(ConnectOptions::new().with_host(&proxy.host)).await.unwrap();
        let (load, since) = (project.host_load(&url, &[]), now());
        pause().await;
        let target = ComposeService::new(engine, &project.name, "shop").with_stable_for(Duration::from_millis(300));
        let report = shop.rollback(target).await.run().await.unwrap();
        assert_eq!(report.outcome(), &Outcome::Recovered, "{report}");
        pause().await;
        say(&format!("{what}, rollback"), &load.end());
        let ours = between(project, &since);
        let asked = proxy.asked();
        let stop = asked.iter().position(|line| line.ends_with("/stop")).unwrap();
        assert!(asked[stop + 1].ends_with("/start"), "nothing is asked in between: {:?}", &asked[stop..=stop + 1]);
        assert_eq!(ours, ["kill", "die", "stop", "start"]);

        shop.deploy("v2");
        project.compose(&["up", "-d", "--force-recreate"]);
        let (load, since) = (project.host_load(&url, &[]), now());
        pause().await;
        shop.deploy("v1");
        wait_until("the old image serves", || {
            shop.only()["State"]["Running"] == true && project.get(&shop.only(), "/version").as_deref() == Ok("v1")
        });
        pause().await;
        say(&format!("{what}, docker compose up -d"), &load.end());
        let composes = between(project, &since);
        assert!(ours.iter().all(|action| composes.contains(action)) && ours.len() < composes.len(), "{composes:?}");
        println!("measured: {what}: while nobody serves: {}; by Compose {}", ours.join(", "), composes.join(", "));
    }
}
