//! The log says nothing bad.

use super::{Verdict, Verifier, Window, short};
use crate::{
    Clock, Context, Error, Evidence, Result, SystemClock, Timestamp, blocking::blocking, redact::without_secrets,
};
use async_trait::async_trait;
use std::{
    fmt,
    fs::File,
    future::Future,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

/// How much of the end of a file is read.
const READ: u64 = 8 << 20;
/// How many of the lines found are shown.
const LINES: usize = 3;

/// Lines of a log since the last write of the run (or since the verification began) that contain one of several patterns:
/// no more of them than are allowed.
///
/// Patterns are plain text, not expressions; upper and lower case differ. The first three lines found are shown, up to 200
/// characters each, without what looks like a secret.
///
/// ```
/// use rollback_core::{minutes, Window, verify::LogScan};
/// let calm = LogScan::file("/var/log/checkout.log", "ERROR")
///     .pattern("panicked at")
///     .allowing(2)
///     .with_window(Window::default().with_hold(minutes(2)));
/// ```
#[derive(Clone)]
pub struct LogScan {
    source: Source,
    patterns: Vec<String>,
    allowed: usize,
    window: Window,
    clock: Arc<dyn Clock>,
}

type Lines = Pin<Box<dyn Future<Output = Result<Vec<String>>> + Send>>;

#[derive(Clone)]
enum Source {
    File { path: PathBuf, whole: bool },
    Closure { name: String, lines: Arc<dyn Fn(Context) -> Lines + Send + Sync> },
}

impl LogScan {
    /// A file whose lines begin with an RFC 3339 time; one without belongs to the line before it (a stack trace). Of the
    /// file the last 8 MiB are read. If it has no times at all, or those 8 MiB do not reach back far enough, and too few
    /// lines were found to fail, it is unknown.
    pub fn file(path: impl Into<PathBuf>, pattern: impl Into<String>) -> Self {
        Self::new(Source::File { path: path.into(), whole: false }, pattern)
    }
    /// Lines from elsewhere: those since [`Context::since`], oldest first. The future is dropped after [`Context::within`].
    pub fn with<F>(
        name: impl Into<String>,
        pattern: impl Into<String>,
        lines: impl Fn(Context) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<String>>> + Send + 'static,
    {
        Self::new(
            Source::Closure { name: name.into(), lines: Arc::new(move |context| Box::pin(lines(context))) },
            pattern,
        )
    }
    fn new(source: Source, pattern: impl Into<String>) -> Self {
        let clock = Arc::new(SystemClock::new());
        Self { source, patterns: vec![pattern.into()], allowed: 0, window: Window::default(), clock }
    }
    /// One more pattern. An empty one is in every line.
    pub fn pattern(mut self, text: impl Into<String>) -> Self {
        self.patterns.push(text.into());
        self
    }
    /// So many lines may contain a pattern. Default: none.
    pub fn allowing(mut self, lines: usize) -> Self {
        self.allowed = lines;
        self
    }
    /// All lines of the file count, whatever their time: for a file that is begun anew with each release.
    pub fn whole_file(mut self) -> Self {
        if let Source::File { whole, .. } = &mut self.source {
            *whole = true;
        }
        self
    }
    /// When samples are taken. Default: at once, one sample is enough.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
    /// Where the wall clock is read that the times of the lines are compared with. Default: the system's.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    async fn lines(&self, context: &Context) -> Result<Part> {
        match &self.source {
            Source::Closure { lines, .. } => Ok(Part { lines: lines(context.clone()).await?, missing: None }),
            Source::File { path, whole } => {
                let (path, whole) = (path.clone(), *whole);
                let now = self.clock.now().wall;
                let since = Timestamp(now.0.saturating_sub(duration_ms(context.since)));
                let (text, cut) = blocking(move || end_of(&path, READ)).await?;
                Ok(Part::of(&text, cut, (!whole).then_some(since)))
            }
        }
    }
}

fn duration_ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The lines that count, and why there may be more of them.
struct Part {
    lines: Vec<String>,
    missing: Option<&'static str>,
}

impl Part {
    fn of(text: &str, cut: bool, since: Option<Timestamp>) -> Self {
        // The first line of a part of a file is half a line.
        let all = text.lines().skip(usize::from(cut));
        let Some(since) = since else {
            let missing = cut.then_some("the file is longer than what is read of it");
            return Self { lines: all.map(str::to_string).collect(), missing };
        };
        let (mut lines, mut at, mut oldest, mut any) = (vec![], None, None, false);
        for line in all {
            any = true;
            at = time_of(line).or(at);
            oldest = oldest.or(at);
            if at.is_some_and(|at| at >= since) {
                lines.push(line.to_string());
            }
        }
        let missing = match oldest {
            None if any || cut => Some("no line begins with an RFC 3339 time"),
            Some(oldest) if cut && oldest > since => Some("what is read of the file does not reach back far enough"),
            _ => None,
        };
        Self { lines, missing }
    }
}

/// The time that a line begins with, in brackets or not.
fn time_of(line: &str) -> Option<Timestamp> {
    let word = line.split_whitespace().next()?.trim_matches(['[', ']', ',']);
    // A cheap look first: most lines of a stack trace are not times.
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| Timestamp::parse(word).ok()).flatten()
}

fn end_of(path: &Path, most: u64) -> Result<(String, bool)> {
    let read = || -> io::Result<(String, bool)> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(most);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = vec![];
        file.take(most).read_to_end(&mut bytes)?;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), from > 0))
    };
    read().map_err(|e| Error::from_io(format!("read {}", path.display()), e).without_effect())
}

impl fmt::Debug for LogScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogScan")
            .field("name", &self.name())
            .field("patterns", &self.patterns)
            .field("allowed", &self.allowed)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Verifier for LogScan {
    fn name(&self) -> String {
        match &self.source {
            Source::File { path, .. } => format!("log {}", path.display()),
            Source::Closure { name, .. } => format!("log {name}"),
        }
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        let part = self.lines(context).await?;
        let found: Vec<_> =
            part.lines.iter().filter(|line| self.patterns.iter().any(|p| line.contains(p.as_str()))).collect();
        let seen = format!("{} of {} lines match, {} allowed", found.len(), part.lines.len(), self.allowed);
        let mut evidence = vec![Evidence::new(self.name(), seen)];
        evidence.extend(found.iter().take(LINES).map(|line| Evidence::new("line", short(&without_secrets(line)))));
        if found.len() > self.allowed {
            return Ok(Verdict::Fails(evidence));
        }
        Ok(match part.missing {
            Some(missing) => {
                evidence.push(Evidence::new(self.name(), missing));
                Verdict::Unknown(evidence)
            }
            None => Verdict::Holds(evidence),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::{of_parts, word};
    use super::*;
    use crate::{Kind, Now, seconds};

    #[derive(Debug)]
    struct At(Timestamp);
    impl Clock for At {
        fn now(&self) -> Now {
            Now { wall: self.0, ..Now::default() }
        }
    }

    const LOG: &str = "2026-11-22T03:00:00Z ERROR before the rollback\n\
        2026-11-22T03:04:00Z INFO began\n\
        2026-11-22T03:04:10Z ERROR one\n\
        \x20   at frame ERROR\n\
        [2026-11-22T03:04:20Z] ERROR two\n";

    /// At 03:04:30, so long after the last write.
    async fn scan(log: &str, since: u64, allowed: usize) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, log).unwrap();
        let now = At(Timestamp::parse("2026-11-22T03:04:30Z").unwrap());
        let scan = LogScan::file(path, "ERROR").allowing(allowed).with_clock(now);
        scan.verify(&of_parts([]).with_since(seconds(since))).await.unwrap()
    }

    #[tokio::test]
    async fn only_lines_since_then_count_and_those_without_a_time_belong_to_the_one_before() {
        for (since, allowed, want, says) in [
            (40, 2, "fails", "3 of 4 lines match, 2 allowed"),
            (40, 3, "holds", "3 of 4 lines match, 3 allowed"),
            (15, 0, "fails", "1 of 1 lines match, 0 allowed"),
            (5, 0, "holds", "0 of 0 lines match, 0 allowed"),
            (3600, 3, "fails", "4 of 5 lines match, 3 allowed"),
        ] {
            let verdict = scan(LOG, since, allowed).await;
            assert_eq!((word(&verdict), verdict.evidence()[0].seen.as_str()), (want, says), "{since}");
            assert!(verdict.evidence().len() <= 1 + LINES);
        }
    }

    #[tokio::test]
    async fn without_times_it_is_unknown_unless_the_whole_file_counts() {
        assert_eq!(word(&scan("INFO fine\nINFO all good\n", 40, 0).await), "unknown");
        assert_eq!(word(&scan("", 40, 0).await), "holds");
        let e = LogScan::file("/no/such/log", "x").verify(&of_parts([])).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
    }

    #[test]
    fn what_was_not_read_makes_it_unknown() {
        let since = |text| Some(Timestamp::parse(text).unwrap());
        let early = since("2026-11-22T02:00:00Z");
        assert!(Part::of(LOG, false, early).missing.is_none());
        assert!(Part::of(LOG, true, early).missing.is_some());
        assert!(Part::of(LOG, true, since("2026-11-22T03:04:05Z")).missing.is_none());
        assert!(Part::of(LOG, true, None).missing.is_some());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, LOG).unwrap();
        let (text, cut) = end_of(&path, 10).unwrap();
        assert_eq!((text.as_str(), cut), ("ERROR two\n", true));
    }

    #[tokio::test]
    async fn long_lines_are_cut_and_few_are_shown() {
        let lines = |_| async { Ok((0..10).map(|n| format!("ERROR {n} {}", "ä".repeat(500))).collect()) };
        let verdict = LogScan::with("app", "ERROR", lines).verify(&of_parts([])).await.unwrap();
        assert_eq!(word(&verdict), "fails");
        assert_eq!(verdict.evidence().len(), 1 + LINES);
        assert!(verdict.evidence()[1..].iter().all(|e| e.seen.chars().count() <= 201), "{verdict:?}");
    }
}
