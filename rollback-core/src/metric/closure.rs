//! A closure as a source.

use super::{Ask, Measure, MetricSource, Sample};
use crate::Result;
use async_trait::async_trait;
use std::{fmt, future::Future, pin::Pin};

type Read = dyn Fn() -> Pin<Box<dyn Future<Output = Result<Measure>> + Send>> + Send + Sync;

/// A metric that a closure reads: counters of this process, a query of your own.
///
/// ```
/// use rollback_core::metric::{Measure, Metric};
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering::Relaxed}};
///
/// let (failed, served) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
/// let errors = Metric::with("errors", move || {
///     let measure = Measure::counts(failed.load(Relaxed), served.load(Relaxed));
///     async move { Ok(measure) }
/// });
/// let depth = Metric::with("queue depth", || async { Ok(17.0) });
/// ```
pub struct Metric {
    name: String,
    read: Box<Read>,
}

impl Metric {
    /// Under this name. An error of the closure is *no data*. It is read now, so its samples have no age; it should end
    /// within the time that the watch gives it, and be cancel safe.
    pub fn with<F, Fut, M>(name: impl Into<String>, read: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<M>> + Send + 'static,
        M: Into<Measure>,
    {
        let read = move || {
            let reading = read();
            Box::pin(async move { reading.await.map(Into::into) }) as Pin<Box<dyn Future<Output = _> + Send>>
        };
        Self { name: name.into(), read: Box::new(read) }
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metric").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl MetricSource for Metric {
    fn name(&self) -> String {
        self.name.clone()
    }
    async fn read(&self, _: Ask) -> Result<Vec<Sample>> {
        Ok(vec![Sample::now((self.read)().await?)])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Error, Kind, metric::Reading, seconds};

    #[tokio::test(start_paused = true)]
    async fn an_error_and_a_hang_are_no_data() {
        let ask = Ask::over(seconds(60)).with_within(seconds(3));
        let fails = Metric::with("m", || async { Err::<f64, _>(Error::new(Kind::Unavailable, "read the queue")) });
        let reading = Reading::ask(&fails, ask, seconds(5)).await;
        assert!(reading.samples.is_empty());
        assert!(reading.failed.unwrap().contains("could not read the queue"));

        let hangs = Metric::with("m", || async {
            std::future::pending::<()>().await;
            Ok(0.0)
        });
        let began = tokio::time::Instant::now();
        let reading = Reading::ask(&hangs, ask, seconds(5)).await;
        assert!(reading.failed.unwrap().contains("within 3s"));
        assert_eq!(began.elapsed(), seconds(3));
    }
}
