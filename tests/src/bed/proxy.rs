//! Between the library and the engine of the Docker bed.

use super::docker::Project;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// A way to the engine that can go away for one test and not for the others, or lead to another engine, and that knows what
/// was asked.
#[derive(Debug)]
pub struct Proxy {
    /// Its address.
    pub host: String,
    task: JoinHandle<()>,
    path: PathBuf,
    engine: watch::Sender<PathBuf>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Begins.
    ///
    /// # Panics
    /// If it cannot.
    pub fn new(project: &Project) -> Self {
        Self::begin(project, project.bed.socket(), Trick::None)
    }
    /// Begins, before what listens at this socket.
    ///
    /// # Panics
    /// If it cannot.
    pub fn before(project: &Project, engine: PathBuf) -> Self {
        Self::begin(project, engine, Trick::None)
    }
    /// Begins one through which no network can be removed: the engine is asked for one of its own instead, and refuses.
    ///
    /// # Panics
    /// If it cannot.
    pub fn keeping_networks(project: &Project) -> Self {
        Self::begin(project, project.bed.socket(), Trick::KeepNetworks)
    }
    /// Begins one that lets so many requests pass whose path ends so, and hangs up on all after them.
    ///
    /// # Panics
    /// If it cannot.
    pub fn passing(project: &Project, most: usize, end: &'static str) -> Self {
        Self::begin(project, project.bed.socket(), Trick::Pass(most, end))
    }
    fn begin(project: &Project, engine: PathBuf, trick: Trick) -> Self {
        let path = project.dir.join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap_or_else(|e| panic!("{e}"));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = asked.clone();
        let (engine, to) = watch::channel(engine);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (mut to, heard) = (to.clone(), heard.clone());
                open.spawn(async move {
                    let engine = to.borrow_and_update().clone();
                    tokio::select! {
                        _ = forward(near, &engine, &heard, trick) => {}
                        _ = to.changed() => {}
                    }
                });
            }
        });
        Self { host: format!("unix://{}", path.display()), task, path, engine, asked }
    }
    /// Leads to the engine that listens at this socket from now on; what is open is closed.
    pub fn lead_to(&self, engine: PathBuf) {
        self.engine.send_replace(engine);
    }
    /// Method and path of each request, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Goes away, with all connections.
    ///
    /// # Panics
    /// If its socket stays.
    pub async fn down(self) {
        self.task.abort();
        let _ = self.task.await;
        fs::remove_file(self.path).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// What it does to requests.
#[derive(Clone, Copy, Debug)]
enum Trick {
    None,
    KeepNetworks,
    Pass(usize, &'static str),
}

async fn forward(mut near: UnixStream, engine: &Path, asked: &Mutex<Vec<String>>, trick: Trick) -> std::io::Result<()> {
    let mut far = UnixStream::connect(engine).await?;
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    let there = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = from_near.read(&mut bytes).await?;
            if read == 0 {
                return to_far.shutdown().await;
            }
            // A request begins a write: the one before it on the connection was answered.
            let text = String::from_utf8_lossy(&bytes[..read]);
            let mut words = text.split_whitespace();
            if let (Some(method @ ("GET" | "POST" | "PUT" | "DELETE")), Some(path)) = (words.next(), words.next()) {
                let path = path.split('?').next().unwrap_or(path);
                let hangs_up = {
                    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                    asked.push(format!("{method} {path}"));
                    let count = |end: &str| asked.iter().filter(|line| line.ends_with(end)).count();
                    matches!(trick, Trick::Pass(most, end) if path.ends_with(end) && count(end) > most)
                };
                if hangs_up {
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
                if matches!(trick, Trick::KeepNetworks)
                    && method == "DELETE"
                    && let Some((_, network)) = path.rsplit_once("/networks/")
                {
                    to_far.write_all(text.replacen(network, "bridge", 1).as_bytes()).await?;
                    continue;
                }
            }
            to_far.write_all(&bytes[..read]).await?;
        }
    };
    let back = async {
        copy(&mut from_far, &mut to_near).await?;
        to_near.shutdown().await
    };
    tokio::try_join!(there, back).map(|_| ())
}
