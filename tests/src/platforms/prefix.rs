//! A bucket prefix of a million keys: the manifest is an artifact, the apply goes on from its checkpoints, and a CDN is a
//! verb, not a target.

use super::*;
use rollback_core::{Artifact, Extent, Fencing, When};

stored!(
    /// Where a copy is: small, saved after every thousand keys.
    Checkpoint, "s3/checkpoint", 2 { phase: String, after_key: String, done: u64, failed: u64 }
);
stored!(
    /// The million lines themselves are the artifact.
    Manifest, "s3/manifest", 1 { keys: u64, bytes: u64, deletes: u64 }
);

/// What it can do.
pub fn capabilities() -> Capabilities {
    Capabilities::new(Fencing::Token).with_verb("invalidate", When::AfterRelease)
}

/// How an apply over a million keys goes on where an earlier one stopped, and never holds all of it.
///
/// # Errors
/// As the shelf; [`Kind::Invalid`] without a manifest.
pub async fn copy(approved: &Approved, work: &Work) -> Result<Applied> {
    let start = Checkpoint { phase: "assets".into(), after_key: String::new(), done: 0, failed: 0 };
    let mut at = work.last_checkpoint::<Checkpoint>().await?.unwrap_or(start);
    let none = || Error::new(Kind::Invalid, "copy the keys").with_message("there is no manifest").without_effect();
    let mut manifest = work.open(approved.artifact.as_ref().ok_or_else(none)?).await?;
    let (mut line, mut rest) = (0, vec![]);
    while let Some(bytes) = manifest.next().await? {
        rest.extend(bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let key: Vec<u8> = rest.drain(..=end).collect();
            line += 1;
            if line <= at.done {
                continue;
            }
            at.done = line;
            at.after_key = String::from_utf8_lossy(&key[..end]).into_owned();
            if at.done % 1000 == 0 {
                work.checkpoint(&at).await?;
                work.progress(at.done, 1_000_000);
            }
            if work.is_cancelled() {
                work.checkpoint(&at).await?;
                return Ok(Applied::new(Extent::Partial { done: at.done, of: 1_000_000, reasons: [].into() }));
            }
        }
    }
    Ok(Applied::done())
}

/// A million keys, some of which somebody else writes meanwhile.
pub fn picture() -> Result<Picture> {
    let keys = |running, settled| {
        observed("111122223333", "bucket/site/", vec![("prefix", part("2.4.0", running, settled))], Token::none())
    };
    let change = to_release("prefix", "2.3.9");
    let manifest = Manifest { keys: 1_000_000, bytes: 9 << 30, deletes: 1200 };
    let reasons = [("412: somebody else wrote".to_string(), 10)].into();
    Ok(Picture {
        id: "s3:bucket/site/".into(),
        capabilities: capabilities(),
        suspect: "2.4.0".into(),
        wanted: "2.3.9".into(),
        // A quick look reads a marker object; only a full listing, or our own checkpoint, knows of a mix.
        found: keys(release("2.4.0"), Settled::Yes),
        prepared: Prepared::new(&change)
            .with_instructions(Payload::of(&manifest)?)
            .with_artifact(Artifact { digest: "sha256:aa".into(), bytes: 140 << 20, kind: "s3-manifest/1".into() })
            .with_diff(diff("keys to copy", "0", "998800")),
        change,
        applied: Applied::new(Extent::Partial { done: 999_990, of: 1_000_000, reasons }),
        half: keys(mixed(&[("2.4.0", 600_000), ("2.3.9", 400_000)]), not_yet("copying")).with_progress(4, 10),
    })
}
