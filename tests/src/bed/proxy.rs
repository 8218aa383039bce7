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
    task::{JoinHandle, JoinSet},
};

/// A way to the engine that can go away for one test and not for the others, and that knows what was asked.
#[derive(Debug)]
pub struct Proxy {
    /// Its address.
    pub host: String,
    task: JoinHandle<()>,
    path: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Begins.
    ///
    /// # Panics
    /// If it cannot.
    pub fn new(project: &Project) -> Self {
        Self::begin(project, project.bed.dir().join("docker.sock"), false)
    }
    /// Begins, before what listens at this socket.
    ///
    /// # Panics
    /// If it cannot.
    pub fn before(project: &Project, engine: PathBuf) -> Self {
        Self::begin(project, engine, false)
    }
    /// Begins one through which no network can be removed: the engine is asked for one of its own instead, and refuses.
    ///
    /// # Panics
    /// If it cannot.
    pub fn keeping_networks(project: &Project) -> Self {
        Self::begin(project, project.bed.dir().join("docker.sock"), true)
    }
    fn begin(project: &Project, engine: PathBuf, keeping_networks: bool) -> Self {
        let path = project.dir.join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap_or_else(|e| panic!("{e}"));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = asked.clone();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (engine, heard) = (engine.clone(), heard.clone());
                open.spawn(async move { forward(near, &engine, &heard, keeping_networks).await });
            }
        });
        Self { host: format!("unix://{}", path.display()), task, path, asked }
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

async fn forward(
    mut near: UnixStream,
    engine: &Path,
    asked: &Mutex<Vec<String>>,
    keeping_networks: bool,
) -> std::io::Result<()> {
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
                asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {path}"));
                if keeping_networks
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
