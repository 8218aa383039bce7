//! A real Prometheus server on loopback: what `PrometheusQuery` makes of its answers.
#![allow(clippy::unwrap_used)]

use rollback_core::metric::{Ask, Measure, MetricSource, PrometheusQuery, Sample};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

struct Server(Child);
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service that counts a hundred requests at each scrape, a fifth of them failed.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let scrapes = AtomicU32::new(0);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let n = scrapes.fetch_add(1, Relaxed);
            let body = format!(
                "# TYPE req_total counter\nreq_total{{code=\"200\"}} {}\nreq_total{{code=\"500\"}} {}\n",
                80 * n,
                20 * n
            );
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}", body.len());
            let _ = write!(stream, "{head}\r\nconnection: close\r\n\r\n{body}");
        }
    });
    port
}

fn start(dir: &Path, service: u16) -> (Server, String) {
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: shop, static_configs: [{{targets: ['127.0.0.1:{service}']}}]}}]\n"
    );
    std::fs::write(dir.join("prometheus.yml"), config).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs the program prometheus (Debian's package of that name)");
    (Server(child), format!("http://127.0.0.1:{port}"))
}

async fn read(source: &PrometheusQuery) -> rollback_core::Result<Sample> {
    source.read(Ask::over(Duration::from_secs(10))).await.map(|mut samples| samples.remove(0))
}

#[tokio::test]
#[ignore = "needs prometheus"]
async fn a_real_server() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, url) = start(dir.path(), service());
    let ratio = PrometheusQuery::ratio(
        &url,
        r#"sum(increase(req_total{code=~"5.."}[$window]))"#,
        "sum(increase(req_total[$window]))",
    )
    .unwrap()
    .with_age("time() - max(timestamp(req_total))");
    // Visible after a few scrapes; read on until enough were counted.
    let began = Instant::now();
    let sample = loop {
        assert!(server.0.try_wait().unwrap().is_none(), "prometheus ended by itself");
        let answer = read(&ratio).await;
        assert!(began.elapsed() < Duration::from_secs(30), "{answer:?}");
        match answer {
            Ok(sample) if matches!(sample.measure, Measure::Value { of: Some(of), .. } if of >= 100.0) => break sample,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let Measure::Value { value, of: Some(of) } = sample.measure else { panic!("{sample:?}") };
    assert!((value - 0.2).abs() < 1e-6 && of >= 100.0, "{sample:?}");
    assert!(sample.age < Duration::from_secs(5), "{sample:?}");

    let says = |query: &'static str| {
        let source = PrometheusQuery::value(&url, query).unwrap();
        async move { read(&source).await.map(|sample| sample.measure) }
    };
    assert_eq!(says("vector(7)").await.unwrap(), Measure::value(7.0));
    assert_eq!(says("scalar(vector(7))").await.unwrap(), Measure::value(7.0));
    // Nothing, several, not a number, a range, no query at all: no data, each with its reason.
    for (query, why) in [
        ("no_such_metric", "nothing"),
        ("req_total", "2 series"),
        ("vector(0) / 0", "NaN"),
        ("vector(1) / 0", "inf"),
        ("req_total[1m]", "range"),
        ("sum(", "parse error"),
    ] {
        let error = says(query).await.unwrap_err();
        assert!(error.message().contains(why), "{query}: {error}");
    }

    drop(server);
    let secret = PrometheusQuery::value(&url.replace("http://", "http://me:hunter2@"), "up").unwrap();
    let error = read(&secret).await.unwrap_err();
    assert!(error.is_transient() && !format!("{error:?}{secret:?}{}", secret.name()).contains("hunter2"), "{error:?}");
}
