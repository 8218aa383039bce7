//! What the engine answered, as the library's error.

use bollard::errors::Error as Docker;
use rollback_core::{Effect, Error, Kind};

/// Turns what a *read* answered into an error: it had no effect.
pub(crate) fn read(operation: impl Into<String>) -> impl FnOnce(Docker) -> Error {
    move |e| from(operation, e).without_effect()
}

/// Turns what a *write* answered into an error. It had no effect where the engine refused it, or was never reached.
pub(crate) fn write(operation: impl Into<String>) -> impl FnOnce(Docker) -> Error {
    move |e| {
        let refused = matches!(status(&e), Some(400..=499)) || never_sent(&e);
        let made = from(operation, e);
        if refused { made.without_effect() } else { made }
    }
}

/// Turns what a pull answered into an error: the engine repeats what the registry said, mostly as a 500.
pub(crate) fn registry(operation: impl Into<String>) -> impl FnOnce(Docker) -> Error {
    move |e| {
        let said = match &e {
            Docker::DockerResponseServerError { message, .. } => message,
            Docker::DockerStreamError { error } => error,
            _ => return from(operation, e),
        };
        let has = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
        let (kind, advice) = if has(&["no basic auth credentials", "pull access denied"]) {
            (Kind::Denied, "the docker configuration has no credentials for this registry: docker login")
        } else if has(&["unauthorized", "denied", "authentication required", "incorrect username or password"]) {
            (Kind::Denied, "the registry refuses the credentials of the docker configuration: docker login")
        } else if has(&["manifest unknown", "not found", "name unknown"]) {
            (Kind::NotFound, "the registry does not have it")
        } else if has(&[
            "dial tcp",
            "connection refused",
            "i/o timeout",
            "TLS handshake",
            "EOF",
            "context deadline",
            "no such host",
        ]) {
            (Kind::Unavailable, "the registry does not answer")
        } else if has(&["toomanyrequests", "server error", "Service Unavailable", "Bad Gateway"]) {
            (Kind::Unavailable, "the registry does not serve now")
        } else {
            return from(operation, e);
        };
        Error::new(kind, operation).with_message(advice).with_source(e)
    }
}

/// The same, after something was written already.
pub(crate) fn with_effect(e: Error) -> Error {
    let mut fault = e.into_fault();
    fault.effect = Effect::Unknown;
    fault.into()
}

/// The status code, where the engine answered with one.
pub(crate) fn status(e: &Docker) -> Option<u16> {
    match e {
        Docker::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Is it not there?
pub(crate) fn is_gone(e: &Docker) -> bool {
    status(e) == Some(404)
}

/// The request did not leave this process.
fn never_sent(e: &Docker) -> bool {
    match e {
        Docker::SocketNotFoundError(_) | Docker::UnsupportedURISchemeError { .. } | Docker::JsonSerdeError { .. } => {
            true
        }
        Docker::HyperLegacyError { err } => err.is_connect(),
        _ => false,
    }
}

fn from(operation: impl Into<String>, e: Docker) -> Error {
    let (kind, advice) = match &e {
        Docker::DockerResponseServerError { status_code, message } => answered(*status_code, message),
        Docker::DockerStreamError { error } => answered(500, error),
        Docker::RequestTimeoutError => (Kind::Unavailable, "the engine did not answer in time"),
        Docker::SocketNotFoundError(_) => {
            (Kind::Unavailable, "there is no socket: is the engine up, and is this its host?")
        }
        Docker::HyperLegacyError { err } => no_connection(&chain(err), err.is_connect()),
        Docker::HyperResponseError { .. } | Docker::IOError { .. } => {
            (Kind::Unavailable, "the connection to the engine broke")
        }
        Docker::UnsupportedURISchemeError { .. } => (Kind::Unsupported, "this build cannot speak to such an address"),
        _ => (Kind::Unexpected, "the engine's answer was not understood"),
    };
    Error::new(kind, operation).with_message(advice).with_source(e)
}

/// What it says, and what its causes say.
fn chain(e: &dyn std::error::Error) -> String {
    std::iter::successors(Some(e), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Kind and advice for what became of a connection, by what the ways to connect say: the system, TLS, ssh.
fn no_connection(said: &str, connecting: bool) -> (Kind, &'static str) {
    let has = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    if has(&["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED"]) {
        (Kind::Denied, "it is not the host whose key is known: see known_hosts")
    } else if has(&["Permission denied (os error"]) {
        (Kind::Denied, "this user may not use the engine's socket")
    } else if has(&["Permission denied"]) {
        (Kind::Denied, "the host does not let this user in: see the key that ssh uses")
    } else if has(&["certificate", "UnknownIssuer", "received fatal alert"]) {
        (Kind::Denied, "one side does not take the other's certificate: see the authority and the names in them")
    } else if connecting {
        (Kind::Unavailable, "the engine cannot be reached: see that it is up, and that this is its address")
    } else {
        (Kind::Unavailable, "the connection to the engine broke")
    }
}

/// Kind and advice for what the engine said. Its codes are coarse: a used port and a full disk are both a 500, so the text,
/// which has not changed since Docker 1.10, decides.
fn answered(status: u16, message: &str) -> (Kind, &'static str) {
    let has = |text: &str| message.contains(text);
    if has("port is already allocated") || has("address already in use") {
        return (Kind::Conflict, "another program has the port: see who listens there");
    }
    if has("no space left on device") {
        return (Kind::Unavailable, "the engine's disk is full: make room");
    }
    if has("pull access denied") || has("unauthorized") || has("no basic auth credentials") {
        return (Kind::Denied, "the registry refuses: log in with docker login");
    }
    match status {
        400 => (Kind::Invalid, "the engine refuses the request"),
        401 | 403 => (Kind::Denied, "the engine does not allow it"),
        404 => (Kind::NotFound, "the engine does not have it"),
        409 => (Kind::Conflict, "the engine says that it is in use"),
        503 => (Kind::Unavailable, "the engine is not ready"),
        _ => (Kind::Unexpected, "the engine failed"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_says_has_a_kind_and_an_effect() {
        let answer =
            |status_code, message: &str| Docker::DockerResponseServerError { status_code, message: message.into() };
        for (code, text, kind, effect) in [
            (404, "No such container: x", Kind::NotFound, Effect::None),
            (409, "Conflict. The container name \"/x\" is already in use", Kind::Conflict, Effect::None),
            (
                500,
                "driver failed: Bind for 0.0.0.0:80 failed: port is already allocated",
                Kind::Conflict,
                Effect::Unknown,
            ),
            (500, "write /x: no space left on device", Kind::Unavailable, Effect::Unknown),
            (404, "pull access denied for x", Kind::Denied, Effect::None),
            (500, "oops", Kind::Unexpected, Effect::Unknown),
        ] {
            let e = write("start it")(answer(code, text));
            assert_eq!((e.kind(), e.effect()), (kind, effect), "{text}");
            assert!(e.to_string().contains(text), "{e}");
            assert_eq!(read("look")(answer(code, text)).effect(), Effect::None);
        }
        for (code, text, kind) in [
            (500, "Head \"http://r/v2/\": no basic auth credentials", Kind::Denied),
            (500, "unauthorized: authentication required", Kind::Denied),
            (404, "manifest for r/x:9 not found: manifest unknown: manifest unknown", Kind::NotFound),
            (500, "Get \"http://r/v2/\": dial tcp 127.0.0.1:9: connect: connection refused", Kind::Unavailable),
            (500, "write /x: no space left on device", Kind::Unavailable),
            (500, "oops", Kind::Unexpected),
        ] {
            assert_eq!(registry("pull it")(answer(code, text)).kind(), kind, "{text}");
        }
        let lost = write("start it")(Docker::RequestTimeoutError);
        assert!(lost.is_transient());
        assert_eq!(lost.effect(), Effect::Unknown);
    }
}
