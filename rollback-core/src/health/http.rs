//! Ask over HTTP.

use super::{
    Context, Health, HealthCheck,
    reach::{addresses, each, is_the_service, nowhere},
};
use crate::{Error, Finding, Kind, ReleaseId, Result, seconds};
use async_trait::async_trait;
use reqwest::{
    Client, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use std::{
    error::Error as StdError,
    fmt, io,
    ops::RangeInclusive,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// How much of an answer's body is read.
const BODY: usize = 64 << 10;
/// How much of a value from an answer is shown.
const SHOWN: usize = 100;

/// Healthy when a GET is answered as expected.
///
/// - Healthy: the answer has the expected status (2xx unless said otherwise), and all else that is expected of it.
/// - Unhealthy: any other answer; a refused or broken connection; no answer within the check's own time.
/// - Unknown: the name cannot be resolved, the network cannot be reached, the certificate is not trusted, TLS is not set up,
///   the target does not say where its parts are, or what is looked for may lie beyond the first 64 KiB of the body.
///
/// Every check makes a new connection, uses no proxy and follows no redirect. The user, the password and the query of the
/// URL appear nowhere in names, evidence and `Debug`; the body does not either.
///
/// ```
/// use rollback_core::{health::{HealthCheckExt, Http}, seconds};
/// let check = Http::get("http://127.0.0.1:8080/health")?
///     .expect_body_containing("\"status\":\"ok\"")
///     .expect_within(seconds(1))
///     .consecutive(3);
/// let version = Http::at_each_part("/version")?.version_at("/version");
/// assert!(Http::get("127.0.0.1:8080/health").is_err(), "the scheme is missing");
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Http {
    at: At,
    status: RangeInclusive<u16>,
    body: Vec<String>,
    answer_headers: Vec<(String, String)>,
    headers: HeaderMap,
    latency: Option<Duration>,
    version: Option<String>,
    version_of: Option<VersionOf>,
    timeout: Duration,
    redirects: usize,
    client: OnceLock<Result<Client, String>>,
}

type VersionOf = Arc<dyn Fn(&ReleaseId) -> String + Send + Sync>;

#[derive(Clone)]
enum At {
    Url(Url),
    EachPart { path: String },
}

impl Http {
    /// A GET of one URL.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for what is no HTTP URL; [`Kind::Unsupported`] for `https` without the feature `tls`.
    pub fn get(url: &str) -> Result<Self> {
        Ok(Self::new(At::Url(parse(url)?)))
    }
    /// A GET of this path at every address of the part that is asked about, or of all parts that serve. An address may bring
    /// its scheme along (`https://10.0.0.1:8443`); without one it is `http`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if it does not begin with a slash.
    pub fn at_each_part(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        if !path.starts_with('/') {
            return Err(invalid(format!("the path {:?} does not begin with a slash", redacted_text(&path))));
        }
        parse(&format!("http://127.0.0.1{path}"))?;
        Ok(Self::new(At::EachPart { path }))
    }
    fn new(at: At) -> Self {
        Self {
            at,
            status: 200..=299,
            body: vec![],
            answer_headers: vec![],
            headers: HeaderMap::new(),
            latency: None,
            version: None,
            version_of: None,
            timeout: seconds(5),
            redirects: 0,
            client: OnceLock::new(),
        }
    }
    /// The status must be one of these. Default: 200 to 299.
    pub fn expect_status(mut self, status: RangeInclusive<u16>) -> Self {
        self.status = status;
        self
    }
    /// The body must contain this.
    pub fn expect_body_containing(mut self, text: impl Into<String>) -> Self {
        self.body.push(text.into());
        self
    }
    /// The answer must have this header with just this value. Neither may be a secret.
    pub fn expect_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.answer_headers.push((name.into(), value.into()));
        self
    }
    /// The whole answer must be there within so long: a slower one is unhealthy.
    pub fn expect_within(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }
    /// At this JSON pointer the body must have the version of the release that is to be reached: its id, unless
    /// [`with_version_of`](Http::with_version_of) says another.
    pub fn version_at(mut self, pointer: impl Into<String>) -> Self {
        self.version = Some(pointer.into());
        self
    }
    /// What a release calls itself, where that is not its id.
    pub fn with_version_of(mut self, version: impl Fn(&ReleaseId) -> String + Send + Sync + 'static) -> Self {
        self.version_of = Some(Arc::new(version));
        self
    }
    /// Sends a header. Its value is shown nowhere.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a name or a value that HTTP does not allow.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self> {
        let name = HeaderName::try_from(name).map_err(|_| invalid(format!("{name:?} is no header name")))?;
        let value = HeaderValue::try_from(value).map_err(|_| invalid(format!("the value of {name} is not allowed")))?;
        self.headers.append(name, value);
        Ok(self)
    }
    /// How long the whole answer may take. Default: 5 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// Follows so many redirects. Default: none; a redirect is then an answer like any other.
    pub fn with_redirects(mut self, most: usize) -> Self {
        self.redirects = most;
        self.client = OnceLock::new();
        self
    }

    fn client(&self) -> Result<&Client, String> {
        let build = || {
            let redirects = match self.redirects {
                0 => reqwest::redirect::Policy::none(),
                n => reqwest::redirect::Policy::limited(n),
            };
            // No idle connections: a kept one would not notice that nobody accepts new ones.
            let client = Client::builder().no_proxy().redirect(redirects).pool_max_idle_per_host(0);
            client.build().map_err(|e| explain(&e.without_url()))
        };
        self.client.get_or_init(build).as_ref().map_err(Clone::clone)
    }

    async fn ask(&self, url: Url, context: &Context) -> Health {
        let what = format!("GET {}", redacted(&url));
        let client = match self.client() {
            Ok(client) => client,
            Err(e) => return Health::unknown(what, format!("the HTTP client cannot be set up: {e}")),
        };
        let began = Instant::now();
        let asked = async {
            let response = client.get(url).headers(self.headers.clone()).send().await?;
            Answer::read(response).await
        };
        match timeout(self.timeout, asked).await {
            Ok(Ok(answer)) => self.judge(what, &answer, began.elapsed(), context),
            Ok(Err(e)) => {
                let e = e.without_url();
                let seen = explain(&e);
                if broke(&e) { Health::unhealthy(what, seen) } else { Health::unknown(what, seen) }
            }
            Err(_) => Health::unhealthy(what, format!("no answer within {:?}", self.timeout)),
        }
    }

    fn judge(&self, what: String, answer: &Answer, took: Duration, context: &Context) -> Health {
        let (mut wrong, mut unclear) = (vec![], vec![]);
        if !self.status.contains(&answer.status) {
            wrong.push(format!("expected {}", range(&self.status)));
        }
        for (name, value) in &self.answer_headers {
            let has = answer.headers.get_all(name.as_str()).iter().any(|has| has.as_bytes() == value.as_bytes());
            if !has {
                wrong.push(format!("expected the header {name}: {value}"));
            }
        }
        if let Some(latency) = self.latency.filter(|latency| took > *latency) {
            wrong.push(format!("expected within {latency:?}"));
        }
        for text in &self.body {
            if !answer.text.contains(text.as_str()) {
                let to = if answer.cut { &mut unclear } else { &mut wrong };
                to.push(format!("the body does not contain {text:?}{}", answer.as_far()));
            }
        }
        if let Some(pointer) = &self.version {
            let wanted = self.version_of.as_ref().map_or_else(|| context.wanted.to_string(), |of| of(&context.wanted));
            match serde_json::from_str::<serde_json::Value>(&answer.text) {
                Ok(body) => match body.pointer(pointer).map(plain) {
                    Some(version) if version == wanted => {}
                    Some(version) => wrong.push(format!("version {} is not {wanted}", shown(&version))),
                    None => wrong.push(format!("the body has nothing at {pointer:?}")),
                },
                Err(_) if answer.cut => unclear.push(format!("the version is not to be read{}", answer.as_far())),
                Err(_) => wrong.push("the body is not JSON, so it has no version".into()),
            }
        }
        let mut seen = format!("{} in {} ms", answer.status, took.as_millis());
        for line in wrong.iter().chain(&unclear) {
            seen = format!("{seen}; {line}");
        }
        match (wrong.is_empty(), unclear.is_empty()) {
            (true, true) => Health::healthy(what, seen),
            (true, false) => Health::unknown(what, seen),
            (false, _) => Health::unhealthy(what, seen),
        }
    }
}

/// As much of an answer as is looked at.
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
    cut: bool,
}

impl Answer {
    async fn read(mut response: Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = vec![];
        while body.len() <= BODY {
            match response.chunk().await? {
                Some(chunk) => body.extend_from_slice(&chunk),
                None => break,
            }
        }
        let cut = body.len() > BODY;
        body.truncate(BODY);
        Ok(Self { status, headers, text: String::from_utf8_lossy(&body).into_owned(), cut })
    }
    fn as_far(&self) -> &'static str {
        if self.cut { " (only 64 KiB of it were read)" } else { "" }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "make an HTTP check").with_message(message).without_effect()
}

fn parse(text: &str) -> Result<Url> {
    let shown = redacted_text(text);
    let url = Url::parse(text)
        .map_err(|e| invalid(format!("{shown:?} is no URL, such as http://127.0.0.1:8080/health: {e}")))?;
    match url.scheme() {
        "http" => {}
        "https" if cfg!(feature = "tls") => {}
        "https" => {
            return Err(Error::new(Kind::Unsupported, "make an HTTP check")
                .with_message(format!("{shown:?} needs the feature `tls` of rollback-core"))
                .without_effect());
        }
        other => return Err(invalid(format!("{shown:?} is {other}, not http or https"))),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(invalid(format!("{shown:?} names no host")));
    }
    Ok(url)
}

/// A URL without user, password, query and fragment.
fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // They fail only for URLs without a host, which have nothing to hide there.
    let hidden = !url.username().is_empty() || url.password().is_some();
    let _ = shown.set_password(None);
    let _ = shown.set_username(if hidden { "…" } else { "" });
    shown.set_query(None);
    shown.set_fragment(None);
    let shown = shown.to_string().replace("%E2%80%A6@", "…@");
    if url.query().is_some() { format!("{shown}?…") } else { shown }
}

/// The same for a text that may be no URL at all.
fn redacted_text(text: &str) -> String {
    let (front, rest) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let front = match front.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => front.to_string(),
    };
    if rest.is_empty() { front } else { format!("{front}?…") }
}

fn range(status: &RangeInclusive<u16>) -> String {
    if status.start() == status.end() {
        status.start().to_string()
    } else {
        format!("{} to {}", status.start(), status.end())
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// The error with all its causes; reqwest's own text says only that something failed.
fn explain(e: &reqwest::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}

/// The service broke it off, or what came is no HTTP; as against never having come to it.
fn broke(e: &reqwest::Error) -> bool {
    if e.is_builder() {
        return false;
    }
    let mut cause: Option<&(dyn StdError + 'static)> = e.source();
    while let Some(c) = cause {
        if let Some(io) = c.downcast_ref::<io::Error>() {
            return is_the_service(io);
        }
        cause = c.source();
    }
    !e.is_connect()
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("name", &self.name())
            .field("status", &self.status)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl HealthCheck for Http {
    fn name(&self) -> String {
        match &self.at {
            At::Url(url) => format!("GET {}", redacted(url)),
            At::EachPart { path } => format!("GET {} at each part", redacted_text(path)),
        }
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        let path = match &self.at {
            At::Url(url) => return Ok(self.ask(url.clone(), context).await),
            At::EachPart { path } => path,
        };
        let name = self.name();
        let all = match addresses(context, &name) {
            Ok(all) => all,
            Err(unknown) => return Ok(unknown),
        };
        let ask = |address: String| async move {
            let base = address.trim_end_matches('/');
            let scheme = if base.contains("://") { "" } else { "http://" };
            match parse(&format!("{scheme}{base}{path}")) {
                Ok(url) => self.ask(url, context).await,
                Err(e) => Health::unknown(self.name(), e.message()),
            }
        };
        Ok(each(&name, all, ask).await)
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        Ok(if let At::EachPart { .. } = &self.at { nowhere(context, &self.name()) } else { vec![] })
    }
}

#[cfg(test)]
mod tests;
