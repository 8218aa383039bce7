//! What a release is on an engine: an image, by the digest of its content.
//!
//! Not here: the settings of a container, which stay as they are when its image goes back.

use rollback_core::{Error, Kind, ReleaseId, Result};

/// The release that an image is. Its id is a digest of its content, so that it is the same under every tag.
pub(crate) fn of_image(image_id: &str) -> ReleaseId {
    ReleaseId::new(image_id)
}

/// The id of the image that a release is.
///
/// # Errors
/// [`Kind::Invalid`], without effect, for what is no image id.
pub(crate) fn image_of(release: &ReleaseId) -> Result<&str> {
    let id = release.as_str();
    let hex = id.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(Error::new(Kind::Invalid, format!("find the release {id}"))
        .with_message("a release of this target is an image by its id, sha256:…: docker image ls --no-trunc shows them")
        .without_effect())
}

/// The first twelve digits of an id, as docker shows them.
pub(crate) fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_an_image_id() {
        let id = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(image_of(&of_image(&id)).unwrap(), id);
        assert_eq!(short(&id), "abababababab");
        for none in ["latest", "sha256:ab", "no-such-release", ""] {
            let e = image_of(&none.into()).unwrap_err();
            assert_eq!((e.kind(), e.effect()), (Kind::Invalid, rollback_core::Effect::None), "{none}");
        }
    }
}
