#![allow(clippy::unwrap_used)]

use super::super::sample::*;
use super::*;
use crate::{Identity, Observation, PartState, Token};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Answers every connection with these bytes, after a while; `None`: accepts and says nothing.
async fn serve(answer: Option<Vec<u8>>, after: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut silent: Vec<TcpStream> = vec![];
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![];
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            tokio::time::sleep(after).await;
            match &answer {
                Some(bytes) => {
                    // The check may hang up early on a long body.
                    let _ = stream.write_all(bytes).await;
                }
                None => silent.push(stream),
            }
        }
    });
    address
}
fn http(status: &str, headers: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes())
}
async fn answering(status: &str, headers: &str, body: &str) -> Http {
    let address = serve(http(status, headers, body), Duration::ZERO).await;
    Http::get(&format!("http://{address}/health")).unwrap()
}
async fn ask(check: &Http) -> (char, String) {
    let seen = check.check(&context()).await.unwrap();
    (letter(&seen), seen.evidence()[0].seen.clone())
}

#[tokio::test]
async fn the_status_decides_and_a_redirect_is_not_followed() {
    for (status, want) in [("200 OK", 'h'), ("204 No Content", 'h'), ("500 Oops", 'u'), ("302 Found", 'u')] {
        let check = answering(status, "location: http://127.0.0.1:1/\r\n", "").await;
        let (is, seen) = ask(&check).await;
        assert_eq!(is, want, "{status}: {seen}");
        assert!(seen.starts_with(&status[..3]), "{seen}");
    }
    let (is, seen) = ask(&answering("503 No", "", "").await.expect_status(503..=503)).await;
    assert_eq!(is, 'h', "{seen}");
}

#[tokio::test]
async fn body_header_and_version_must_be_as_expected() {
    let check = answering("200 OK", "x-ready: yes\r\n", r#"{"app":{"version":"good","n":7}}"#).await;
    let cases: [(Http, char); 8] = [
        (check.clone().expect_body_containing("version").expect_header("X-Ready", "yes"), 'h'),
        (check.clone().expect_body_containing("nowhere"), 'u'),
        (check.clone().expect_header("x-ready", "no"), 'u'),
        (check.clone().version_at("/app/version"), 'h'),
        (check.clone().version_at("/app/other"), 'u'),
        (check.clone().version_at("/app/n").with_version_of(|_| "7".into()), 'h'),
        (check.clone().version_at("/app/version").with_version_of(|id| format!("v-{id}")), 'u'),
        (check.expect_within(Duration::ZERO), 'u'),
    ];
    for (n, (check, want)) in cases.iter().enumerate() {
        let (is, seen) = ask(check).await;
        assert_eq!(is, *want, "case {n}: {seen}");
    }
    let (_, seen) = ask(&cases[6].0).await;
    assert!(seen.contains("version good is not v-good"), "{seen}");
    let (is, seen) = ask(&answering("200 OK", "", "not json").await.version_at("/version")).await;
    assert_eq!(is, 'u', "{seen}");
}

#[tokio::test]
async fn refused_broken_and_silent_are_unhealthy() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let refused = Http::get(&format!("http://{closed}/")).unwrap();
    let silent = serve(None, Duration::ZERO).await;
    let hangs = Http::get(&format!("http://{silent}/")).unwrap().with_timeout(Duration::from_millis(100));
    let late = serve(http("200 OK", "", ""), Duration::from_millis(80)).await;
    let slow = Http::get(&format!("http://{late}/")).unwrap().expect_within(Duration::from_millis(20));
    let broken = serve(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()), Duration::ZERO).await;
    let half = Http::get(&format!("http://{broken}/")).unwrap();
    let gone = serve(Some(vec![]), Duration::ZERO).await;
    let hung_up = Http::get(&format!("http://{gone}/")).unwrap();
    let noise = serve(Some(b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec()), Duration::ZERO).await;
    let no_http = Http::get(&format!("http://{noise}/")).unwrap();
    for (check, says) in [
        (refused, "refused"),
        (hangs, "no answer within 100ms"),
        (slow, "expected within 20ms"),
        (half, ""),
        (hung_up, ""),
        (no_http, ""),
    ] {
        let (is, seen) = ask(&check).await;
        assert_eq!(is, 'u', "{seen}");
        assert!(seen.contains(says), "{seen}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_unknown() {
    let (is, seen) = ask(&Http::get("http://nowhere.invalid/").unwrap()).await;
    assert_eq!(is, '?', "{seen}");
}

#[tokio::test]
async fn a_huge_body_is_read_only_so_far() {
    let body = "x".repeat(5 << 20) + "needle";
    let check = answering("200 OK", "", &body).await;
    assert_eq!(ask(&check).await.0, 'h');
    assert_eq!(ask(&check.clone().expect_body_containing("xxx")).await.0, 'h');
    let (is, seen) = ask(&check.clone().expect_body_containing("needle")).await;
    assert_eq!(is, '?', "what lies beyond cannot be known: {seen}");
    assert_eq!(ask(&check.version_at("/version")).await.0, '?');
}

#[tokio::test]
async fn each_part_must_be_healthy_by_itself() {
    let good = serve(http("200 OK", "", ""), Duration::ZERO).await;
    let bad = serve(http("500 Oops", "", ""), Duration::ZERO).await;
    let part = |at: &String| PartState::of("good").with_addresses([at.clone()]);
    let now = Observation::new(
        Identity::new("here", "1"),
        [("blue".into(), part(&good)), ("green".into(), part(&bad))],
        Token::none(),
    );
    let all = Context::new("test:t".into(), "bad", "good", now);
    let check = Http::at_each_part("/health").unwrap();
    assert_eq!(letter(&check.check(&all).await.unwrap()), 'u');
    assert_eq!(letter(&check.check(&all.clone().with_part(Some("blue".into()))).await.unwrap()), 'h');
    assert_eq!(letter(&check.check(&context()).await.unwrap()), '?', "no addresses");
    let schemed = PartState::of("good").with_addresses([format!("http://{good}/")]);
    let now = Observation::of_one(Identity::new("here", "1"), schemed, Token::none());
    let seen = check.check(&Context::new("test:t".into(), "bad", "good", now)).await.unwrap();
    assert_eq!(seen.evidence()[0].what, format!("GET http://{good}/health"));
}

#[test]
fn bad_urls_are_refused_without_showing_secrets() {
    let bad = [
        "",
        "127.0.0.1:8080/health",
        "ftp://user:hunter2@host/x",
        "http://",
        "http://user:hunter2@host:port/x?token=hunter2",
        "http://user:hunter2@/x",
    ];
    for url in bad {
        let e = Http::get(url).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{url}: {e}");
        assert!(!e.to_string().contains("hunter2"), "{e}");
    }
    assert_eq!(Http::at_each_part("health").unwrap_err().kind(), Kind::Invalid);
    let tls = Http::get("https://127.0.0.1/");
    assert_eq!(tls.as_ref().err().map(Error::kind), (!cfg!(feature = "tls")).then_some(Kind::Unsupported));
}

#[tokio::test]
async fn secrets_are_nowhere() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let check = Http::get(&format!("http://user:hunter2@{closed}/health?token=hunter2#hunter2"))
        .unwrap()
        .with_header("authorization", "Bearer hunter2")
        .unwrap();
    assert_eq!(check.name(), format!("GET http://…@{closed}/health?…"));
    let seen = check.check(&context()).await.unwrap();
    for text in [format!("{seen:?}"), format!("{check:?}"), check.name()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
