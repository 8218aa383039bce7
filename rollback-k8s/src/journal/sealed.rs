//! Values with a checksum in front: what was edited or moved by hand is found when it is read.

use rollback_core::{Error, Kind, Result};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// Half a SHA-256 is plenty against accidents, and against accidents only.
const SUM: usize = 32;

fn sum(place: &[&str], json: &str) -> String {
    let mut hash = Sha256::new();
    for text in place.iter().chain(&[json]) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(SUM / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// `place`: what it is and where it stands.
pub(super) fn seal<T: Serialize>(operation: &str, place: &[&str], value: &T) -> Result<String> {
    let json = serde_json::to_string(value)
        .map_err(|e| Error::new(Kind::Invalid, operation).with_source(e).without_effect())?;
    Ok(format!("{} {json}", sum(place, &json)))
}

/// The value, if it is the one that was sealed for this place.
pub(super) fn open<T: DeserializeOwned>(operation: &str, place: &[&str], sealed: &str) -> Result<T> {
    let what = place.join(" ");
    let Some((_, json)) = sealed.split_once(' ').filter(|(theirs, json)| *theirs == sum(place, json)) else {
        return Err(damaged(operation, format!("the checksum of {what} is wrong: it was edited or moved")));
    };
    serde_json::from_str(json).map_err(|e| damaged(operation, format!("{what} cannot be read")).with_source(e))
}

/// What is there cannot be trusted: a person must look.
pub(super) fn damaged(operation: &str, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, operation).with_message(format!("the journal is damaged: {what}")).without_effect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_sealed_is_read_there_alone_and_only_as_it_was() {
        let sealed = seal("write", &["run r1", "line 3"], &"words").unwrap();
        assert_eq!(open::<String>("read", &["run r1", "line 3"], &sealed).unwrap(), "words");
        for (place, text) in [
            (["run r1", "line 4"], sealed.clone()),
            (["run r1l", "ine 3"], sealed.clone()),
            (["run r1", "line 3"], sealed.replace("words", "Words")),
            (["run r1", "line 3"], "words".into()),
            (["run r1", "line 3"], String::new()),
        ] {
            let e = open::<String>("read", &place, &text).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid);
            assert!(e.message().contains("damaged"), "{e}");
        }
    }
}
