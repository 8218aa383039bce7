//! A cluster that is reached through a proxy only.

use rollback_core::*;
use rollback_k8s::{Cluster, ClusterOptions};
use rollback_tests::bed::kubernetes::Bed;
use serde_json::Value;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// Tunnels whatever it is asked for, as any HTTP proxy does, for who knows the password. Counts the tunnels.
async fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:p%40ss@{}", listener.local_addr().unwrap());
    let tunnels = Arc::new(AtomicUsize::new(0));
    let count = tunnels.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tunnel(stream, count.clone()));
        }
    });
    (url, tunnels)
}

async fn tunnel(mut stream: TcpStream, count: Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut first = head.split(' ');
    let (method, to) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    // user:p@ss
    let knows = head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz");
    if method != "CONNECT" || !knows {
        return stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    }
    let mut upstream = TcpStream::connect(to).await?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    count.fetch_add(1, Ordering::SeqCst);
    copy_bidirectional(&mut stream, &mut upstream).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes bed"]
async fn the_proxy_of_the_kubeconfig_is_used() {
    let bed = Bed::here().await;
    let (url, tunnels) = proxy().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let connect = async |proxy: &str| {
        // JSON is YAML.
        let plain = std::fs::read_to_string(bed.folder().join("pki/admin.conf")).unwrap();
        let mut config: Value = serde_json::from_str(&plain).unwrap();
        config["clusters"][0]["cluster"]["proxy-url"] = proxy.into();
        std::fs::write(&path, config.to_string()).unwrap();
        Cluster::connect(ClusterOptions::from_kubeconfig(&path, None)).await
    };
    let cluster = connect(&url).await.unwrap();
    assert!(cluster.identity().uid.is_some());
    assert_eq!(tunnels.load(Ordering::SeqCst), 1, "by the proxy, and no other way");
    // One that refuses is waited for: it may be back in a moment.
    let e = connect(&url.replace("p%40ss", "wrong")).await.unwrap_err();
    assert!(e.kind() == Kind::Unavailable && e.is_transient(), "{e}");
    assert_eq!(tunnels.load(Ordering::SeqCst), 1);
}
