//! A steady load over HTTP, that remembers every answer: how many failed, which version answered until when.
//!
//! So many requests a second are begun whether or not earlier ones were answered. New and kept-alive connections are loads
//! of their own, because a rollback treats them differently.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    client::conn::http1::SendRequest,
    header::{CONNECTION, HOST},
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpSocket,
    sync::{Mutex as AsyncMutex, oneshot},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

/// A connection that is kept alive, while there is one.
type Kept = Arc<AsyncMutex<Option<SendRequest<Empty<Bytes>>>>>;

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was sent.
    pub sent: Instant,
    /// When the answer was complete, or when it failed.
    pub at: Instant,
    /// Who answered: the header `X-Version`.
    pub version: Option<String>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Why there is no answer.
    pub error: Option<String>,
}

impl Answer {
    /// No answer, or one that is none of 2xx.
    pub fn failed(&self) -> bool {
        !self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// A load to be started: 200 requests a second, each on a connection of its own.
#[derive(Debug, Clone)]
#[must_use]
pub struct Load {
    to: SocketAddr,
    path: String,
    rate: u32,
    kept_alive: usize,
    within: Duration,
    source: Option<Ipv4Addr>,
}

impl Load {
    /// A load on this address.
    pub fn on(to: impl Into<SocketAddr>) -> Self {
        let (to, path) = (to.into(), "/".to_owned());
        Self { to, path, rate: 200, kept_alive: 0, within: Duration::from_secs(5), source: None }
    }

    /// Asks for this path instead of `/`.
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// So many requests a second.
    pub fn rate(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    /// So many connections are kept and take turns, instead of one for each request. One that breaks is made anew.
    pub fn kept_alive(mut self, connections: usize) -> Self {
        self.kept_alive = connections;
        self
    }

    /// A request without an answer after that time has failed; 5 s unless told.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// From this address, one of the machine's own.
    pub fn from(mut self, source: Ipv4Addr) -> Self {
        self.source = Some(source);
        self
    }

    /// Starts it, in the background of the current runtime.
    pub fn start(self) -> Running {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (stop, mut stopped) = oneshot::channel::<()>();
        let collected = Arc::clone(&answers);
        let task = tokio::spawn(async move {
            let kept: Vec<_> = (0..self.kept_alive).map(|_| Arc::new(AsyncMutex::new(None))).collect();
            let mut turn = 0;
            let mut ticks = interval(Duration::from_secs(1) / self.rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut requests = JoinSet::new();
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    _ = ticks.tick() => {}
                    Some(_) = requests.join_next(), if !requests.is_empty() => continue,
                }
                let connection = (!kept.is_empty()).then(|| Arc::clone(&kept[turn % kept.len()]));
                turn += 1;
                let (load, collected) = (self.clone(), Arc::clone(&collected));
                requests.spawn(async move {
                    let answer = load.request(connection).await;
                    collected.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(answer);
                });
            }
            while requests.join_next().await.is_some() {}
        });
        Running { answers, stop: Some(stop), task }
    }

    async fn request(&self, kept: Option<Kept>) -> Answer {
        let mut sent = Instant::now();
        let mut answer = Answer { sent, at: sent, version: None, status: None, error: None };
        let outcome = timeout(self.within, async {
            match kept {
                None => self.ask(&mut self.connect().await?, true).await,
                Some(connection) => {
                    // Its turn is waited for: that time is the connection's, not the server's.
                    let mut connection = connection.lock().await;
                    sent = Instant::now();
                    let usable = match connection.as_mut() {
                        Some(open) => open.ready().await.is_ok(),
                        None => false,
                    };
                    if !usable {
                        *connection = Some(self.connect().await?);
                    }
                    let Some(open) = connection.as_mut() else { return Err("no connection".to_owned()) };
                    let outcome = self.ask(open, false).await;
                    if outcome.is_err() {
                        *connection = None;
                    }
                    outcome
                }
            }
        })
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.within)));
        (answer.sent, answer.at) = (sent, Instant::now());
        match outcome {
            Ok((status, version)) => (answer.status, answer.version) = (Some(status), version),
            Err(error) => answer.error = Some(error),
        }
        answer
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let said = |error: std::io::Error| format!("connect: {error}");
        let socket = if self.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(said)?;
        if let Some(source) = self.source {
            socket.bind((source, 0).into()).map_err(said)?;
        }
        let stream = socket.connect(self.to).await.map_err(said)?;
        stream.set_nodelay(true).map_err(said)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn ask(&self, on: &mut SendRequest<Empty<Bytes>>, close: bool) -> Result<(u16, Option<String>), String> {
        let mut request = Request::get(&self.path).header(HOST, self.to.to_string());
        if close {
            request = request.header(CONNECTION, "close");
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let answer = on.send_request(request).await.map_err(|error| format!("request: {error}"))?;
        let version = answer.headers().get("x-version").and_then(|version| version.to_str().ok()).map(str::to_owned);
        let status = answer.status().as_u16();
        answer.into_body().collect().await.map_err(|error| format!("answer: {error}"))?;
        Ok((status, version))
    }
}

/// A load that goes on until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    answers: Arc<Mutex<Vec<Answer>>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    /// What came in so far.
    pub fn so_far(&self) -> Answers {
        Answers(self.answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone())
    }

    /// Begins no more requests, waits for those under way, and gives all answers.
    pub async fn stop(mut self) -> Answers {
        drop(self.stop.take());
        let _ = (&mut self.task).await;
        let mut all = self.so_far();
        all.0.sort_by_key(|answer| answer.at);
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answers to a load.
#[derive(Debug, Clone)]
pub struct Answers(pub Vec<Answer>);

/// The same in numbers; as JSON on a line that begins with `measured:`, `.ci/run` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// How many requests were begun.
    pub requests: usize,
    /// How many got no answer, or one that is none of 2xx.
    pub failed: usize,
    /// Answers by who gave them.
    pub versions: BTreeMap<String, usize>,
    /// Failures by what was said.
    pub failures: BTreeMap<String, usize>,
}

impl Answers {
    /// Of requests that were sent at or after this moment.
    pub fn sent_since(&self, moment: Instant) -> Self {
        Self(self.0.iter().filter(|answer| answer.sent >= moment).cloned().collect())
    }

    /// Those that failed.
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|answer| answer.failed()).count()
    }

    /// How many this version gave.
    pub fn of(&self, version: &str) -> usize {
        self.0.iter().filter(|answer| answer.version.as_deref() == Some(version)).count()
    }

    /// When this version gave its last one.
    pub fn last_of(&self, version: &str) -> Option<Instant> {
        self.0.iter().filter(|answer| answer.version.as_deref() == Some(version)).map(|answer| answer.at).max()
    }

    /// In numbers.
    pub fn summary(&self) -> Summary {
        let (mut versions, mut failures) = (BTreeMap::new(), BTreeMap::new());
        for answer in &self.0 {
            if let Some(version) = &answer.version {
                *versions.entry(version.clone()).or_default() += 1;
            }
            if answer.failed() {
                let said = match (&answer.error, answer.status) {
                    (Some(error), _) => error.clone(),
                    (None, Some(status)) => format!("status {status}"),
                    (None, None) => String::new(),
                };
                *failures.entry(said).or_default() += 1;
            }
        }
        Summary { requests: self.0.len(), failed: self.failed(), versions, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http::StatusCode, routing::get};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::net::TcpListener;

    /// A server that answers every fourth request 500.
    async fn server() -> SocketAddr {
        let counted = Arc::new(AtomicUsize::new(0));
        let answer = move || {
            let failed = counted.fetch_add(1, Relaxed) % 4 == 3;
            let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
            async move { (status, [("x-version", "v1")], "v1") }
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(answer))).await });
        address
    }

    #[tokio::test]
    async fn a_quarter_fails_on_new_and_on_kept_connections() {
        for kept in [0, 3] {
            let load = Load::on(server().await).rate(500).kept_alive(kept).start();
            let began = Instant::now();
            while load.so_far().0.len() < 100 {
                assert!(began.elapsed() < Duration::from_secs(20), "{:?}", load.so_far().summary());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let answers = load.stop().await;
            let summary = answers.summary();
            assert_eq!(answers.failed(), summary.requests / 4, "{summary:?}");
            assert_eq!(answers.of("v1"), summary.requests, "{summary:?}");
            assert_eq!(summary.failures.keys().collect::<Vec<_>>(), ["status 500"]);
            assert!(answers.last_of("v1") <= Some(Instant::now()));
            assert_eq!(answers.sent_since(Instant::now()).0.len(), 0);
        }
    }

    #[tokio::test]
    async fn who_is_not_there_fails_with_a_reason() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let load = Load::on(address).rate(500).start();
        while load.so_far().0.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let answers = load.stop().await;
        assert_eq!(answers.failed(), answers.0.len());
        assert!(
            answers.0.iter().all(|answer| answer.error.as_deref().is_some_and(|error| error.starts_with("connect")))
        );
    }
}
