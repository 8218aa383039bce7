//! `DirectorySync` against `rsync -a --delete --fsync` with the same change set in the same run: times, their ratio, and
//! peak memory at 1,000 files and at all of them, each in a process of its own.
//!
//! `cargo run --release -p rollback-tests --bin bench_directory_sync -- [FILES [ROUNDS]]`, by default 2,000 files and
//! 3 rounds; the full size is 100,000 files. Needs `rsync`. Exits with 1 if ours is slower or memory grows.

use rollback_core::{
    Change, Extent, Journal as _, Look, PartId, Result, RunId, Target as _, Work, hours, journal::SqliteJournal,
    local::DirectorySync,
};
use std::{
    error::Error,
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

type Outcome<T> = std::result::Result<T, Box<dyn Error>>;

/// What a process found out about itself: seconds to prepare, to apply, to look; KiB at the most.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy)]
struct Measured {
    prepare: f64,
    apply: f64,
    look: f64,
    peak: u64,
}

fn main() -> Outcome<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, root, to, run] = &arguments[..]
        && word == "measure"
    {
        println!("{}", serde_json::to_string(&measure(Path::new(root), to, run)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let number = |i: usize, default| arguments.get(i).map_or(Ok(default), |n: &String| n.parse::<usize>());
    let (files, rounds) = (number(0, 2000)?, number(1, 3)?.max(1));
    let small = bench(files.min(1000), 1)?;
    let large = bench(files, rounds)?;
    let (ours, rsync) = (median(&large.ours), median(&large.rsync));
    println!(
        "{files} files of 1 KiB, {} changed, {} new, {} gone; {rounds} rounds, medians",
        large.changed, large.new, large.gone
    );
    println!(
        "DirectorySync  {ours:.2} s (prepare {:.2} s, apply {:.2} s), full look {:.2} s",
        large.prepare, large.apply, large.look
    );
    println!("rsync --fsync  {rsync:.2} s");
    println!("ratio          {:.2} (aim: at most 1)", ours / rsync);
    println!("peak memory    {} KiB at {} files, {} KiB at {files}", small.peak, files.min(1000), large.peak);
    // A window of names and buffers fills up to its bound; it must not follow the number of files.
    let grows = large.peak > small.peak + (8 << 10);
    Ok(if ours > rsync || grows { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

struct Bench {
    ours: Vec<f64>,
    rsync: Vec<f64>,
    prepare: f64,
    apply: f64,
    look: f64,
    peak: u64,
    changed: usize,
    new: usize,
    gone: usize,
}

fn bench(files: usize, rounds: usize) -> Outcome<Bench> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let (one, two, live) = (root.join("releases/1"), root.join("releases/2"), root.join("live"));
    fs::create_dir_all(&live)?;
    for i in 0..files {
        let path = one.join(format!("d{:04}/f{:06}", i / 100, i));
        if i % 100 == 0 {
            fs::create_dir_all(path.parent().unwrap_or(&one))?;
        }
        fs::write(path, format!("{i:01024}"))?;
    }
    rsync(&one, &two, &[])?;
    // One in twenty differs; a few of them are new or gone.
    let (mut changed, mut new, mut gone) = (0, 0, 0);
    for i in (0..files).step_by(20) {
        let path = two.join(format!("d{:04}/f{:06}", i / 100, i));
        match i / 20 % 20 {
            0 => {
                fs::remove_file(path)?;
                gone += 1;
            }
            1 => {
                fs::write(path.with_extension("new"), format!("{i:>01024}"))?;
                new += 1;
            }
            _ => {
                fs::write(path, format!("{i:>01024}"))?;
                changed += 1;
            }
        }
    }
    let me = std::env::current_exe()?;
    let measured = |to: &str, run: usize| -> Outcome<Measured> {
        let output = Command::new(&me)
            .args(["measure".as_ref(), root.as_os_str()])
            .args([to, &format!("run {run}")])
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    rsync(&one, &live, &[])?;
    measured("1", 0)?;
    let (mut all, mut theirs) = (vec![], vec![]);
    for round in 1..=rounds {
        rustix::fs::sync();
        all.push(measured("2", round)?);
        same(&two, &live)?;
        rsync(&one, &live, &["--delete", "--exclude=/.rollback"])?;
        rustix::fs::sync();
        let began = Instant::now();
        rsync(&two, &live, &["--delete", "--exclude=/.rollback", "--fsync"])?;
        theirs.push(began.elapsed().as_secs_f64());
        rsync(&one, &live, &["--delete", "--exclude=/.rollback"])?;
    }
    let of = |get: fn(&Measured) -> f64| median(&all.iter().map(get).collect::<Vec<_>>());
    Ok(Bench {
        ours: all.iter().map(|m| m.prepare + m.apply).collect(),
        rsync: theirs,
        prepare: of(|m| m.prepare),
        apply: of(|m| m.apply),
        look: of(|m| m.look),
        peak: all.iter().map(|m| m.peak).max().unwrap_or(0),
        changed,
        new,
        gone,
    })
}

fn rsync(from: &Path, to: &Path, options: &[&str]) -> Outcome<()> {
    let mut from = from.as_os_str().to_owned();
    from.push("/");
    let status = Command::new("rsync").arg("-a").args(options).arg(from).arg(to).status()?;
    if status.success() { Ok(()) } else { Err(format!("rsync: {status}").into()) }
}

/// What was measured is what was asked for.
fn same(one: &Path, other: &Path) -> Outcome<()> {
    let status = Command::new("diff").args(["-rq", "--exclude=.rollback"]).args([one, other]).status()?;
    if status.success() { Ok(()) } else { Err("the trees differ".into()) }
}

fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

#[tokio::main(flavor = "current_thread")]
async fn measure(root: &Path, to: &str, run: &str) -> Result<Measured> {
    let target = DirectorySync::open(root.join("live"), root.join("releases"))?;
    let journal = SqliteJournal::open(root.join("journal.db"))?;
    let work = Work::new(RunId::from(run), 1, "1.1", hours(1), journal.shelf());
    let change = Change::release(&PartId::from("all"), &to.into());
    let began = Instant::now();
    let prepared = target.prepare(&change, &work).await?;
    let prepare = seconds(began.elapsed());
    let token = target.observe(Look::quick()).await?.token;
    let began = Instant::now();
    let applied = target.apply(&prepared.approved, token, &work).await?;
    let apply = seconds(began.elapsed());
    assert_eq!(applied.extent, Extent::Done);
    let began = Instant::now();
    let seen = target.observe(Look::full()).await?;
    let look = seconds(began.elapsed());
    assert!(seen.parts.values().all(|part| part.runs(&to.into())));
    Ok(Measured { prepare, apply, look, peak: peak() })
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// The most memory that this process ever held, in KiB, as the kernel says.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
