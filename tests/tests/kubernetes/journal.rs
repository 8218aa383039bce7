//! The journal in the cluster: its laws, who may what, and what only objects in a cluster can suffer.

use k8s_openapi::api::{
    coordination::v1::Lease as LeaseObject,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use rollback_core::{
    journal::Retention,
    testing::laws::journal::{all, each},
    *,
};
use rollback_k8s::{Cluster, ClusterJournal, ClusterJournalOptions, ClusterOptions};
use rollback_tests::{
    bed::kubernetes::{Bed, Namespace},
    golden::{self, Noted},
};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

async fn cluster(client: Client) -> Cluster {
    Cluster::from_client(client, ClusterOptions::default().named("bed")).await.unwrap()
}
/// A journal in this namespace, as another process would open it.
async fn journal(namespace: &Namespace, called: &str) -> ClusterJournal {
    ClusterJournal::open(&cluster(namespace.bed().client_called(called)).await, namespace.name())
}
fn intent(run: &str, target: &str) -> Intent {
    let mut intent = Intent::new(RunId::new(run), TargetId::new(target), "me", "a test");
    intent.at = Timestamp(1_000);
    intent.policy = Policy::default().with_lease(minutes(10)).into();
    intent
}
fn lasting(run: &str, target: &str, lease: Duration) -> Intent {
    let mut intent = intent(run, target);
    intent.policy = Policy::default().with_lease(lease).into();
    intent
}
fn line(seq: u64, lease: &Lease, entry: Entry) -> Line {
    Line::new(seq, lease.epoch, Timestamp(2_000 + seq), Duration::ZERO, Duration::ZERO, entry)
}
fn note(seq: u64, lease: &Lease, what: &str) -> Line {
    line(seq, lease, Entry::Lost { what: what.into(), why: String::new() })
}
fn ended(seq: u64, lease: &Lease) -> Line {
    line(seq, lease, Entry::Ended(Outcome::Recovered.into()))
}
async fn fresh(journal: &dyn Journal, intent: &Intent) -> Lease {
    match journal.begin(intent).await.unwrap() {
        Begun::Fresh { lease, .. } => lease,
        other => panic!("{other:?}"),
    }
}
async fn adopted(journal: &dyn Journal, intent: &Intent) -> (Lease, Vec<Line>) {
    match journal.begin(intent).await.unwrap() {
        Begun::Adopted { lease, lines, .. } => (lease, lines),
        other => panic!("{other:?}"),
    }
}
/// The one ConfigMap of that kind.
async fn only(namespace: &Namespace, what: &str) -> ConfigMap {
    let params = ListParams::default().labels(&format!("rollback.dev/journal={what}"));
    let mut found = namespace.api::<ConfigMap>().list(&params).await.unwrap().items;
    assert_eq!(found.len(), 1, "{what}");
    found.remove(0)
}
async fn edit(namespace: &Namespace, name: &str, data: serde_json::Value) {
    let patch = Patch::Merge(json!({"data": data}));
    namespace.api::<ConfigMap>().patch(name, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn with_the_rights_of_its_documentation_alone_it_keeps_the_laws() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-laws").await;
    let name = namespace.name();
    // The Role that `ClusterJournal` documents, and what `Cluster` documents.
    for rights in [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "journal"}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "journal"}, "rules": [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "list", "create", "patch"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "patch", "delete"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "journal"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "journal"},
            "subjects": [{"kind": "ServiceAccount", "name": "journal", "namespace": name}]}),
    ] {
        namespace.apply(rights).await;
    }
    let role = format!("identity-of-{name}");
    let labels = json!({"rollback.test/of": name});
    for rights in [
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": role, "labels": labels}, "rules": [
            {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": role, "labels": labels},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "journal", "namespace": name}]}),
    ] {
        bed.apply(rights).await;
    }
    let config = bed.config_as(name, "journal", Duration::from_secs(3600), "journal-laws/1");
    let client = Client::try_from(config).unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), name);
    assert!(secrets.list(&ListParams::default()).await.is_err(), "it has more rights than that");

    let nothing = Retention::default().with_runs_per_target(0).with_age(Duration::ZERO);
    let options = ClusterJournalOptions::default().with_retention(nothing);
    let journal = ClusterJournal::open_with(&cluster(client).await, name, options);
    let mark = bed.mark();
    let ruled = each(&journal).await;
    let requests = bed.requests(mark, "journal-laws/1").len();
    let pruned = journal.prune(Timestamp::now().after(hours(24 * 365))).await;
    let broken: Vec<_> = ruled.iter().filter_map(|(_, ruling)| ruling.as_ref().err()).collect();
    for role_kind in ["clusterrolebinding", "clusterrole"] {
        namespace.kubectl(&["delete", role_kind, &role]).await;
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(pruned.as_ref().is_ok_and(|pruned| pruned.runs > 0), "{pruned:?}");
    println!("measured: {} laws in {requests} requests", ruled.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_laws_hold_with_all_rights_in_a_journal_that_is_in_use() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-used").await;
    let journal = journal(&namespace, "journal-used/1").await;
    let lease = fresh(&journal, &intent("other", "somebody-elses")).await;
    journal.append(&lease, &[note(0, &lease, "there")]).await.unwrap();
    assert_eq!(all(&journal).await, []);
    assert_eq!(journal.read(&lease.run).await.unwrap().1.len(), 1);
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn a_durable_step_is_one_request() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-requests").await;
    let agent = "journal-requests/1";
    let journal = journal(&namespace, agent).await;
    let mut lease = None;
    let mut asked = vec![];
    for what in ["begin", "append", "append again", "renew", "end", "begin the next"] {
        let mark = bed.mark();
        match (what, &lease) {
            ("begin", _) => lease = Some(fresh(&journal, &intent("r1", "t")).await),
            ("append", Some(lease)) => journal.append(lease, &[note(0, lease, "a")]).await.unwrap(),
            ("append again", Some(lease)) => {
                let lines = [note(1, lease, "b"), note(2, lease, "c"), note(3, lease, "d")];
                journal.append(lease, &lines).await.unwrap();
            }
            ("renew", Some(lease)) => journal.renew(lease).await.unwrap(),
            ("end", Some(lease)) => journal.append(lease, &[ended(4, lease)]).await.unwrap(),
            _ => drop(fresh(&journal, &intent("r2", "t")).await),
        }
        asked.push((what, bed.requests(mark, agent).len()));
    }
    println!("measured: {asked:?} requests");
    let expected = [("begin", 5), ("append", 1), ("append again", 1), ("renew", 1), ("end", 2), ("begin the next", 6)];
    assert_eq!(asked, expected);
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn a_holder_that_says_nothing_is_succeeded_when_its_lease_is_over_and_fenced() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-silent").await;
    let (one, other) = (journal(&namespace, "one/1").await, journal(&namespace, "other/1").await);
    let length = Duration::from_secs(3);
    let lease = fresh(&one, &lasting("r1", "t", length)).await;
    one.append(&lease, &[note(0, &lease, "a")]).await.unwrap();
    // Who has never seen this lock cannot know how old it is.
    let began = Instant::now();
    let (taken, lines) = adopted(&other, &lasting("r2", "t", length)).await;
    let waited = began.elapsed();
    assert!(waited >= length, "{waited:?}");
    assert_eq!((taken.run.clone(), lines.len()), (lease.run.clone(), 1));
    assert!(taken.epoch > lease.epoch);
    for refused in [one.append(&lease, &[note(1, &lease, "late")]).await, one.renew(&lease).await] {
        let e = refused.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None), "{e}");
    }
    other.append(&taken, &[note(1, &taken, "b")]).await.unwrap();
    assert_eq!(other.read(&lease.run).await.unwrap().1[1], note(1, &taken, "b"));
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn a_sign_of_life_is_enough_to_be_busy() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-alive").await;
    let (one, other) = (journal(&namespace, "one/1").await, journal(&namespace, "other/1").await);
    let length = Duration::from_secs(20);
    let lease = fresh(&one, &lasting("r1", "t", length)).await;
    for how in ["renews", "appends"] {
        let began = Instant::now();
        let given = lasting("r2", "t", length);
        let live = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match how {
                "renews" => one.renew(&lease).await.unwrap(),
                _ => one.append(&lease, &[note(0, &lease, "a")]).await.unwrap(),
            }
        };
        let (begun, ()) = tokio::join!(other.begin(&given), live);
        let Begun::Busy { who, .. } = begun.unwrap() else { panic!("{how}") };
        assert!(who.starts_with("me (process"), "{who}");
        assert!(began.elapsed() < length / 2, "{how}");
    }
    // Break-glass does not wait.
    let mut taking = lasting("r3", "t", length);
    Arc::make_mut(&mut taking.policy).take_over = true;
    let began = Instant::now();
    let Begun::Fresh { replaced, .. } = other.begin(&taking).await.unwrap() else { panic!() };
    assert_eq!(replaced, Some(lease.run.clone()));
    assert!(began.elapsed() < length, "it waited for the lease");
    assert_eq!(one.renew(&lease).await.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn of_many_at_once_one_gets_it() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-race").await;
    let mut handles = vec![];
    for nth in 0..8 {
        handles.push((nth, journal(&namespace, &format!("racer/{nth}")).await));
    }
    let begun = futures::future::join_all(handles.iter().map(|(nth, journal)| async move {
        journal.begin(&lasting(&format!("r{nth}"), "t", Duration::from_secs(4))).await
    }))
    .await;
    let fresh = begun.iter().filter(|begun| matches!(begun, Ok(Begun::Fresh { .. }))).count();
    let adopted: Vec<u64> = begun
        .iter()
        .filter_map(|begun| match begun {
            Ok(Begun::Adopted { lease, .. }) => Some(lease.epoch),
            _ => None,
        })
        .collect();
    // Nobody renews: each who waited long enough goes on with the one run there is, under an epoch of its own.
    assert_eq!(fresh, 1, "{begun:?}");
    let mut epochs = adopted.clone();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), adopted.len(), "{begun:?}");
    assert_eq!(handles[0].1.runs(&RunQuery::all()).await.unwrap().len(), 1);
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn what_is_deleted_by_hand_is_named_and_nothing_is_guessed() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-deleted").await;
    let (one, other) = (journal(&namespace, "one/1").await, journal(&namespace, "other/1").await);
    let lease = fresh(&one, &intent("r1", "t")).await;
    // More than one object: the first lines move to another.
    let long = "x".repeat(100_000);
    for seq in 0..4 {
        one.append(&lease, &[note(seq, &lease, &long)]).await.unwrap();
    }
    assert_eq!(other.read(&lease.run).await.unwrap().1.len(), 4);

    // The Lease: the lock is free, and who had it is fenced.
    let book = only(&namespace, "book").await.name_any();
    namespace.api::<LeaseObject>().delete(&book, &DeleteParams::default()).await.unwrap();
    let e = one.renew(&lease).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(e.message().contains(&book), "{e}");
    let (taken, _) = adopted(&other, &intent("r2", "t")).await;
    assert!(taken.epoch > lease.epoch);
    assert_eq!(one.append(&lease, &[note(4, &lease, "late")]).await.unwrap_err().kind(), Kind::Conflict);

    // Lines.
    let params = ListParams::default().labels("rollback.dev/journal=lines");
    let spilled = namespace.api::<ConfigMap>().list(&params).await.unwrap().items.remove(0).name_any();
    namespace.api::<ConfigMap>().delete(&spilled, &DeleteParams::default()).await.unwrap();
    other.let_go(&taken);
    for refused in [
        one.read(&lease.run).await.map(drop),
        one.begin(&{
            let mut taking = intent("r1", "t");
            Arc::make_mut(&mut taking.policy).take_over = true;
            taking
        })
        .await
        .map(drop),
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{e}");
        assert!(e.message().contains(&spilled), "{e}");
    }

    // The book.
    namespace.api::<ConfigMap>().delete(&book, &DeleteParams::default()).await.unwrap();
    for refused in [
        other.append(&taken, &[note(4, &taken, "b")]).await,
        other.begin(&intent("r3", "t")).await.map(drop),
        other.ledger(&TargetId::new("t")).await.map(drop),
        other.mark(&TargetId::new("t"), &LedgerEntry::new(Release::new("1"), Standing::Seen, Timestamp(1), "x")).await,
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{e}");
        assert!(e.message().contains(&book) && e.message().contains("missing"), "{e}");
    }
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn what_was_edited_or_is_of_a_newer_release_is_not_read() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-edited").await;
    let journal = journal(&namespace, "edited/1").await;
    let lease = fresh(&journal, &intent("r1", "t")).await;
    journal.append(&lease, &[note(0, &lease, "the words of a line")]).await.unwrap();
    let book = only(&namespace, "book").await;
    let (name, sealed) = (book.name_any(), book.data.unwrap()["line.00000000"].clone());
    edit(&namespace, &name, json!({"line.00000000": sealed.replace("the words", "The words")})).await;
    let e = journal.read(&lease.run).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    assert!(e.message().contains("run r1 line 0"), "{e}");
    edit(&namespace, &name, json!({"line.00000000": sealed})).await;
    journal.read(&lease.run).await.unwrap();

    edit(&namespace, &name, json!({"format": "2"})).await;
    journal.let_go(&lease);
    for refused in [
        journal.read(&lease.run).await.map(drop),
        journal.begin(&intent("r2", "t")).await.map(drop),
        journal.append(&lease, &[note(1, &lease, "b")]).await,
    ] {
        let e = refused.unwrap_err();
        assert_eq!((e.kind(), e.is_transient()), (Kind::Unsupported, false), "{e}");
        assert!(e.message().contains("newer release"), "{e}");
    }
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn a_full_quota_refuses_what_begins_and_not_what_goes_on() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-quota").await;
    let journal = journal(&namespace, "quota/1").await;
    let lease = fresh(&journal, &intent("r1", "t")).await;
    namespace
        .apply(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"},
            "spec": {"hard": {"count/configmaps": "1"}}}))
        .await;
    let began = Instant::now();
    let e = loop {
        // The quota controller must have seen it.
        match journal.begin(&intent("r2", "elsewhere")).await {
            Err(e) => break e,
            Ok(Begun::Fresh { lease, .. }) => journal.let_go(&lease),
            Ok(_) => {}
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the quota does not bind");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((e.kind(), e.is_transient(), e.effect()), (Kind::Unavailable, true, Effect::None), "{e}");
    assert!(e.message().contains("quota"), "{e}");
    // Beyond what would move to another object: there is no room for one.
    let long = "x".repeat(100_000);
    for seq in 0..6 {
        journal.append(&lease, &[note(seq, &lease, &long)]).await.unwrap();
    }
    journal.append(&lease, &[ended(6, &lease)]).await.unwrap();
    assert_eq!(journal.read(&lease.run).await.unwrap().1.len(), 7);
    assert_eq!(
        journal.begin(&intent("r3", "t")).await.unwrap_err().kind(),
        Kind::Unavailable,
        "nothing is overwritten"
    );
    namespace.kubectl(&["delete", "resourcequota", "full"]).await;
    fresh(&journal, &intent("r3", "t")).await;
    assert_eq!(journal.read(&lease.run).await.unwrap().1.len(), 7);
}

#[tokio::test]
#[ignore = "needs the Kubernetes bed"]
async fn old_runs_go_and_what_still_matters_stays() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-prune").await;
    let keep = Retention::default().with_runs_per_target(2).with_age(hours(1));
    let options = ClusterJournalOptions::default().with_retention(keep);
    let journal = ClusterJournal::open_with(&cluster(bed.client()).await, namespace.name(), options);
    let shelf = journal.shelf();
    let mut artifacts = vec![];
    for n in 0..6u64 {
        let lease = fresh(&journal, &intent(&format!("r{n}"), "t")).await;
        let mut writer = shelf.write("evidence/1").await.unwrap();
        writer.push(format!("evidence of {n}").as_bytes()).await.unwrap();
        let artifact = writer.seal().await.unwrap();
        let was = (n == 1).then(|| Box::new(Payload::of(&Noted { at: n }).unwrap()));
        let lines = [
            line(0, &lease, Entry::EvidenceKept(vec![artifact.clone()])),
            line(1, &lease, Entry::Froze { name: "gitops".into(), was, until: None }),
        ];
        artifacts.push(artifact);
        journal.append(&lease, &lines).await.unwrap();
        shelf.save(&format!("r{n}/0.0"), lease.epoch, Payload::of(&Noted { at: n }).unwrap()).await.unwrap();
        if n < 5 {
            journal.append(&lease, &[ended(2, &lease)]).await.unwrap();
        }
    }
    assert_eq!(journal.prune(Timestamp(2_000)).await.unwrap().runs, 0, "none is old");
    let runs = async || {
        let mut runs = journal.runs(&RunQuery::of_target(&TargetId::new("t"))).await.unwrap();
        runs.reverse();
        runs.into_iter().map(|r| r.run.to_string()).collect::<Vec<_>>()
    };
    // r0 and r2 are old and more than two; r1 holds a freeze; r5 is unfinished.
    let later = Timestamp::now().after(hours(24 * 365));
    assert_eq!(journal.prune(later).await.unwrap().runs, 2);
    assert_eq!(runs().await, ["r1", "r3", "r4", "r5"]);
    for n in [0, 2] {
        assert!(shelf.load(&format!("r{n}/0.0")).await.unwrap().is_none());
    }
    for n in [1, 3, 4, 5] {
        assert!(shelf.load(&format!("r{n}/0.0")).await.unwrap().is_some());
        assert!(shelf.read(&artifacts[n]).await.is_ok());
    }
    assert_eq!(journal.holds().await.unwrap().len(), 1);
    assert_eq!(journal.read(&RunId::new("r1")).await.unwrap().1.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn appends_of_many_runs_at_once_are_each_whole() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-many").await;
    let journal = journal(&namespace, "many/1").await;
    let run = |n: u64| {
        let journal = journal.clone();
        async move {
            let lease = fresh(&journal, &intent(&format!("r{n}"), &format!("t{n}"))).await;
            for seq in 0..5 {
                let pair = [note(seq * 2, &lease, "a"), note(seq * 2 + 1, &lease, "b")];
                journal.append(&lease, &pair).await.unwrap();
            }
        }
    };
    let began = Instant::now();
    let tasks: Vec<_> = (0..40).map(|n| tokio::spawn(run(n))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("measured: 40 runs with 5 appends each, at once, in {:.1?}", began.elapsed());
    for summary in journal.runs(&RunQuery::unfinished()).await.unwrap() {
        assert_eq!(summary.lines, 10);
        assert!(summary.driven_by.is_some());
        assert_eq!(journal.read(&summary.run).await.unwrap().1.len(), 10);
    }
}

/// What a server adds to an object, and what differs each time.
fn bare(mut object: serde_json::Value, kind: (&str, &str)) -> serde_json::Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.retain(|key, _| ["name", "labels", "annotations"].contains(&key.as_str()));
    object["apiVersion"] = json!(kind.0);
    object["kind"] = json!(kind.1);
    object
}

/// The first form of the journal's objects. It is never changed: a new form gets a file of its own beside it, written by
/// this test with `ROLLBACK_WRITE_GOLDEN=PATH`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_first_journal_stays_readable() {
    let bed = Bed::here().await;
    let namespace = bed.namespace("journal-golden").await;
    if let Ok(path) = std::env::var("ROLLBACK_WRITE_GOLDEN") {
        golden::write(&journal(&namespace, "journal-golden/1").await).await;
        let params = ListParams::default().labels("rollback.dev/journal");
        let maps = namespace.api::<ConfigMap>().list(&params).await.unwrap().items.into_iter();
        let maps = maps.map(|map| bare(serde_json::to_value(map).unwrap(), ("v1", "ConfigMap")));
        let leases = namespace.api::<LeaseObject>().list(&ListParams::default()).await.unwrap().items.into_iter();
        let leases =
            leases.map(|lease| bare(serde_json::to_value(lease).unwrap(), ("coordination.k8s.io/v1", "Lease")));
        let all: Vec<_> = maps.chain(leases).collect();
        std::fs::write(path, serde_json::to_string_pretty(&all).unwrap()).unwrap();
        return;
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/cluster-journal-v1.json");
    let objects: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    for object in objects {
        namespace.apply(object).await;
    }
    let journal = journal(&namespace, "journal-golden/1").await;
    let (intent, lines) = journal.read(&RunId::new("g/1")).await.unwrap();
    assert_eq!(intent, golden::intent("g/1"));
    assert_eq!(
        lines.iter().map(|line| &line.entry).collect::<Vec<_>>(),
        golden::lines(1).iter().map(|line| &line.entry).collect::<Vec<_>>()
    );
    assert_eq!(journal.ledger(&intent.target).await.unwrap(), [golden::mark()]);
    let held: Vec<_> = journal.holds().await.unwrap().into_iter().map(|h| (h.hold.run, h.was)).collect();
    let was = Payload::of(&Noted { at: 7 }).unwrap();
    assert_eq!(held, [(RunId::new("g/1"), Some(was.clone())), (RunId::new("g/2"), Some(was))]);
    let runs = journal.runs(&RunQuery::of_parent(&RunId::new("g"))).await.unwrap();
    let told: Vec<_> = runs.iter().map(|r| (r.run.as_str(), r.lines, r.outcome.is_some())).collect();
    assert_eq!(told, [("g/2", 2, false), ("g/1", 4, true)]);
    let checkpoint = journal.shelf().load("g/2/0.1").await.unwrap().unwrap();
    assert_eq!(checkpoint.read::<Noted>().unwrap(), Noted { at: 42 });
    // Its holder is long gone.
    let Begun::Adopted { lease, intent, lines } = journal.begin(&golden::intent("g/3")).await.unwrap() else {
        panic!()
    };
    assert_eq!((lease.epoch, *intent), (3, golden::intent("g/2")));
    assert_eq!(lines.len(), 2);
}
