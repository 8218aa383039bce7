//! What targets of files save before the first change, in parts that fit the bounds.

use crate::{Artifact, Error, Result, Timestamp, Work, blocking::blocking, redact::text_without_secrets};
use std::{
    fmt::Write as _,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// Keeps as much of it as there is room for.
pub(in crate::local) async fn keep(
    work: &Work,
    kind: &str,
    mut bytes: Vec<u8>,
    left: &mut u64,
    kept: &mut Vec<Artifact>,
) -> Result<()> {
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

/// Keeps the ends of log files. What is left is shared fairly among the logs that are left.
pub(in crate::local) async fn keep_logs(
    work: &Work,
    logs: &[PathBuf],
    left: &mut u64,
    kept: &mut Vec<Artifact>,
) -> Result<()> {
    for (i, path) in logs.iter().enumerate() {
        let share = *left / (logs.len() - i) as u64;
        let path = path.clone();
        let text = blocking(move || Ok(tail(&path, share))).await?;
        keep(work, "log-tail/1", text.into_bytes(), left, kept).await?;
    }
    Ok(())
}

/// The releases that are there, the one that was changed last first.
pub(in crate::local) fn releases(dir: &Path) -> String {
    let mut text = String::new();
    match super::names(dir) {
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
            let mut text = head + &text_without_secrets(&String::from_utf8_lossy(&bytes));
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }
        Err(e) => format!("{head}{}\n", Error::from_io("read it", e)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
