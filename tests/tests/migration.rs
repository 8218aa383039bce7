//! A real migration tool through `CommandTarget`: alembic on an SQLite database.
#![allow(clippy::unwrap_used)]

// The example also asks whether alembic is there; the suite fails without it.
#[allow(dead_code)]
#[path = "../../examples/examples/migration/alembic.rs"]
mod alembic;

use rollback_core::{
    Change, Choose, Effect, Kind, Look, Outcome, Policy, Rollback, Running, Target, Work, journal::MemoryJournal,
    seconds,
};
use rollback_core::{Journal as _, local::CommandTarget};

struct Bed {
    dir: tempfile::TempDir,
    schema: CommandTarget,
}

impl Bed {
    fn at_head() -> Self {
        let dir = tempfile::tempdir().unwrap();
        alembic::project(dir.path()).unwrap();
        alembic::alembic(dir.path(), &["upgrade", "head"]).unwrap();
        let schema = alembic::target(dir.path()).unwrap();
        Bed { dir, schema }
    }
    fn current(&self) -> String {
        alembic::alembic(self.dir.path(), &["current"]).unwrap()
    }
    fn work(&self) -> Work {
        Work::new("r1".into(), 1, "0.0", seconds(60), MemoryJournal::new().shelf())
    }
    async fn go(&self, release: &str) -> rollback_core::Result<()> {
        let prepared = self.schema.prepare(&Change::release(&"all".into(), &release.into()), &self.work()).await?;
        let token = self.schema.observe(Look::full()).await?.token;
        self.schema.apply(&prepared.approved, token, &self.work()).await.map(|_| ())
    }
}

#[tokio::test]
#[ignore = "needs alembic"]
async fn one_back_twice_is_one_back() {
    let bed = Bed::at_head();
    let ids: Vec<_> = bed.schema.history(10).await.unwrap().into_iter().map(|r| r.id).collect();
    assert_eq!(ids, ["a003", "a002", "a001", "base"]);
    let release = bed.schema.resolve("-1").await.unwrap();
    assert_eq!(release, "a002");
    for outcome in [Outcome::Recovered, Outcome::NothingToDo] {
        let report = Rollback::of(bed.schema.clone())
            .because("test")
            .blaming("a003")
            .to(Choose::exactly(&release))
            .policy(Policy::default().with_irreversible(true))
            .run()
            .await
            .unwrap();
        assert_eq!(report.outcome(), &outcome, "{report}");
        assert_eq!(bed.current(), "a002");
    }
}

#[tokio::test]
#[ignore = "needs alembic"]
async fn back_to_the_empty_database_and_forward_again() {
    let bed = Bed::at_head();
    for release in ["base", "a003", "a001"] {
        bed.go(release).await.unwrap();
        let now = bed.schema.observe(Look::full()).await.unwrap();
        assert_eq!(now.parts["all"].running, Running::Release(release.into()));
    }
    assert_eq!(bed.current(), "a001");
}

#[tokio::test]
#[ignore = "needs alembic"]
async fn what_alembic_cannot_do_is_a_clear_error() {
    let bed = Bed::at_head();
    let e = bed.go("a999").await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::NotFound, Effect::None));
    let e = bed.go("-1").await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None));
    assert_eq!(bed.current(), "a003 (head)");

    // The second of two downgrades fails: one is undone, and that is known for ours.
    let script = bed.dir.path().join("migrations/versions/a002_customers.py");
    let sound = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, sound.replace("DROP TABLE customers", "DROP TABLE no_such_table")).unwrap();
    let e = bed.go("a001").await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Unexpected, Effect::Unknown));
    assert!(e.message().contains("no_such_table"), "{e}");
    assert_eq!(bed.current(), "a002");
    let mark = rollback_core::Mark::new(bed.work().key());
    let now = bed.schema.observe(Look::full().with_mark(Some(mark))).await.unwrap();
    assert!(matches!(&now.parts["all"].running, Running::Between { state, .. } if state == "at a002"), "{now:?}");
    std::fs::write(&script, sound).unwrap();
    bed.go("a001").await.unwrap();
    assert_eq!(bed.current(), "a001");

    std::fs::remove_file(bed.dir.path().join("alembic.ini")).unwrap();
    let e = bed.schema.observe(Look::full()).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Unexpected, Effect::None), "{e}");
    assert!(e.message().contains("alembic.ini") || e.message().contains("script_location"), "{e}");
}
