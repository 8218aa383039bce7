//! Work that blocks, off the threads that drive futures.

use crate::{Error, Kind, Result};

/// Runs what blocks where it blocks no task. It goes on to its end even if the future is dropped.
///
/// # Errors
/// As `work`; [`Kind::Unexpected`] if it panicked.
#[cfg_attr(not(feature = "host"), allow(unreachable_pub, reason = "public where `atomic_file` is"))]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::new(Kind::Unexpected, "work with files").with_source(e)))
}
