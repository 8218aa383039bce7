//! The bed itself: several side by side, and nothing of one that was killed.

use rollback_tests::bed::docker::wait_until;
use std::{path::Path, process::Command};

fn script(args: &[&str]) -> (bool, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("beds/docker.sh");
    let out = Command::new(path).args(args).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
#[ignore = "needs the Docker bed"]
fn a_bed_beside_this_one_leaves_nothing_even_when_it_is_killed() {
    // Whoever runs this is in a bed already.
    rollback_tests::bed::docker::Bed::here().docker(&["info"]);
    let name = format!("side-{}", std::process::id());
    let (up, said) = script(&["up", &name]);
    assert!(up, "{said}");
    let (runs, said) = script(&["x", &name, "docker", "run", "-d", "bed/shop:base"]);
    assert!(runs, "{said}");
    assert!(!script(&["left", &name]).0, "it is up");
    assert!(script(&["kill", &name]).0);
    // The kernel takes down its namespaces, and with them its processes and mounts.
    wait_until("no process of it is left", || !script(&["left", &name]).1.contains("dockerd"));
    assert!(script(&["down", &name]).0);
    let (nothing, said) = script(&["left", &name]);
    assert!(nothing, "left: {said}");
}
