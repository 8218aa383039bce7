//! Someone says yes by a file.

use super::{Approval, ApprovalRequest, Approver};
use crate::{Error, Kind, Result, RunId, atomic_file, blocking::blocking, seconds};
use async_trait::async_trait;
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// More than any answer or request needs.
const MOST: u64 = 1 << 20;

/// Writes `<digest>.json` with what is to be approved into a directory, and waits for an answer beside it: a file
/// `<digest>.approved` with who approves in its first line, or `<digest>.rejected`. The colon of the digest is a dash:
/// `sha256-ba78….approved`. An approval without a name does not count, a rejection comes before an approval.
///
/// Answers belong to one run: those that lay there before the run's first request are removed, those that come while the
/// process is down count when it asks again. Whoever can write into the directory can approve.
///
/// ```
/// use rollback_core::{approve::FileApproval, seconds};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path();
/// let approval = FileApproval::in_dir(dir)?.with_poll(seconds(5));
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileApproval {
    dir: PathBuf,
    poll: Duration,
}

impl FileApproval {
    /// In this directory.
    ///
    /// # Errors
    /// [`Kind::NotFound`] or [`Kind::Invalid`] if it is no directory.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let operation = format!("open the approvals directory {}", dir.display());
        match std::fs::metadata(&dir) {
            Ok(found) if found.is_dir() => Ok(Self { dir, poll: seconds(1) }),
            Ok(_) => Err(Error::new(Kind::Invalid, operation).with_message("it is no directory").without_effect()),
            Err(e) => Err(Error::from_io(operation, e).without_effect()),
        }
    }
    /// How often it is looked whether there is an answer. Default: every second.
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }
}

/// As much of a request file as is read again.
#[derive(Deserialize)]
struct Asked {
    run: RunId,
}

fn request_again(path: &Path, request: &ApprovalRequest) -> Result<()> {
    let of_this_run =
        |bytes: Vec<u8>| serde_json::from_slice::<Asked>(&bytes).is_ok_and(|asked| asked.run == request.run);
    if atomic_file::read(&path.with_extension("json"), MOST)?.is_some_and(of_this_run) {
        return Ok(());
    }
    for answer in ["approved", "rejected"] {
        atomic_file::remove(&path.with_extension(answer))?;
    }
    let bytes = serde_json::to_vec_pretty(request)
        .map_err(|e| Error::new(Kind::Unexpected, "write the approval request").with_source(e).without_effect())?;
    atomic_file::write(&path.with_extension("json"), &bytes)
}

/// `None`: no answer yet.
fn answer(path: &Path) -> Result<Option<Option<String>>> {
    if atomic_file::read(&path.with_extension("rejected"), MOST)?.is_some() {
        return Ok(Some(None));
    }
    let Some(bytes) = atomic_file::read(&path.with_extension("approved"), MOST)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let who: String = text.lines().next().unwrap_or_default().trim().chars().take(200).collect();
    // It may be empty because it is just being written.
    Ok((!who.is_empty()).then_some(Some(who)))
}

#[async_trait]
impl Approver for FileApproval {
    async fn ask(&self, request: &ApprovalRequest) -> Result<Option<Approval>> {
        let name = request.digest.as_str().replace([':', '/'], "-");
        let path = self.dir.join(format!("{name}.json"));
        let (asked, at) = (request.clone(), path.clone());
        blocking(move || request_again(&at, &asked)).await?;
        loop {
            let at = path.clone();
            if let Some(answer) = blocking(move || answer(&at)).await? {
                return Ok(answer.map(|by| Approval { digest: request.digest.clone(), by }));
            }
            tokio::time::sleep(self.poll).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    fn request(run: &str) -> ApprovalRequest {
        let of = vec!["drops column note".to_string()];
        ApprovalRequest::new(run.into(), "db:shop".into(), "sha256:ba78".into(), of)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_name_and_takes_no_for_no() {
        let dir = tempfile::tempdir().unwrap();
        let approval = FileApproval::in_dir(dir.path()).unwrap();
        let file = |name: &str| dir.path().join(format!("sha256-ba78.{name}"));
        let soon = async |run: &str| timeout(seconds(60), approval.ask(&request(run))).await;

        assert!(soon("r1").await.is_err(), "nobody answered");
        let asked: ApprovalRequest = serde_json::from_slice(&std::fs::read(file("json")).unwrap()).unwrap();
        assert_eq!(asked, request("r1"));
        std::fs::write(file("approved"), "").unwrap();
        assert!(soon("r1").await.is_err(), "an approval without a name");
        // It comes while nobody waits, and counts when the run asks again.
        std::fs::write(file("approved"), "kim\nlooks fine").unwrap();
        assert_eq!(soon("r1").await.unwrap().unwrap().unwrap().by, "kim");
        std::fs::write(file("rejected"), "").unwrap();
        assert_eq!(soon("r1").await.unwrap().unwrap(), None);
        // The same change in another run needs an answer of its own.
        assert!(soon("r2").await.is_err());
        assert!(!file("approved").exists() && !file("rejected").exists());
    }

    #[test]
    fn it_needs_a_directory() {
        assert_eq!(FileApproval::in_dir("/no/such/dir").unwrap_err().kind(), Kind::NotFound);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(FileApproval::in_dir(file.path()).unwrap_err().kind(), Kind::Invalid);
    }
}
