//! A small migration tool of shell scripts, driven as a target.

use super::*;
use crate::{
    Applied, Change, DiffLine, Effect, Error, Extent, Fencing, Identity, Kind, Look, Mark, Ours, PartState, Release,
    Running, Settled, Severity, Target, Token, Trace, local::no_shelf::work, seconds,
};
use std::{fs, path::Path, time::Duration};

/// The state is the file `at`, the releases the file `releases`, oldest first; every apply is one line of `log`.
const TOOL: &str = r#"
set -eu
cd "$DIR"
case "$1" in
    observe) printf '{"running":"%s","scope":"test","object":"1","token":"%s"}' "$(cat at)" "$(cat at)" ;;
    history) tac releases | sed 's/.*/"&"/' | paste -sd, | sed 's/.*/[&]/' ;;
    apply)
        cat > stdin
        printf '%s %s %s %s %s\n' "$2" "$ROLLBACK_RUN" "$ROLLBACK_KEY" "$ROLLBACK_EPOCH" "$ROLLBACK_FROM" >> log
        grep -qx "$2" releases || { echo "no $2" >&2; exit 11; }
        printf %s "$2" > at
        ;;
esac
"#;

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let bed = Bed { dir: tempfile::tempdir().unwrap() };
        bed.put("tool", TOOL);
        bed.put("releases", "a1\nb2\nc3\n");
        bed.put("at", "c3");
        bed
    }
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
    fn put(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }
    fn get(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
    fn tool<T: ToolAnswer>(&self, arguments: &[&str]) -> Tool<T> {
        let tool = self.path("tool");
        Tool::run(["sh", tool.as_str()].iter().chain(arguments).copied())
    }
    fn script<T: ToolAnswer>(&self, name: &str, script: &str) -> Tool<T> {
        self.put(name, script);
        Tool::run(["sh".to_owned(), self.path(name)])
    }
    fn options(&self) -> CommandOptions {
        CommandOptions::new()
            .with_observe(self.tool(&["observe"]))
            .with_history(self.tool(&["history"]))
            .with_apply(self.tool(&["apply", "{release}"]))
            .with_env("DIR", self.dir.path().display().to_string())
    }
    fn target(&self) -> CommandTarget {
        CommandTarget::new("db:test", self.options()).unwrap()
    }
}

fn to(release: &str) -> Change {
    Change::release(&"all".into(), &release.into())
}
async fn token(target: &CommandTarget) -> Token {
    target.observe(Look::full()).await.unwrap().token
}
async fn go(target: &CommandTarget, release: &str) -> crate::Result<Applied> {
    let work = work("r1").with_why("it fails");
    let prepared = target.prepare(&to(release), &work).await?;
    target.apply(&prepared.approved, token(target).await, &work).await
}

#[tokio::test]
async fn goes_to_a_release_and_not_again() {
    let bed = Bed::new();
    let target = bed.target();
    let now = target.observe(Look::full()).await.unwrap();
    assert_eq!(now.identity, Identity::new("test", "1"));
    assert_eq!(now.parts["all"], PartState::new(None, Running::Release("c3".into())));
    assert_eq!(now.ours, Ours::CannotTell);
    assert_eq!(target.history(2).await.unwrap(), ["c3", "b2"].map(Release::new));

    let trace = Trace { run: "r1".into(), left: "c3".into(), reached: "a1".into(), at: crate::Timestamp(1) };
    let work = work("r1").with_why("it fails").with_trace(Some(trace));
    let prepared = target.prepare(&to("a1"), &work).await.unwrap();
    assert_eq!(prepared.approved.diff, [DiffLine::new("release", "c3", "a1")]);
    assert_eq!(target.apply(&prepared.approved, now.token.clone(), &work).await.unwrap().extent, Extent::Done);
    assert_eq!(bed.get("at"), "a1");
    // The same again, with the old token and with a fresh one: the tool is not run.
    for token in [now.token, token(&target).await] {
        assert_eq!(target.apply(&prepared.approved, token, &work).await.unwrap().extent, Extent::Done);
    }
    assert_eq!(bed.get("log"), "a1 r1 r1/0.0 1 c3\n");
    let stdin: serde_json::Value = serde_json::from_str(&bed.get("stdin")).unwrap();
    for (pointer, value) in [
        ("/release", "a1"),
        ("/from", "c3"),
        ("/why", "it fails"),
        ("/token", "c3"),
        ("/key", "r1/0.0"),
        ("/trace/left", "c3"),
    ] {
        assert_eq!(stdin.pointer(pointer).and_then(|v| v.as_str()), Some(value), "{pointer}");
    }
}

#[tokio::test]
async fn what_changed_meanwhile_is_not_overwritten() {
    let bed = Bed::new();
    let target = bed.target();
    let prepared = target.prepare(&to("a1"), &work("r1")).await.unwrap();
    let old = token(&target).await;
    bed.put("at", "b2");
    let e = target.apply(&prepared.approved, old, &work("r1")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Conflict, Effect::None));
    assert!(e.message().contains("b2"), "{e}");
    assert_eq!((bed.get("at").as_str(), bed.get("log").as_str()), ("b2", ""));
    let e = target.apply(&prepared.approved, Token::none(), &work("r1")).await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None));
}

#[tokio::test]
async fn relative_revisions_are_resolved_before_or_refused() {
    let bed = Bed::new();
    let target = bed.target();
    assert_eq!(target.resolve("-1").await.unwrap(), "b2");
    assert_eq!(target.resolve("-2").await.unwrap(), "a1");
    assert_eq!(target.resolve("b2").await.unwrap(), "b2");
    let e = target.resolve("-3").await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.message().contains("only 2"), "{e}");
    let e = target.resolve("head").await.unwrap_err();
    assert!(e.kind() == Kind::Invalid && e.message().contains("c3, b2, a1"), "{e}");
    for relative in ["-1", "head", "previous", "head~1", "--sql"] {
        let e = target.prepare(&to(relative), &work("r1")).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None), "{relative}");
    }
    // By its own tool.
    let by_tool = |script: &str| {
        let mut resolve: Tool<_> = bed.script("resolve", script);
        resolve = resolve.within(seconds(20));
        CommandTarget::new("db:test", bed.options().with_resolve(resolve)).unwrap()
    };
    let target = by_tool(r#"[ "$ROLLBACK_REVISION" = head ] && echo '"c3"'"#);
    assert_eq!(target.resolve("head").await.unwrap(), "c3");
    let e = by_tool(r#"echo '"head"'"#).resolve("head").await.unwrap_err();
    assert!(e.message().contains("relative"), "{e}");
    assert_eq!(bed.get("log"), "");
}

#[tokio::test]
async fn a_runbook_that_says_one_back_run_twice_goes_one_back() {
    let bed = Bed::new();
    let target = bed.target();
    let release = target.resolve("-1").await.unwrap();
    for _ in 0..2 {
        go(&target, release.as_str()).await.unwrap();
    }
    assert_eq!(bed.get("at"), "b2");
    assert_eq!(bed.get("log").lines().count(), 1);
}

#[tokio::test]
async fn what_tools_answer_wrongly_is_a_clear_error() {
    for (script, kind, text) in [
        ("echo 'Traceback (most recent call last):'", Kind::Invalid, "Traceback"),
        ("true", Kind::Invalid, "wrote nothing"),
        ("printf '\\377\\376'", Kind::Invalid, "UTF-8"),
        ("echo '{\"running\":\"head\"}'", Kind::Invalid, "relative"),
        ("echo '{\"running\":\"a\"'", Kind::Invalid, "EOF"),
        ("yes 0123456789 | head -c 2000000", Kind::Invalid, "more than 1048576"),
        ("exit 10", Kind::Conflict, "exit 10"),
        ("echo gone >&2; exit 11", Kind::NotFound, "gone"),
        ("exit 12", Kind::Denied, "exit 12"),
        ("exit 13", Kind::Unsupported, "exit 13"),
        ("exit 14", Kind::Stale, "exit 14"),
        ("exit 75", Kind::Unavailable, "exit 75"),
        ("echo oops; exit 1", Kind::Unexpected, "oops"),
        ("kill -9 $$", Kind::Unexpected, "signal 9"),
        ("echo \"cannot log in with $PW\" >&2; exit 3", Kind::Unexpected, "with [PW]"),
        ("echo \"{'pw': '$PW'}\"", Kind::Invalid, "[PW]"),
    ] {
        let bed = Bed::new();
        let options = bed.options().with_observe(bed.script("bad", script)).with_env("PW", "hunter2");
        let e = CommandTarget::new("db:test", options).unwrap().observe(Look::full()).await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (kind, Effect::None), "{script}: {e}");
        assert_eq!(e.is_transient(), kind == Kind::Unavailable, "{script}");
        assert!(e.message().contains(text) && !e.to_string().contains("hunter2"), "{script}: {e}");
        assert!(e.to_string().len() < 2000 && e.fault().target.is_some(), "{script}: {e}");
    }
}

#[tokio::test]
async fn what_an_apply_may_have_done_is_said() {
    for (script, kind, effect) in [
        ("exit 10", Kind::Conflict, Effect::None),
        ("exit 14", Kind::Stale, Effect::None),
        ("exit 75", Kind::Unavailable, Effect::Unknown),
        ("exit 1", Kind::Unexpected, Effect::Unknown),
        ("kill -9 $$", Kind::Unexpected, Effect::Unknown),
        ("echo done", Kind::Invalid, Effect::Unknown),
        ("yes | head -c 2000000", Kind::Invalid, Effect::Unknown),
    ] {
        let bed = Bed::new();
        let target = CommandTarget::new("db:test", bed.options().with_apply(bed.script("bad", script))).unwrap();
        let e = go(&target, "a1").await.unwrap_err();
        assert_eq!((e.kind(), e.effect()), (kind, effect), "{script}: {e}");
    }
    let bed = Bed::new();
    let gone = bed.options().with_apply(Tool::run([bed.path("no-such-tool")]));
    let e = go(&CommandTarget::new("db:test", gone).unwrap(), "a1").await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None), "a tool that is gone is no target that is gone");
    assert!(e.message().contains("no such program"), "{e}");
}

#[tokio::test]
async fn a_tool_that_hangs_is_killed_with_what_it_started() {
    let bed = Bed::new();
    let apply = bed.script("hang", "sleep 1000 & echo $! > \"$DIR/pid\"; wait").within(Duration::from_millis(300));
    let target = CommandTarget::new("db:test", bed.options().with_apply(apply)).unwrap();
    let e = go(&target, "a1").await.unwrap_err();
    assert_eq!((e.kind(), e.effect(), e.is_transient()), (Kind::Unavailable, Effect::Unknown, true));
    let stat = format!("/proc/{}/stat", bed.get("pid").trim());
    let dead = || fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "));
    tokio::time::timeout(seconds(10), async {
        while !dead() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // The time of the step bounds it too.
    let bed = Bed::new();
    let target = CommandTarget::new("db:test", bed.options().with_apply(bed.script("hang", "sleep 1000"))).unwrap();
    let prepared = target.prepare(&to("a1"), &work("r1")).await.unwrap();
    let now = token(&target).await;
    let short = crate::Work::new("r1".into(), 1, "0.0", Duration::from_millis(200), crate::local::no_shelf::shelf());
    let e = target.apply(&prepared.approved, now, &short).await.unwrap_err();
    assert!(e.message().contains("200ms"), "{e}");
}

#[tokio::test]
async fn unknown_releases_and_empty_histories() {
    let bed = Bed::new();
    let target = bed.target();
    let e = target.prepare(&to("zz"), &work("r1")).await.unwrap_err();
    assert!(e.kind() == Kind::NotFound && e.message().contains("c3, b2, a1"), "{e}");
    assert_eq!(target.prepare(&Change::Halt, &work("r1")).await.unwrap_err().kind(), Kind::Unsupported);

    let empty = CommandTarget::new("db:test", bed.options().with_history(bed.script("none", "echo '[]'"))).unwrap();
    assert_eq!(empty.history(10).await.unwrap(), []);
    let e = empty.prepare(&to("a1"), &work("r1")).await.unwrap_err();
    assert!(e.kind() == Kind::NotFound && e.message().contains("are none"), "{e}");
    assert_eq!(empty.resolve("-1").await.unwrap_err().kind(), Kind::NotFound);

    let gone = r#"echo '["c3",{"id":"a1","available":false}]'"#;
    let gone = CommandTarget::new("db:test", bed.options().with_history(bed.script("gone", gone))).unwrap();
    let e = gone.prepare(&to("a1"), &work("r1")).await.unwrap_err();
    assert!(e.kind() == Kind::NotFound && e.message().contains("gone"), "{e}");
}

#[test]
fn wrong_settings_are_refused_before_anything_runs() {
    let bed = Bed::new();
    for (options, text) in [
        (CommandOptions::new(), "with_observe"),
        (bed.options().with_apply(Tool::run([""; 0])), "argv is empty"),
        (bed.options().with_apply(Tool::run([" "])), "program is empty"),
        (bed.options().with_apply(Tool::run(["x", "{relase}"])), "{relase}"),
        (bed.options().with_observe(Tool::run(["x", "{release}"])), "{release}"),
        (bed.options().with_prepare(Tool::run(["x", "{token}"])), "{token}"),
        (bed.options().with_resolve(Tool::run(["x", "{release}"])), "{revision}"),
        (bed.options().with_apply_forward(Tool::run(["x", "{limit}"])), "{limit}"),
    ] {
        let e = CommandTarget::new("db:test", options).unwrap_err();
        assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None));
        assert!(e.message().contains(text), "{e}");
    }
    let shown = format!("{:?}", bed.options().with_env("PW", "hunter2").with_apply(Tool::run(["x", "hunter2"])));
    assert!(shown.contains("PW") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn what_prepare_says_is_approved_and_handed_to_apply() {
    let bed = Bed::new();
    let prepare = bed.script(
        "prepare",
        r#"echo "{\"diff\":[{\"what\":\"column\",\"from\":\"text\"}],\"needs_approval\":\"drops it, from $ROLLBACK_FROM\",
           \"findings\":[{\"severity\":\"blocks\",\"code\":\"lock\",\"text\":\"locked\"}],
           \"instructions\":{\"plan\":[1,2]}}""#,
    );
    let target = CommandTarget::new("db:test", bed.options().with_prepare(prepare).irreversible()).unwrap();
    assert!(!target.capabilities().reversible);
    let prepared = target.prepare(&to("a1"), &work("r1")).await.unwrap();
    assert_eq!(prepared.approved.needs_approval.as_deref(), Some("drops it, from c3"));
    assert_eq!((prepared.approved.diff[0].to.as_ref(), prepared.findings[0].severity), (None, Severity::Blocks));
    // Prepared again, it is the same approval.
    assert_eq!(target.prepare(&to("a1"), &work("r1")).await.unwrap().approved.digest(), prepared.approved.digest());
    target.apply(&prepared.approved, token(&target).await, &work("r1")).await.unwrap();
    let stdin: serde_json::Value = serde_json::from_str(&bed.get("stdin")).unwrap();
    assert_eq!(stdin["instructions"], serde_json::json!({"plan": [1, 2]}));
    assert_eq!(bed.get("at"), "a1");
}

#[tokio::test]
async fn forward_has_its_own_tool() {
    let bed = Bed::new();
    let forward =
        bed.script("forward", r#"printf 'forward %s\n' "$ROLLBACK_RELEASE" >> "$DIR/log"; printf c3 > "$DIR/at""#);
    let target = CommandTarget::new("db:test", bed.options().with_apply_forward(forward)).unwrap();
    go(&target, "a1").await.unwrap();
    go(&target, "c3").await.unwrap();
    assert_eq!(bed.get("log"), "a1 r1 r1/0.0 1 c3\nforward c3\n");
}

#[tokio::test]
async fn half_of_ours_is_between_and_not_someone_elses() {
    let bed = Bed::new();
    bed.put("releases", "a1\nb2\nb3\nc3\n");
    let notes = bed.dir.path().join("notes");
    fs::create_dir(&notes).unwrap();
    // Gets one step far, and fails.
    let apply = || bed.script("half", r#"printf b2 > "$DIR/at"; exit 1"#);
    let options = || bed.options().with_apply(apply()).with_notes(&notes);
    let target = CommandTarget::new("db:test", options()).unwrap();
    let found = target.observe(Look::full()).await.unwrap().found();
    let prepared = target.prepare(&to("a1"), &work("r1")).await.unwrap();
    let e = target.apply(&prepared.approved, token(&target).await, &work("r1")).await.unwrap_err();
    assert_eq!(e.effect(), Effect::Unknown);
    let between = Running::Between { from: "c3".into(), to: "a1".into(), state: "at b2".into() };
    // Also after a crash, by another process.
    for target in [target, CommandTarget::new("db:test", options()).unwrap()] {
        let ours = Look::full().with_mark(Some(Mark::new(work("r1").key())));
        let now = target.observe(ours).await.unwrap();
        assert_eq!(now.parts["all"].running, between);
        assert_eq!(now.foreign(&found, &[to("a1")]), None);
        // To anybody else it is what it is.
        let other = target.observe(Look::full().with_mark(Some(Mark::new("r2/0.0")))).await.unwrap();
        assert_eq!(other.parts["all"].running, Running::Release("b2".into()));
    }
    // It goes on from there.
    let target = CommandTarget::new("db:test", bed.options().with_notes(&notes)).unwrap();
    let now = target.observe(Look::full().with_mark(Some(Mark::new(work("r1").key())))).await.unwrap();
    target.apply(&prepared.approved, now.token, &work("r1")).await.unwrap();
    assert_eq!(bed.get("at"), "a1");
}

#[tokio::test]
async fn a_tool_that_compares_tokens_must_give_them() {
    let bed = Bed::new();
    let options = bed.options().with_fencing(Fencing::Token).with_apply(bed.tool(&["apply", "{release}", "{token}"]));
    let target = CommandTarget::new("db:test", options.clone()).unwrap();
    assert_eq!(target.capabilities().fencing, Fencing::Token);
    go(&target, "b2").await.unwrap();
    let none = options.with_observe(bed.script("none", r#"echo '{"running":"c3"}'"#));
    let e = CommandTarget::new("db:test", none).unwrap().observe(Look::full()).await.unwrap_err();
    assert!(e.message().contains("gives none"), "{e}");
}

#[tokio::test]
async fn tools_that_speak_no_json_are_read_by_closures() {
    let bed = Bed::new();
    let options = bed
        .options()
        .with_observe(Tool::run(["cat", &bed.path("at")]).read_by(|out| Ok(ToolState::runs(out.text().trim()))))
        .with_history(
            Tool::run(["cat", &bed.path("releases")]).read_by(|out| Ok(out.lines().rev().map(Release::new).collect())),
        )
        .with_apply(bed.tool(&["apply", "{release}"]).read_by(|_| Ok(Applied::submitted())));
    let target = CommandTarget::new("db:test", options.clone()).unwrap();
    assert_eq!(target.history(9).await.unwrap(), ["c3", "b2", "a1"].map(Release::new));
    assert_eq!(go(&target, "b2").await.unwrap().extent, Extent::Submitted);
    assert_eq!(bed.get("at"), "b2");
    // Its exit codes are its own: 11 says nothing here, and may have had an effect.
    let own = options.clone().with_apply(bed.script("own", "exit 11").read_by(|_| Ok(Applied::done())));
    let e = go(&CommandTarget::new("db:test", own).unwrap(), "c3").await.unwrap_err();
    assert_eq!((e.kind(), e.effect()), (Kind::Unexpected, Effect::Unknown));
    // What a closure makes of it is checked all the same.
    let relative = options.clone().with_observe(Tool::run(["true"]).read_by(|_| Ok(ToolState::runs("head"))));
    let e = CommandTarget::new("db:test", relative).unwrap().observe(Look::full()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
    let fails = options.with_observe(Tool::run(["true"]).read_by(|_| Err(Error::new(Kind::Unexpected, "read it"))));
    let e = CommandTarget::new("db:test", fails).unwrap().observe(Look::full()).await.unwrap_err();
    assert_eq!(e.effect(), Effect::None);
}

#[tokio::test]
async fn not_settled_is_waited_for_and_not_run_again() {
    let bed = Bed::new();
    let observe = r#"echo "{\"running\":\"$(cat "$DIR/at")\",\"settled\":\"replaying\"}""#;
    let target = CommandTarget::new("db:test", bed.options().with_observe(bed.script("slow", observe))).unwrap();
    assert_eq!(go(&target, "a1").await.unwrap().extent, Extent::Done);
    let now = target.observe(Look::quick()).await.unwrap();
    assert_eq!(now.parts["all"].settled, Settled::NotYet { why: "replaying".into() });
    assert_eq!(go(&target, "a1").await.unwrap().extent, Extent::Submitted);
    assert_eq!(bed.get("log").lines().count(), 1);
}

#[tokio::test]
async fn nothing_is_interpreted_by_a_shell() {
    let bed = Bed::new();
    let hostile = format!("$(touch {0})`touch {0}`; touch {0} #'\" {{run}}", bed.path("hostile"));
    bed.put("releases", &format!("{hostile}\nc3\n"));
    let history = format!("echo '{}'", serde_json::to_string(&["c3", &hostile]).unwrap().replace('\'', r"'\''"));
    let target = CommandTarget::new("db:test", bed.options().with_history(bed.script("list", &history))).unwrap();
    let e = go(&target, &hostile).await;
    assert!(!Path::new(&bed.path("hostile")).exists());
    // It came through as one argument, as it is.
    assert!(e.is_ok(), "{e:?}");
    assert_eq!(bed.get("at"), hostile);
}

#[tokio::test]
async fn the_tool_records_and_without_one_what_runs_is_recorded() {
    let bed = Bed::new();
    let journal = crate::journal::MemoryJournal::new();
    assert!(bed.target().recorder().is_none());
    let entry = crate::record::record(&bed.target(), &journal, "1.0", crate::Timestamp(1)).await.unwrap();
    assert_eq!((entry.release.id.as_str(), entry.release.label.as_str()), ("c3", "1.0"));
    for (answer, label) in [(r#""b2""#, "1.1"), (r#"{"id":"b2","label":"from the tool","why":"w"}"#, "from the tool")] {
        let script = format!("echo \"$1 $ROLLBACK_VERB\" > \"$DIR/recorded\"; printf '{answer}'");
        let path = bed.path("record");
        bed.put("record", &script);
        let tool = Tool::run(["sh", path.as_str(), "{label}"]);
        let target = CommandTarget::new("db:test", bed.options().with_record(tool)).unwrap();
        let release = target.recorder().unwrap().record("1.1").await.unwrap();
        assert_eq!((release.id.as_str(), release.label.as_str()), ("b2", label));
        assert_eq!(bed.get("recorded"), "1.1 record\n");
    }
    for bad in ["echo '\"head\"'", "echo nonsense", "exit 12"] {
        let target = CommandTarget::new("db:test", bed.options().with_record(bed.script("bad", bad))).unwrap();
        assert!(target.recorder().unwrap().record("x").await.is_err(), "{bad}");
    }
    let e = CommandTarget::new("db:test", bed.options().with_record(bed.tool(&["record", "{release}"]))).unwrap_err();
    assert!(e.message().contains("{release}"), "{e}");
}

#[tokio::test]
async fn evidence_is_bounded_and_without_secrets() {
    let bed = Bed::new();
    assert!(bed.target().evidence().is_none());
    let script =
        r#"printf '{"locks":"orders none, secret-7\\npassword=x","settings":{"bytes":"%s"}}' "$ROLLBACK_BYTES""#;
    let options = bed.options().with_env("PW", "secret-7").with_evidence(bed.script("evidence", script));
    let target = CommandTarget::new("db:test", options).unwrap();
    let shelf = std::sync::Arc::new(crate::journal::MemoryShelf::new());
    let work = crate::Work::new("r1".into(), 1, "evidence", seconds(30), shelf);
    let collect = async |bytes| {
        let bounds = crate::Bounds { time: seconds(20), bytes };
        let mut texts = vec![];
        for kept in target.evidence().unwrap().collect(bounds, &work).await.unwrap() {
            let text = work.open(&kept).await.unwrap().next().await.unwrap().unwrap();
            texts.push(String::from_utf8(text).unwrap());
        }
        texts
    };
    assert_eq!(
        collect(1000).await,
        ["locks\norders none, [PW]\npassword= [redacted]\n", "settings\n{\n  \"bytes\": \"1000\"\n}\n"]
    );
    assert_eq!(collect(10).await, ["locks\norde"]);
    let hangs = Tool::run(["sleep", "1000"]).within(Duration::from_millis(50));
    let target = CommandTarget::new("db:test", bed.options().with_evidence(hangs)).unwrap();
    let bounds = crate::Bounds { time: seconds(20), bytes: 10 };
    assert_eq!(target.evidence().unwrap().collect(bounds, &work).await.unwrap_err().kind(), Kind::Unavailable);
}
