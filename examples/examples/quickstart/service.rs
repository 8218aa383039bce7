//! The service that is deployed and rolled back: it fails as often as its release file says.

use crate::layout::{Layout, Result, ServiceFile};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get, serve::Listener};
use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// A client sends its request within this time after it has connected.
const READ_WITHIN: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Service {
    file: ServiceFile,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// Serves the release that `current` points at *now*, until it is told to stop. The listening socket is standard input,
/// as a socket-activated service gets it: old and new process share one queue, so that a restart loses no connection.
pub(crate) async fn serve(layout: &Layout) -> Result<()> {
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut told_to_stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;

    let file: ServiceFile = layout.read_current("service.json")?;
    tokio::time::sleep(Duration::from_millis(file.starts_in_ms)).await;
    let ready = file.version.clone();
    let service = Arc::new(Service { file, asked: AtomicU64::new(0), failed: AtomicU64::new(0) });
    let app = Router::new()
        .route("/", get(checkout))
        .route("/health", get(|| async { "ok" }))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(service);
    // Standard output is how the supervisor hears that it is ready.
    println!("{ready}");
    std::io::stdout().flush()?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        told_to_stop.recv().await;
        stop.send_replace(true);
    });
    let mut drained = stopped.clone();
    axum::serve(Queue { listener, stopped }, app)
        .with_graceful_shutdown(async move {
            let _ = drained.wait_for(|stopped| *stopped).await;
            // A connection that was just accepted, and whose request has not been read yet, would be dropped by it.
            tokio::time::sleep(READ_WITHIN).await;
        })
        .await?;
    Ok(())
}

/// The shared queue of connections; once stopped, the rest is for the next process.
struct Queue {
    listener: tokio::net::TcpListener,
    stopped: watch::Receiver<bool>,
}

impl Listener for Queue {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let stopped = async { self.stopped.wait_for(|stopped| *stopped).await.is_ok() };
        tokio::select! {
            biased;
            _ = stopped => std::future::pending().await,
            connection = Listener::accept(&mut self.listener) => connection,
        }
    }
    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The failures lie evenly among the requests: of every hundred as many as the release says.
async fn checkout(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let n = service.asked.fetch_add(1, Ordering::Relaxed);
    let percent = service.file.fails_percent;
    let release = [("x-release", service.file.version.clone())];
    if n * percent / 100 == (n + 1) * percent / 100 {
        (StatusCode::OK, release, "paid\n")
    } else {
        service.failed.fetch_add(1, Ordering::Relaxed);
        (StatusCode::INTERNAL_SERVER_ERROR, release, "payment provider: unexpected field\n")
    }
}

async fn version(State(service): State<Arc<Service>>) -> impl IntoResponse {
    Json(serde_json::json!({ "version": service.file.version, "pid": std::process::id() }))
}

async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let failed = service.failed.load(Ordering::Relaxed);
    let ok = service.asked.load(Ordering::Relaxed).saturating_sub(failed);
    format!(
        "# HELP checkout_requests_total Requests answered.\n\
         # TYPE checkout_requests_total counter\n\
         checkout_requests_total{{code=\"200\"}} {ok}\n\
         checkout_requests_total{{code=\"500\"}} {failed}\n"
    )
}
