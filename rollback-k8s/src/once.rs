//! An answer that many ask for at the same time: fetched once, shared, and remembered for a while.
//!
//! For what a thousand targets ask alike beforehand: rights, who steers, what nodes have. Nothing that guards a write.

use rollback_core::Result;
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::OnceCell, time::Instant};

/// Answers by what was asked.
#[derive(Debug)]
pub(crate) struct Once<K, V> {
    remembered: Duration,
    all: Mutex<HashMap<K, Asked<V>>>,
}

/// An answer that may not be there yet, and when it was asked for.
type Asked<V> = (Arc<OnceCell<V>>, Instant);

impl<K: Eq + Hash + Clone, V: Clone> Once<K, V> {
    /// Asked again when so long has passed.
    pub(crate) fn remembering(remembered: Duration) -> Self {
        Self { remembered, all: Mutex::default() }
    }
    /// The answer that is remembered, or that of whoever asks just now, or a new one. A failure is not remembered: the next
    /// one who asks tries again.
    pub(crate) async fn get<F>(&self, key: K, ask: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>>,
    {
        let cell = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, (_, since)| since.elapsed() < self.remembered);
            all.entry(key).or_insert_with(|| (Arc::default(), Instant::now())).0.clone()
        };
        cell.get_or_try_init(ask).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rollback_core::{Error, Kind};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_thousand_who_ask_are_one_request() {
        let (once, asked) = (Once::remembering(Duration::from_secs(10)), AtomicU32::new(0));
        let ask = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(asked.fetch_add(1, Ordering::Relaxed))
        };
        let all = futures::future::join_all((0..1000).map(|_| once.get("a", ask))).await;
        assert!(all.into_iter().all(|answer| answer.unwrap() == 0));
        assert_eq!(once.get("b", ask).await.unwrap(), 1, "another question");
        assert_eq!(once.get("a", ask).await.unwrap(), 0);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(once.get("a", ask).await.unwrap(), 2, "too old");
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let once: Once<(), u32> = Once::remembering(Duration::from_secs(10));
        assert!(once.get((), || async { Err(Error::new(Kind::Unavailable, "ask")) }).await.is_err());
        assert_eq!(once.get((), || async { Ok(7) }).await.unwrap(), 7);
    }
}
