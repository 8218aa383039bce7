//! A Compose file that keeps a service on the good image, until the next deploy removes it.

use super::{Members, Replicas};
use crate::release::short;
use rollback_core::{Error, Finding, Kind, Result, Severity, Work, atomic_file};

/// What it begins with: only such a file is replaced.
const OURS: &str = "# Written by a rollback.";
const MOST: u64 = 1 << 20;

fn text(service: &str, image: &str, run: &str) -> String {
    // JSON is YAML: whatever characters a name has.
    let json = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "{OURS} It keeps the service on the release that was gone back to: remove it with the next deploy.\n# Run {run}.\n\
         services:\n  {}:\n    image: {}\n    pull_policy: never\n",
        json(service),
        json(image)
    )
}

impl Replicas {
    /// What there is to say of it beforehand, and what a person has to do afterwards. `left` is what the images that are left
    /// were called.
    pub(super) fn about_pin_file(&self, good: &str, left: &[String]) -> Result<Vec<Finding>> {
        let todo = |code: &str, text: String| Finding::new(Severity::ToDo, code, text);
        let named = left.iter().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>().join(", ");
        let named = if named.is_empty() { "the image that was left".to_owned() } else { named };
        let Members::Compose { service, .. } = &self.members else {
            let why = format!("correct what starts the container: it still names {named}, and brings that back");
            return Ok(vec![todo("not-pinned", why)]);
        };
        let Some(path) = &self.options.pin_file else {
            let why = format!(
                "correct the Compose file, which still names {named}: docker compose down and up, up --force-recreate, or a pull \
                 that brings a new image under the same name take what it says"
            );
            return Ok(vec![todo("not-pinned", why)]);
        };
        let there = atomic_file::read(path, MOST)?;
        if there.is_some_and(|bytes| !bytes.starts_with(OURS.as_bytes())) {
            let why =
                format!("{} was not written by a rollback, and is not replaced: name another pin file", path.display());
            return Ok(vec![Finding::new(Severity::Blocks, "pin-file", why)]);
        }
        let why = format!(
            "correct the Compose file, which still names {named}, and remove the pin file {} with the next deploy: a rollback \
             wrote it, and until it is removed it silently keeps {service} on {}, whatever the Compose file says",
            path.display(),
            short(good)
        );
        Ok(vec![todo("pinned", why)])
    }

    /// Writes it, unless it says so already. What runs is right by now.
    pub(super) fn write_pin_file(&self, image: &str, work: &Work) -> Result<()> {
        let (Members::Compose { service, .. }, Some(path)) = (&self.members, &self.options.pin_file) else {
            return Ok(());
        };
        let text = text(service, image, work.run().as_str());
        let there = atomic_file::read(path, MOST)?;
        if there.as_ref().is_some_and(|bytes| !bytes.starts_with(OURS.as_bytes())) {
            let e = Error::new(Kind::Conflict, format!("write {}", path.display()));
            return Err(e.with_message("somebody else wrote it meanwhile").with_target(&self.id));
        }
        if there.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        atomic_file::write(path, text.as_bytes()).map_err(|e| e.with_target(&self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let text = text("a: b", "sha256:ab", "r-1");
        assert!(text.starts_with(OURS) && text.contains("  \"a: b\":\n    image: \"sha256:ab\"\n"), "{text}");
    }
}
