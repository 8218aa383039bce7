//! Prometheus' text page, scraped from the service itself: no Prometheus server needed.

use super::{Ask, Measure, MetricSource, Sample, endpoint::Endpoint};
use crate::Result;
use async_trait::async_trait;
use prometheus_parse::{HistogramCount, Scrape, Value};
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

/// Which series of a page: a name, and what their labels must be.
///
/// ```
/// use rollback_core::metric::Series;
/// let failed = Series::named("http_requests_total").with("job", "checkout").starting("code", "5");
/// assert_eq!(failed.to_string(), r#"http_requests_total{job="checkout",code=~"5.*"}"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    name: String,
    labels: Vec<(String, LabelIs)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelIs {
    Equal(String),
    Not(String),
    Starting(String),
}

impl Series {
    /// All series of this name. Of a histogram: its name without `_bucket`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), labels: vec![] }
    }
    /// Whose label is this.
    pub fn with(self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.whose(label, LabelIs::Equal(value.into()))
    }
    /// Whose label is not this.
    pub fn without(self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.whose(label, LabelIs::Not(value.into()))
    }
    /// Whose label starts with this: `5` for every code from 500 to 599.
    pub fn starting(self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.whose(label, LabelIs::Starting(value.into()))
    }
    fn whose(mut self, label: impl Into<String>, is: LabelIs) -> Self {
        self.labels.push((label.into(), is));
        self
    }
    fn takes(&self, sample: &prometheus_parse::Sample) -> bool {
        let labels_match = || {
            self.labels.iter().all(|(label, is)| {
                let has = sample.labels.get(label).unwrap_or("");
                match is {
                    LabelIs::Equal(value) => has == protected(value),
                    LabelIs::Not(value) => has != protected(value),
                    LabelIs::Starting(value) => has.starts_with(&protected(value)),
                }
            })
        };
        sample.metric == self.name && labels_match()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (i, (label, is)) in self.labels.iter().enumerate() {
            f.write_str(if i == 0 { "{" } else { "," })?;
            match is {
                LabelIs::Equal(value) => write!(f, "{label}={value:?}")?,
                LabelIs::Not(value) => write!(f, "{label}!={value:?}")?,
                LabelIs::Starting(value) => write!(f, "{label}=~\"{value}.*\"")?,
            }
        }
        if self.labels.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}

#[derive(Clone, Debug)]
enum Take {
    Ratio { bad: Series, all: Series },
    Value(Series),
    Rate(Series),
    Quantile(f64, Series),
    Slower(f64, Series),
}

/// A metric of a page in Prometheus' text format, such as a service's own `/metrics`.
///
/// Scrape *one process*: behind a load balancer every answer is another one's, and its counters seem to begin again. A page
/// is at most 16 MiB. Stamps on a page count only where the answer has a `Date` of the same clock to compare with; else
/// the page is of now. Userinfo and query of the address are sent, and never shown.
///
/// ```
/// use rollback_core::metric::{PrometheusText, Series};
///
/// let page = "http://127.0.0.1:8080/metrics";
/// let requests = Series::named("http_requests_total").with("service", "checkout");
/// let errors = PrometheusText::ratio(page, requests.clone().starting("code", "5"), requests)?;
/// let p95 = PrometheusText::quantile(page, 0.95, Series::named("http_request_duration_seconds"))?;
/// let slow = PrometheusText::slower_than(page, 0.5, Series::named("http_request_duration_seconds"))?;
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PrometheusText {
    page: Endpoint,
    take: Take,
}

const MOST_BYTES: usize = 16 << 20;

impl PrometheusText {
    fn new(url: &str, take: Take) -> Result<Self> {
        let page = Endpoint::new(url)?;
        let named = match &take {
            Take::Ratio { bad, all } => vec![bad, all],
            Take::Value(s) | Take::Rate(s) | Take::Quantile(_, s) | Take::Slower(_, s) => vec![s],
        };
        let good = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if let Some(odd) = named.iter().find(|series| !good(&series.name)) {
            return Err(page.unusable(format!("{:?} is no name of a metric on a page: letters, digits, _", odd.name)));
        }
        if let Take::Quantile(q, _) = take
            && !(0.0..=1.0).contains(&q)
        {
            return Err(page.unusable(format!("quantile {q} is not between 0 and 1")));
        }
        Ok(Self { page, take })
    }
    /// Counters: how many were bad, of how many. The bad ones may be among all of them or be a metric of their own. Where
    /// they are among all and none is there yet, there were none, if the labels that tell them are on the page at all.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for what is not a URL, or no name of a metric.
    pub fn ratio(url: &str, bad: Series, all: Series) -> Result<Self> {
        Self::new(url, Take::Ratio { bad, all })
    }
    /// Gauges, summed.
    ///
    /// # Errors
    /// As [`ratio`](Self::ratio).
    pub fn value(url: &str, series: Series) -> Result<Self> {
        Self::new(url, Take::Value(series))
    }
    /// Counters: their increase per second, summed.
    ///
    /// # Errors
    /// As [`ratio`](Self::ratio).
    pub fn rate(url: &str, series: Series) -> Result<Self> {
        Self::new(url, Take::Rate(series))
    }
    /// A histogram's quantile over the window: 0.95. See [`Measure::Buckets`] for what the buckets' edges do to it.
    ///
    /// # Errors
    /// As [`ratio`](Self::ratio), and for a quantile that is not between 0 and 1.
    pub fn quantile(url: &str, quantile: f64, histogram: Series) -> Result<Self> {
        Self::new(url, Take::Quantile(quantile, histogram))
    }
    /// A histogram's share above `edge`, which must be the edge of one of its buckets: exact, where a quantile is
    /// interpolated.
    ///
    /// # Errors
    /// As [`ratio`](Self::ratio).
    pub fn slower_than(url: &str, edge: f64, histogram: Series) -> Result<Self> {
        Self::new(url, Take::Slower(edge, histogram))
    }

    async fn scrape(&self) -> Result<(String, Option<i64>)> {
        let failed = |e| self.page.failed(e);
        let mut answer = self.page.client.get(self.page.url.clone()).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(self.page.unusable(format!("it answered {}", answer.status())));
        }
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok()).and_then(|date| {
            let sent = httpdate::parse_http_date(date).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            i64::try_from(sent.as_millis()).ok()
        });
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return Err(self.page.unusable(format!("the page is longer than {MOST_BYTES} bytes")));
            }
        }
        let text = String::from_utf8(body).map_err(|_| self.page.unusable("the page is not UTF-8"))?;
        Ok((text, date))
    }

    fn samples(&self, text: &str, date: Option<i64>) -> Result<Vec<Sample>> {
        // Lines without a stamp get this moment, before all others, and are told by it.
        let unstamped = SystemTime::UNIX_EPOCH;
        let lines = text.lines().map(|line| Ok(protect(line)));
        let scrape = Scrape::parse_at(lines, unstamped.into()).map_err(|e| self.page.unusable(e))?;
        let age = |sample: &prometheus_parse::Sample| match (date, sample.timestamp.timestamp_millis()) {
            (Some(date), at) if at != 0 => Duration::from_millis(u64::try_from(date - at).unwrap_or(0)),
            _ => Duration::ZERO,
        };
        let of = |series: &Series| {
            let found: Vec<_> = scrape.samples.iter().filter(|s| series.takes(s)).collect();
            if found.is_empty() { Err(self.page.unusable(format!("no {series} on the page"))) } else { Ok(found) }
        };
        let number = |sample: &prometheus_parse::Sample| match sample.value {
            Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n) => Ok(n),
            Value::Histogram(_) | Value::Summary(_) => {
                Err(self.page.unusable(format!("{} is a histogram or a summary, not a number", sample.metric)))
            }
        };
        let sample = |of: &prometheus_parse::Sample, measure| {
            let series = format!("{}{{{}}}", of.metric, of.labels);
            Sample::now(measure).with_series(series).with_age(age(of))
        };
        match &self.take {
            Take::Ratio { bad, all } => {
                let all_of = of(all)?;
                let same = bad.name == all.name;
                let bad_of = match of(bad) {
                    // None failed yet, if what tells a failed one is on the page at all.
                    Err(_) if same && told_by_labels(bad, &all_of) => vec![],
                    found => found?,
                };
                let is_bad = |s: &prometheus_parse::Sample| bad_of.iter().any(|b| std::ptr::eq(*b, s));
                let is_all = |s: &prometheus_parse::Sample| all_of.iter().any(|a| std::ptr::eq(*a, s));
                if let (true, Some(stray)) = (same, bad_of.iter().find(|s| !is_all(s))) {
                    return Err(self.page.unusable(format!("{} counts as bad, but not among all", stray.labels)));
                }
                let mut samples = vec![];
                for s in scrape.samples.iter().filter(|s| is_bad(s) || is_all(s)) {
                    let n = number(s)?;
                    let share = |counts| if counts { n } else { 0.0 };
                    samples.push(sample(s, Measure::Counts { bad: share(is_bad(s)), all: share(is_all(s)) }));
                }
                Ok(samples)
            }
            Take::Value(series) => {
                let found = of(series)?;
                let sum = found.iter().map(|s| number(s)).sum::<Result<f64>>()?;
                let oldest = found.iter().map(|s| age(s)).max().unwrap_or_default();
                Ok(vec![Sample::now(sum).with_age(oldest)])
            }
            Take::Rate(series) => of(series)?.into_iter().map(|s| Ok(sample(s, Measure::Total(number(s)?)))).collect(),
            Take::Quantile(quantile, series) => of(series)?
                .into_iter()
                .map(|s| {
                    let (buckets, all) = self.buckets(s)?;
                    Ok(sample(s, Measure::Buckets { quantile: *quantile, buckets, all }))
                })
                .collect(),
            Take::Slower(edge, series) => of(series)?
                .into_iter()
                .map(|s| {
                    let (buckets, all) = self.buckets(s)?;
                    let Some((_, fast)) = buckets.iter().find(|(e, _)| e == edge) else {
                        let edges: Vec<_> = buckets.iter().map(|(e, _)| e).collect();
                        return Err(self.page.unusable(format!("{series} has no bucket edge {edge}, but {edges:?}")));
                    };
                    Ok(sample(s, Measure::Counts { bad: (all - fast).max(0.0), all }))
                })
                .collect(),
        }
    }

    fn buckets(&self, sample: &prometheus_parse::Sample) -> Result<(Vec<(f64, f64)>, f64)> {
        let Value::Histogram(counts) = &sample.value else {
            return Err(self.page.unusable(format!("{} is not a histogram", sample.metric)));
        };
        let mut edges: Vec<_> = counts.iter().map(|HistogramCount { less_than, count }| (*less_than, *count)).collect();
        edges.sort_by(|a, b| a.0.total_cmp(&b.0));
        match edges.pop() {
            Some((edge, all)) if edge == f64::INFINITY => Ok((edges, all)),
            _ => Err(self.page.unusable(format!("{} has no bucket +Inf: half a page?", sample.metric))),
        }
    }
}

/// Every label that tells the bad ones is on some series of all.
fn told_by_labels(bad: &Series, all: &[&prometheus_parse::Sample]) -> bool {
    bad.labels.iter().all(|(label, _)| all.iter().any(|s| s.labels.get(label).is_some()))
}

/// The parser splits labels at every comma, equals sign and brace, inside quotes too. So those are replaced there, on the
/// page and in what is looked for alike, by characters that nobody uses; blanks outside of quotes go.
fn protect(line: &str) -> String {
    if line.trim_start().starts_with('#') {
        return line.to_owned();
    }
    let (mut out, mut quoted, mut inside, mut escaped) = (String::with_capacity(line.len()), false, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                escaped = false;
                match c {
                    'n' => out.push('\u{e005}'),
                    other => push_protected(&mut out, other),
                }
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                out.push(c);
            }
            c if quoted => push_protected(&mut out, c),
            '{' | '}' => {
                inside = c == '{';
                out.push(c);
            }
            ' ' | '\t' if inside => {}
            c => out.push(c),
        }
    }
    out
}

fn push_protected(out: &mut String, c: char) {
    out.push(match c {
        ',' => '\u{e000}',
        '=' => '\u{e001}',
        '{' => '\u{e002}',
        '}' => '\u{e003}',
        '"' => '\u{e004}',
        '\n' => '\u{e005}',
        other => other,
    });
}

fn protected(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    value.chars().for_each(|c| push_protected(&mut out, c));
    out
}

#[async_trait]
impl MetricSource for PrometheusText {
    fn name(&self) -> String {
        let what = match &self.take {
            Take::Ratio { bad, all } => format!("{bad} of {all}"),
            Take::Value(series) => series.to_string(),
            Take::Rate(series) => format!("rate of {series}"),
            Take::Quantile(q, series) => format!("quantile {q} of {series}"),
            Take::Slower(edge, series) => format!("{series} above {edge}"),
        };
        format!("{what} at {}", self.page)
    }
    async fn read(&self, _: Ask) -> Result<Vec<Sample>> {
        let (text, date) = self.scrape().await?;
        let samples = self.samples(&text, date)?;
        // The same series twice on a page is the exporter's fault; the last one would win in silence.
        let mut names = BTreeMap::new();
        match samples.iter().find(|s| names.insert(&s.series, ()).is_some()) {
            Some(twice) => Err(self.page.unusable(format!("{} is on the page twice", twice.series))),
            None => Ok(samples),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::seconds;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const PAGE: &str = r#"# HELP http_requests_total All.
# TYPE http_requests_total counter
http_requests_total{code="200",path="/a,b={c}"} 90
http_requests_total{code="200", path="/b"} 5
http_requests_total{code="503",path="/b"} 5
# TYPE queue gauge
queue 4
queue{shard="2"} 3
# TYPE latency_seconds histogram
latency_seconds_bucket{route="/",le="0.1"} 10
latency_seconds_bucket{route="/",le="0.5"} 18
latency_seconds_bucket{route="/",le="+Inf"} 20
latency_seconds_sum{route="/"} 4.5
latency_seconds_count{route="/"} 20
odd NaN
"#;

    /// Serves one answer to every connection, and hands back what the last one asked.
    async fn serve(answer: String) -> (String, tokio::sync::watch::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (asked, asked_rx) = tokio::sync::watch::channel(String::new());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![];
                let mut buffer = [0; 1024];
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                        _ => break,
                    }
                }
                let _ = asked.send(String::from_utf8_lossy(&request).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (at.to_string(), asked_rx)
    }
    fn ok(body: &str, more: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n{body}", body.len())
    }
    fn ask() -> Ask {
        Ask::over(seconds(60))
    }
    fn requests() -> Series {
        Series::named("http_requests_total")
    }
    fn source(take: Take) -> PrometheusText {
        PrometheusText::new("http://127.0.0.1:1/metrics", take).unwrap()
    }
    fn sum(samples: &[Sample]) -> (f64, f64) {
        samples.iter().fold((0.0, 0.0), |sum, s| match s.measure {
            Measure::Counts { bad, all } => (sum.0 + bad, sum.1 + all),
            _ => panic!("{s:?}"),
        })
    }

    #[tokio::test]
    async fn a_real_scrape_over_http() {
        let (at, asked) = serve(ok(PAGE, "")).await;
        let url = format!("http://scraper:hunter2@{at}/metrics?token=abc");
        let source = PrometheusText::ratio(&url, requests().starting("code", "5"), requests()).unwrap();
        assert_eq!(sum(&source.read(ask()).await.unwrap()), (5.0, 100.0));
        let request = asked.borrow().to_lowercase();
        assert!(request.starts_with("get /metrics?token=abc "), "{request}");
        assert!(request.contains("authorization: basic "), "the password is sent");
        for shown in [source.name(), format!("{source:?}")] {
            assert!(!shown.contains("hunter2") && !shown.contains("abc") && shown.contains(&at), "{shown}");
        }
    }

    #[tokio::test]
    async fn failures_are_errors_without_secrets() {
        let gone = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let (down, _) = serve("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into()).await;
        let (nonsense, _) = serve(ok("<html>not a metric</html>", "")).await;
        for (at, says) in [(gone.to_string(), "could not"), (down, "503"), (nonsense, "no http_requests_total")] {
            let source = PrometheusText::value(&format!("http://u:hunter2@{at}/m"), requests()).unwrap();
            let error = source.read(ask()).await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains(says) && !text.contains("hunter2"), "{text}");
        }
        for url in ["nonsense", "ftp://host/x", "http://"] {
            assert_eq!(PrometheusText::value(url, requests()).unwrap_err().kind(), crate::Kind::Invalid);
        }
        assert!(PrometheusText::value("http://h/", Series::named("a{b}")).is_err());
    }

    #[tokio::test]
    async fn a_stamp_is_compared_with_the_date_of_the_same_answer_only() {
        // Stamped one minute before the Date, years from this host's clock.
        let page = "# TYPE queue gauge\nqueue 4 946684740000\n";
        let (dated, _) = serve(ok(page, "date: Sat, 01 Jan 2000 00:00:00 GMT\r\n")).await;
        let (undated, _) = serve(ok(page, "")).await;
        for (at, age) in [(dated, seconds(60)), (undated, Duration::ZERO)] {
            let source = PrometheusText::value(&format!("http://{at}/"), Series::named("queue")).unwrap();
            assert_eq!(source.read(ask()).await.unwrap()[0].age, age);
        }
    }

    #[test]
    fn labels_with_commas_and_braces_are_told_apart() {
        let odd = source(Take::Rate(requests().with("path", "/a,b={c}"))).samples(PAGE, None).unwrap();
        assert_eq!(odd.len(), 1);
        assert_eq!(odd[0].measure, Measure::Total(90.0));
        let b = source(Take::Rate(requests().with("path", "/b").without("code", "503"))).samples(PAGE, None).unwrap();
        assert_eq!(b[0].measure, Measure::Total(5.0));
        let quoted = r#"m{p="say \"hi\", {you}\\"} 1"#;
        let take = Take::Rate(Series::named("m").with("p", r#"say "hi", {you}\"#));
        assert_eq!(source(take).samples(quoted, None).unwrap()[0].measure, Measure::Total(1.0));
    }

    #[test]
    fn none_failed_yet_is_told_from_a_label_that_does_not_exist() {
        let none_yet = Take::Ratio { bad: requests().with("code", "500"), all: requests() };
        assert_eq!(sum(&source(none_yet).samples(PAGE, None).unwrap()), (0.0, 100.0));
        let typo = Take::Ratio { bad: requests().with("cod", "500"), all: requests() };
        assert!(source(typo).samples(PAGE, None).is_err());
        let other = Take::Ratio { bad: Series::named("errors_total"), all: requests() };
        assert!(source(other).samples(PAGE, None).is_err(), "a metric that is not there says nothing");
        let stray = Take::Ratio { bad: requests().with("code", "503"), all: requests().with("code", "200") };
        assert!(source(stray).samples(PAGE, None).is_err());
    }

    #[test]
    fn gauges_are_summed_and_what_is_no_number_is_said() {
        let queue = source(Take::Value(Series::named("queue"))).samples(PAGE, None).unwrap();
        assert_eq!(queue[0].measure, Measure::value(7.0));
        assert!(source(Take::Value(Series::named("latency_seconds"))).samples(PAGE, None).is_err());
        let nan = source(Take::Value(Series::named("odd"))).samples(PAGE, None).unwrap();
        let mut kept = super::super::Samples::default();
        assert!(kept.take(0, &super::super::Reading::of(Duration::ZERO, nan)).is_err());
    }

    #[test]
    fn histograms_give_quantiles_and_shares_above_an_edge() {
        let latency = || Series::named("latency_seconds");
        let quantile = source(Take::Quantile(0.95, latency())).samples(PAGE, None).unwrap();
        let buckets = vec![(0.1, 10.0), (0.5, 18.0)];
        assert_eq!(quantile[0].measure, Measure::Buckets { quantile: 0.95, buckets, all: 20.0 });
        assert_eq!(sum(&source(Take::Slower(0.5, latency())).samples(PAGE, None).unwrap()), (2.0, 20.0));
        let error = source(Take::Slower(0.3, latency())).samples(PAGE, None).unwrap_err();
        assert!(error.message().contains("0.1, 0.5"), "{error}");
        assert!(PrometheusText::quantile("http://h/", 95.0, latency()).is_err());
    }
}
