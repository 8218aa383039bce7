//! A proxy in front of the bed's API server that misbehaves by script, and remembers what it was asked.
//!
//! Not for exec and port-forward: it does not pass on upgrades.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING, USER_AGENT},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, Config, client::Body, config::AuthInfo};
use serde_json::json;
use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Failure>>;

/// What is done to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answered with this status, which the API server never hears of. 429 tells to come again in a second.
    Answer(u16),
    /// Passed on after that time.
    Late(Duration),
    /// The connection is closed, and the API server never hears of it.
    Refuse,
    /// Passed on and done, and the connection closed before the answer.
    LoseAnswer,
    /// Passed on, and the connection closed after that time, in the middle of the answer: a watch that breaks.
    CutAfter(Duration),
}

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// Its query, empty where there is none.
    pub query: String,
    /// Who says to have sent it.
    pub user_agent: String,
}

type Matches = Box<dyn Fn(&Seen) -> bool + Send + Sync>;

struct Rule {
    matches: Matches,
    fault: Fault,
    passed_over: u32,
    times: u32,
}

#[derive(Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
}

/// The proxy. It ends when it is dropped, with every connection it has.
pub struct FaultyApi {
    address: SocketAddr,
    config: Config,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl fmt::Debug for FaultyApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyApi").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FaultyApi {
    /// One in front of the API server of this configuration, on a port of its own on loopback.
    ///
    /// A request that brings a token goes on with that; one that does not, as whoever the configuration says.
    pub async fn before(config: &Config) -> Self {
        let mut upstream = config.clone();
        // What the proxy is asked once, the API server is asked once.
        upstream.default_retry = false;
        upstream.headers.clear();
        let ours = Client::try_from(upstream.clone()).expect("a client for the API server");
        upstream.auth_info = AuthInfo::default();
        let theirs = Client::try_from(upstream).expect("a client for the API server");

        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on loopback");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => stream,
                        Err(_) => continue,
                    },
                    Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                };
                let (state, ours, theirs) = (Arc::clone(&shared), ours.clone(), theirs.clone());
                connections.spawn(async move {
                    let service = service_fn(|request| {
                        let client = if request.headers().contains_key(AUTHORIZATION) { &theirs } else { &ours };
                        handle(Arc::clone(&state), client.clone(), request)
                    });
                    // A fault that closes the connection ends it with an error.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, config: config.clone(), state, task }
    }

    /// The configuration of a client that goes through the proxy. It does not retry by itself.
    pub fn config(&self) -> Config {
        let mut config = self.config.clone();
        config.cluster_url = format!("http://{}", self.address).parse().expect("a URL");
        config.auth_info = AuthInfo::default();
        config.root_cert = None;
        config.root_cert_file = None;
        config.default_retry = false;
        config
    }

    /// A client that goes through the proxy.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("a client")
    }

    /// The next `times` requests that match get this fault. Rules are tried in the order in which they came.
    pub fn inject(&self, times: u32, fault: Fault, matches: impl Fn(&Seen) -> bool + Send + Sync + 'static) {
        self.inject_after(0, times, fault, matches);
    }

    /// The same, after so many that match were passed over.
    pub fn inject_after(
        &self,
        passed_over: u32,
        times: u32,
        fault: Fault,
        matches: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    ) {
        let rule = Rule { matches: Box::new(matches), fault, passed_over, times };
        self.state.rules.lock().expect("no panic before").push(rule);
    }

    /// Takes all rules back.
    pub fn behave(&self) {
        self.state.rules.lock().expect("no panic before").clear();
    }

    /// How many faults are still to come: 0 shows that a script was played to its end.
    pub fn faults_left(&self) -> u32 {
        self.state.rules.lock().expect("no panic before").iter().map(|rule| rule.times).sum()
    }

    /// Every request so far, the faulty ones too.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no panic before").clone()
    }
}

impl Drop for FaultyApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn fault(&self, seen: &Seen) -> Option<Fault> {
        for rule in self.rules.lock().expect("no panic before").iter_mut() {
            if rule.times == 0 || !(rule.matches)(seen) {
                continue;
            }
            if rule.passed_over > 0 {
                rule.passed_over -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.fault.clone());
        }
        None
    }
}

async fn handle(state: Arc<State>, client: Client, request: Request<Incoming>) -> Result<Answer, Failure> {
    let seen = Seen {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        user_agent: request
            .headers()
            .get(USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
    };
    let fault = state.fault(&seen);
    state.seen.lock().expect("no panic before").push(seen);
    match fault {
        None => pass(client, request).await,
        Some(Fault::Answer(status)) => refusal(status),
        Some(Fault::Late(time)) => {
            sleep(time).await;
            pass(client, request).await
        }
        Some(Fault::Refuse) => Err("refused by the test".into()),
        Some(Fault::LoseAnswer) => {
            pass(client, request).await?.into_body().collect().await?;
            Err("answer lost by the test".into())
        }
        Some(Fault::CutAfter(time)) => {
            let (parts, body) = pass(client, request).await?.into_parts();
            let deadline = tokio::time::Instant::now() + time;
            let frames = futures::stream::unfold(Some(body), move |body| async move {
                let mut body = body?;
                match tokio::time::timeout_at(deadline, body.frame()).await {
                    Ok(frame) => frame.map(|frame| (frame, Some(body))),
                    Err(_) => Some((Err("cut by the test".into()), None)),
                }
            });
            Ok(Response::from_parts(parts, http_body_util::StreamBody::new(frames).boxed_unsync()))
        }
    }
}

async fn pass(client: Client, request: Request<Incoming>) -> Result<Answer, Failure> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    for hop in [HOST, CONTENT_LENGTH, TRANSFER_ENCODING] {
        parts.headers.remove(hop);
    }
    // The client puts the API server's address before it.
    parts.uri = parts.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    parts.version = hyper::Version::HTTP_11;
    let (mut parts, body) = client.send(Request::from_parts(parts, Body::from(body))).await?.into_parts();
    parts.headers.remove(TRANSFER_ENCODING);
    parts.version = hyper::Version::HTTP_11;
    Ok(Response::from_parts(parts, body.map_err(Failure::from).boxed_unsync()))
}

fn refusal(status: u16) -> Result<Answer, Failure> {
    let status = StatusCode::from_u16(status)?;
    let reason = match status.as_u16() {
        409 => "Conflict",
        429 => "TooManyRequests",
        504 => "Timeout",
        _ => "InternalError",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": "injected by the test", "code": status.as_u16(),
    });
    let mut answer = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if status == StatusCode::TOO_MANY_REQUESTS {
        answer = answer.header(RETRY_AFTER, "1");
    }
    Ok(answer.body(Full::from(body.to_string()).map_err(|never| match never {}).boxed_unsync())?)
}
