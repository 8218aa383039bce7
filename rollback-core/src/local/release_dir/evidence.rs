//! What is saved before the first change: how the releases and the link were, and the ends of log files.

use super::layout::Layout;
use crate::{Artifact, Bounds, Error, EvidenceSource, Result, Timestamp, Work, atomic_file, local::own};
use async_trait::async_trait;
use std::{
    fmt::Write as _,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) layout: Layout,
    pub(super) logs: Vec<PathBuf>,
}

#[async_trait]
impl EvidenceSource for Saved {
    async fn collect(&self, bounds: Bounds, work: &Work) -> Result<Vec<Artifact>> {
        let mut left = bounds.bytes;
        let layout = self.layout.clone();
        let listing = atomic_file::blocking(move || Ok(listing(&layout))).await?;
        let mut kept = vec![];
        keep(work, "release-dir-listing/1", listing.into_bytes(), &mut left, &mut kept).await?;
        for (i, path) in self.logs.iter().enumerate() {
            // What is left is shared fairly among the logs that are left.
            let share = left / (self.logs.len() - i) as u64;
            let path = path.clone();
            let text = atomic_file::blocking(move || Ok(tail(&path, share))).await?;
            keep(work, "log-tail/1", text.into_bytes(), &mut left, &mut kept).await?;
        }
        Ok(kept)
    }
}

async fn keep(work: &Work, kind: &str, mut bytes: Vec<u8>, left: &mut u64, kept: &mut Vec<Artifact>) -> Result<()> {
    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    if bytes.is_empty() {
        return Ok(());
    }
    let mut writer = work.keep(kind).await?;
    writer.push(&bytes).await?;
    kept.push(writer.seal().await?);
    *left -= bytes.len() as u64;
    Ok(())
}

/// How it is. What cannot be read is said in its place.
fn listing(layout: &Layout) -> String {
    let mut text = format!("{} at {}\n", layout.root().display(), Timestamp::now());
    let _ = match layout.read() {
        Ok(read) => writeln!(
            text,
            "link {:?}{}\nlast swap {:?}\ntrace {:?}",
            read.link.points,
            if read.gone { " (gone)" } else { "" },
            read.swap,
            read.trace
        ),
        Err(e) => writeln!(text, "{e}"),
    };
    match own::names(&layout.releases()) {
        Ok(mut names) => {
            names.sort_by_key(|(_, changed)| std::cmp::Reverse(*changed));
            for (name, changed) in names {
                let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                let changed = changed.map(|at| Timestamp(at.as_millis() as u64).to_string()).unwrap_or_default();
                let _ = writeln!(text, "releases/{name} {changed}");
            }
        }
        Err(e) => {
            let _ = writeln!(text, "{e}");
        }
    }
    text
}

/// The last bytes of a file, from the beginning of a line, with what looks like a secret blanked out.
fn tail(path: &Path, most: u64) -> String {
    let head = format!("{}\n", path.display());
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let from = size.saturating_sub(most.saturating_sub(head.len() as u64));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = vec![];
        file.take(size - from).read_to_end(&mut bytes)?;
        if from > 0 {
            let line = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| i + 1);
            bytes.drain(..line);
        }
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let mut text = head;
            for line in String::from_utf8_lossy(&bytes).lines() {
                text.push_str(&without_secrets(line));
                text.push('\n');
            }
            text
        }
        Err(e) => format!("{head}{}\n", Error::from_io("read it", e)),
    }
}

/// Blanks out what follows `password=`, `token:` and the like, to the end of the line: too much is better than too little.
fn without_secrets(line: &str) -> String {
    const WORDS: [&str; 8] = ["password", "passwd", "secret", "token", "api_key", "apikey", "api-key", "authorization"];
    let lower = line.to_ascii_lowercase();
    let first = WORDS
        .iter()
        .flat_map(|word| lower.match_indices(word).map(|(at, word)| at + word.len()))
        .filter_map(|at| lower[at..].find([':', '=']).filter(|i| *i <= 3).map(|i| at + i + 1))
        .min();
    match first {
        Some(at) => format!("{} [redacted]", &line[..at]),
        None => line.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blanked_out() {
        for (line, kept) in [
            ("GET /health 200", "GET /health 200"),
            ("db password=hunter2 host=a", "db password= [redacted]"),
            (r#"{"api_key": "x", "b": 1}"#, r#"{"api_key": [redacted]"#),
            ("Authorization: Bearer abc", "Authorization: [redacted]"),
            ("took a token from the bucket", "took a token from the bucket"),
        ] {
            assert_eq!(without_secrets(line), kept);
        }
    }

    #[test]
    fn a_tail_begins_at_a_line_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines: String = (0..100).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&path, lines).unwrap();
        let head = format!("{}\n", path.display());
        let text = tail(&path, head.len() as u64 + 20);
        assert_eq!(text, format!("{head}line 98\nline 99\n"));
        assert!(tail(&dir.path().join("none"), 1000).contains("could not read it"));
    }
}
