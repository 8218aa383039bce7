//! What containers logged: the end of it, of so many bytes.
//!
//! Not here: what is looked for in it, and what is left out of it.

use crate::{connect::Cluster, error::Request, kinds::POD_LOG};
use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use rollback_core::Result;
use std::{pin::pin, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Which log, and how much of it.
#[derive(Clone, Debug)]
pub(crate) struct LogOf<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) container: &'a str,
    /// Of the run before the last restart.
    pub(crate) previous: bool,
    /// Lines of the last so long, by the node's clock; `None`: all.
    pub(crate) since: Option<Duration>,
    /// Lines, at most; `None`: all.
    pub(crate) lines: Option<i64>,
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

/// A log, or its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) text: String,
    /// There was more before it than there may be bytes.
    pub(crate) cut: bool,
    /// Why it may not be all.
    pub(crate) broken: Option<String>,
}

/// Reads a log.
///
/// # Errors
/// Where nothing of it could be read.
pub(crate) async fn read(cluster: &Cluster, of: LogOf<'_>) -> Result<Logged> {
    let deadline = Instant::now() + of.time;
    let request =
        Request { operation: "read a log", verb: "get", kind: POD_LOG, namespace: Some(of.namespace), name: of.pod };
    let params = LogParams {
        container: Some(of.container.into()),
        previous: of.previous,
        // Rounded up: a line too many is better than one too few. Zero is refused.
        since_seconds: of.since.map(|since| i64::try_from(since.as_secs() + 1).unwrap_or(i64::MAX)),
        tail_lines: of.lines,
        timestamps: true,
        ..LogParams::default()
    };
    let api: Api<Pod> = Api::namespaced(cluster.client().clone(), of.namespace);
    let reply = of.time.min(cluster.reply_within());
    let mut stream = pin!(cluster.ask(reply, &request, api.log_stream(of.pod, &params)).await?);
    let mut end = End { most: of.bytes, ..End::default() };
    let mut buffer = vec![0; 16 << 10];
    let broken = loop {
        match timeout_at(deadline, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => break None,
            Ok(Ok(read)) => end.push(&buffer[..read]),
            Ok(Err(e)) => break Some(format!("it broke off: {e}")),
            Err(_) => break Some(format!("it was not all there within {:?}", of.time)),
        }
    };
    Ok(Logged { cut: end.cut, text: end.text(), broken })
}

/// The last bytes of what is pushed.
#[derive(Debug, Default)]
struct End {
    bytes: Vec<u8>,
    most: usize,
    cut: bool,
}

impl End {
    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Twice as much is kept, so that little is moved.
        if self.bytes.len() > self.most.saturating_mul(2).max(64 << 10) {
            self.cut_to(self.most);
        }
    }
    fn cut_to(&mut self, most: usize) {
        if self.bytes.len() > most {
            self.bytes.drain(..self.bytes.len() - most);
            self.cut = true;
        }
    }
    /// From the beginning of a line.
    fn text(mut self) -> String {
        self.cut_to(self.most);
        let from = match self.bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if self.cut => end + 1,
            None if self.cut => self.bytes.len(),
            _ => 0,
        };
        String::from_utf8_lossy(&self.bytes[from..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_begins_at_a_line_and_is_bounded() {
        for (most, pushed, text, cut) in [
            (100, &["one\ntwo\n", "three\n"][..], "one\ntwo\nthree\n", false),
            (9, &["one\ntwo\n", "three\n"], "three\n", true),
            (3, &["one\ntwo\n"], "", true),
            (0, &["one"], "", true),
            (100, &[], "", false),
        ] {
            let mut end = End { most, ..End::default() };
            pushed.iter().for_each(|more| end.push(more.as_bytes()));
            let was_cut = {
                end.cut_to(most);
                end.cut
            };
            assert_eq!((end.text().as_str(), was_cut), (text, cut), "{most}");
        }
    }

    #[test]
    fn memory_is_bounded_while_a_log_is_read() {
        let mut end = End { most: 1000, ..End::default() };
        for _ in 0..10_000 {
            end.push(b"a line of a log that never ends\n");
            assert!(end.bytes.len() <= 64 << 10);
        }
        assert!(end.text().len() <= 1000);
    }
}
