//! A Prometheus server, asked by instant queries.

use super::{Ask, Measure, MetricSource, Sample, endpoint::Endpoint};
use crate::{Result, seconds};
use async_trait::async_trait;
use prometheus_http_query::{Client, response::Data};
use std::time::Duration;

/// A metric that a Prometheus server works out.
///
/// A query must give one number: one series, or a scalar. Nothing, several and NaN are *no data*, not zero: write
/// `… or vector(0)` only where an absent series really means none. `$window` in a query is the rule's window:
/// `increase(http_requests_total[$window])`.
///
/// An instant query's answer is stamped with the moment of the query, however old the samples behind it are (the server
/// goes back five minutes). To see a service that is not scraped any more at once, give
/// [`with_age`](PrometheusQuery::with_age); it is worked out by the server too, so only the server's clock is in it.
///
/// ```
/// use rollback_core::metric::PrometheusQuery;
///
/// let server = "http://127.0.0.1:9090";
/// let errors = PrometheusQuery::ratio(
///     server,
///     r#"sum(increase(http_requests_total{job="checkout",code=~"5.."}[$window])) or vector(0)"#,
///     r#"sum(increase(http_requests_total{job="checkout"}[$window]))"#,
/// )?
/// .with_age(r#"time() - max(timestamp(up{job="checkout"}))"#);
/// let p95 = PrometheusQuery::value(
///     server,
///     "histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket[$window])))",
/// )?
/// .with_count("sum(increase(http_request_duration_seconds_count[$window]))");
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PrometheusQuery {
    server: Endpoint,
    take: Take,
    age: Option<String>,
}

#[derive(Clone, Debug)]
enum Take {
    Value { query: String, count: Option<String> },
    Ratio { bad: String, all: String },
}

impl PrometheusQuery {
    fn new(url: &str, take: Take) -> Result<Self> {
        Ok(Self { server: Endpoint::new(url)?, take, age: None })
    }
    /// A number by itself: a quantile, a gauge, a ratio that the query divides.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for what is not a URL.
    pub fn value(url: &str, query: impl Into<String>) -> Result<Self> {
        Self::new(url, Take::Value { query: query.into(), count: None })
    }
    /// How many were bad in the window, of how many: the rule then knows how many there were. Each query gives one series
    /// without labels, so that the server can divide them.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    pub fn ratio(url: &str, bad: impl Into<String>, all: impl Into<String>) -> Result<Self> {
        Self::new(url, Take::Ratio { bad: bad.into(), all: all.into() })
    }
    /// For a [`value`](Self::value): how many observations are behind it. Default: each sample counts as one.
    pub fn with_count(mut self, query: impl Into<String>) -> Self {
        if let Take::Value { count, .. } = &mut self.take {
            *count = Some(query.into());
        }
        self
    }
    /// How many seconds old the newest sample behind it is, by the server's own clock. Default: of now.
    pub fn with_age(mut self, query: impl Into<String>) -> Self {
        self.age = Some(query.into());
        self
    }

    /// One number.
    async fn ask(&self, client: &Client, query: &str, ask: Ask) -> Result<f64> {
        let query = query.replace("$window", &format!("{}s", ask.window.max(seconds(1)).as_secs()));
        let timeout = i64::try_from(ask.within.as_millis()).unwrap_or(i64::MAX).max(1);
        let answer = client.query(&query).timeout(timeout).get().await.map_err(|e| self.failed(&query, e))?;
        let number = match answer.data() {
            Data::Scalar(sample) => sample.value(),
            Data::Vector(vector) => match &vector[..] {
                [one] => one.sample().value(),
                [] => return Err(self.server.unusable(format!("{query}: nothing"))),
                all => return Err(self.server.unusable(format!("{query}: {} series, not one: sum them", all.len()))),
            },
            Data::Matrix(_) => return Err(self.server.unusable(format!("{query}: a range, not one number"))),
        };
        if number.is_finite() { Ok(number) } else { Err(self.server.unusable(format!("{query}: {number}"))) }
    }

    fn failed(&self, query: &str, error: prometheus_http_query::Error) -> crate::Error {
        use std::error::Error as _;
        match &error {
            prometheus_http_query::Error::Prometheus(e) => self.server.unusable(format!("{query}: {}", e.message())),
            // Its source may hold the address as it was given, so only what kind it is, and its own causes, are said.
            prometheus_http_query::Error::Client(e) => {
                let why = e.inner().map_or_else(String::new, |inner| {
                    let kind = if inner.is_connect() {
                        "no connection"
                    } else if inner.is_decode() {
                        "the answer is not a Prometheus server's"
                    } else {
                        "no answer"
                    };
                    inner.source().map_or_else(|| kind.to_owned(), |cause| format!("{kind}: {cause}"))
                });
                let unusable = self.server.unusable(format!("{query}: {e}: {why}"));
                crate::Error::new(crate::Kind::Unavailable, "read the metric")
                    .with_message(unusable.message())
                    .without_effect()
            }
            other => self.server.unusable(format!("{query}: {other}")),
        }
    }
}

#[async_trait]
impl MetricSource for PrometheusQuery {
    fn name(&self) -> String {
        match &self.take {
            Take::Value { query, .. } => format!("{query} at {}", self.server),
            Take::Ratio { bad, all } => format!("{bad} of {all} at {}", self.server),
        }
    }
    async fn read(&self, ask: Ask) -> Result<Vec<Sample>> {
        let client = Client::from(self.server.client.clone(), self.server.url.as_str())
            .map_err(|_| self.server.unusable("it cannot be the address of a server"))?;
        let age = match &self.age {
            Some(query) => self.ask(&client, query, ask).await?,
            None => 0.0,
        };
        let age = Duration::try_from_secs_f64(age.max(0.0)).unwrap_or(Duration::MAX);
        let measure = match &self.take {
            Take::Value { query, count } => {
                let of = match count {
                    Some(count) => Some(self.ask(&client, count, ask).await?),
                    None => None,
                };
                Measure::Value { value: self.ask(&client, query, ask).await?, of }
            }
            Take::Ratio { bad, all } => {
                // Divided by the server in one query: two would be of two moments, with a scrape in between.
                let value = self.ask(&client, &format!("({bad}) / ({all})"), ask).await?;
                Measure::value_of(value, self.ask(&client, all, ask).await?)
            }
        };
        Ok(vec![Sample::now(measure).with_age(age)])
    }
}
