//! What the API server answers, as the library's [`Error`]: what kind, worth trying again or not, may it have taken
//! effect, and what to do about it.

use crate::kinds::ObjectKind;
use kube::core::Status;
use rollback_core::{Error, Kind, redact::shortened};
use std::{error::Error as StdError, io};

/// Answers of the server may hold whole objects; this much of one is enough for a person.
const MESSAGE: usize = 400;

/// Whoever did not answer, as every error begins that says so.
const SERVER: &str = "the API server";

/// Which one: an operator has several, and a name that does not resolve is seen at once.
pub(crate) fn with_server(e: Error, server: Option<&str>) -> Error {
    match (e.message().strip_prefix(SERVER), server) {
        (Some(said), Some(server)) if e.kind() == Kind::Unavailable => {
            let message = format!("{SERVER} {}{said}", server.trim_end_matches('/'));
            e.with_message(message)
        }
        _ => e,
    }
}

/// A request, as an error speaks of it.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// An infinitive: `read the Deployment`.
    pub(crate) operation: &'a str,
    /// As RBAC names it: `get`, `list`, `patch`.
    pub(crate) verb: &'a str,
    pub(crate) kind: ObjectKind,
    /// `None` for what lies in no namespace.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

impl Request<'_> {
    fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }
    fn error(&self, kind: Kind) -> Error {
        let error = Error::new(kind, self.operation);
        if self.writes() { error } else { error.without_effect() }
    }
    fn what(&self) -> String {
        self.called(&self.kind.name())
    }
    /// With its kind as people write it, where it is about the object and not about a right.
    fn object(&self) -> String {
        self.called(self.kind.kind)
    }
    /// Where no object was named, it is the resource itself that this server does not have.
    fn missing(&self) -> String {
        if self.name.is_empty() { self.what() } else { self.object() }
    }
    fn called(&self, kind: &str) -> String {
        let place = self.namespace.map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        let name = if self.name.is_empty() { String::new() } else { format!(" {}", self.name) };
        format!("{kind}{name}{place}")
    }
    /// No answer came in time.
    pub(crate) fn too_late(&self, within: std::time::Duration) -> Error {
        self.error(Kind::Unavailable).with_message(format!("{SERVER} did not answer within {within:?}"))
    }
    /// What kube said.
    pub(crate) fn failed(&self, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => self.answered(&status),
            kube::Error::Auth(e) => self
                .error(Kind::Denied)
                .with_message("the credentials could not be had: renew them (log in again, or mend the exec plugin)")
                .with_source(e)
                .without_effect(),
            kube::Error::SerdeError(e) => {
                // Whether the write happened is not in an answer that cannot be read.
                self.error(Kind::Unexpected).with_message("the API server's answer cannot be read").with_source(e)
            }
            kube::Error::BuildRequest(e) => self.error(Kind::Invalid).with_source(e).without_effect(),
            other => {
                let refused = never_sent(&other);
                let error = self.error(Kind::Unavailable).with_message(format!("{SERVER} could not be reached"));
                let error = match other {
                    // Its own word says nothing besides.
                    kube::Error::Service(cause) => error.with_source(cause),
                    other => error.with_source(other),
                };
                if refused { error.without_effect() } else { error }
            }
        }
    }
    fn answered(&self, status: &Status) -> Error {
        let message = shortened(&status.message, MESSAGE);
        match status.code {
            401 => self
                .error(Kind::Denied)
                .with_message(
                    "the API server does not accept the credentials (401): the token has expired or was revoked; \
                     renew it",
                )
                // A server that has just started, and a token that is being rotated, say so for a moment.
                .with_transient(true)
                .without_effect(),
            403 => self.error(Kind::Denied).with_message(self.denied(status, &message)).without_effect(),
            404 => self.error(Kind::NotFound).with_message(format!("there is no {}", self.missing())).without_effect(),
            409 => self.error(Kind::Conflict).with_message(message).without_effect(),
            410 => self.error(Kind::Unavailable).with_message(format!("{message}: list again")).without_effect(),
            422 => self.unprocessable(status),
            429 => self
                .error(Kind::Unavailable)
                .with_message(format!("{SERVER} asks to wait (429): {message}"))
                .without_effect(),
            400..=499 => self.error(Kind::Invalid).with_message(message).without_effect(),
            // The server may have done it and failed afterwards.
            code => self.error(Kind::Unavailable).with_message(format!("{SERVER} answered {code}: {message}")),
        }
    }
    fn denied(&self, status: &Status, message: &str) -> String {
        // 403 is also how quotas, admission and a namespace that is being deleted say no: RBAC words it like this.
        if !status.message.contains("cannot ") {
            return message.to_owned();
        }
        let role = if self.namespace.is_some() { "Role" } else { "ClusterRole" };
        format!(
            "not allowed to {} {}: add to its {role} {{apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [\"{}\"]}}",
            self.verb,
            self.what(),
            self.kind.group,
            self.kind.plural,
            self.verb
        )
    }
    /// A failed `test` and a wrong path are answered alike, without causes: the caller reads again and compares.
    fn unprocessable(&self, status: &Status) -> Error {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        // What the server says of a cause may hold the whole object, secrets in it: its field and reason do not.
        let causes: Vec<String> = causes
            .map(|cause| match (cause.field.as_str(), cause.reason.as_str()) {
                ("patch", _) => "the patch has a field that this server does not know, or of the wrong type".into(),
                (field, reason) => format!("{field} ({reason})"),
            })
            .collect();
        if causes.is_empty() && self.verb == "patch" {
            let message = format!("{} is not as it was when it was read", self.object());
            return self.error(Kind::Conflict).with_message(message).without_effect();
        }
        let causes = if causes.is_empty() { "it gives no cause".into() } else { causes.join(", ") };
        let message = format!("the API server finds {} invalid: {causes}", self.what());
        self.error(Kind::Invalid).with_message(message).without_effect()
    }
}

/// The connection was never made, so nothing was sent.
fn never_sent(error: &kube::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<io::Error>() {
            use io::ErrorKind as E;
            return matches!(e.kind(), E::ConnectionRefused | E::HostUnreachable | E::NetworkUnreachable);
        }
        cause = e.source();
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::kinds::{DEPLOYMENT, NAMESPACE};
    use rollback_core::Effect;
    use serde_json::json;

    fn request(verb: &'static str) -> Request<'static> {
        Request { operation: "patch the Deployment", verb, kind: DEPLOYMENT, namespace: Some("shop"), name: "checkout" }
    }
    fn answer(verb: &'static str, status: serde_json::Value) -> Error {
        request(verb).failed(kube::Error::Api(Box::new(serde_json::from_value(status).unwrap())))
    }

    #[test]
    fn each_answer_has_its_kind_and_its_effect() {
        for (code, verb, kind, transient, effect) in [
            (400, "patch", Kind::Invalid, false, Effect::None),
            (401, "patch", Kind::Denied, true, Effect::None),
            (403, "patch", Kind::Denied, false, Effect::None),
            (404, "patch", Kind::NotFound, false, Effect::None),
            (409, "patch", Kind::Conflict, false, Effect::None),
            (422, "patch", Kind::Conflict, false, Effect::None),
            (429, "patch", Kind::Unavailable, true, Effect::None),
            (500, "patch", Kind::Unavailable, true, Effect::Unknown),
            (503, "patch", Kind::Unavailable, true, Effect::Unknown),
            (504, "patch", Kind::Unavailable, true, Effect::Unknown),
            (500, "get", Kind::Unavailable, true, Effect::None),
        ] {
            let e = answer(verb, json!({"code": code, "message": "m"}));
            assert_eq!((e.kind(), e.is_transient(), e.effect()), (kind, transient, effect), "{code} to a {verb}");
        }
    }

    #[test]
    fn a_missing_permission_says_what_to_add() {
        let message = r#"deployments.apps "checkout" is forbidden: User "x" cannot patch resource "deployments""#;
        let text = answer("patch", json!({"code": 403, "reason": "Forbidden", "message": message})).to_string();
        assert!(text.contains(r#"{apiGroups: ["apps"], resources: ["deployments"], verbs: ["patch"]}"#), "{text}");
        assert!(text.contains("namespace shop"), "{text}");
        let cluster = Request { kind: NAMESPACE, namespace: None, ..request("get") };
        assert!(cluster.denied(&Status::failure(message, "Forbidden"), "").contains("ClusterRole"));
        let quota = answer("patch", json!({"code": 403, "message": "exceeded quota: pods=3"})).to_string();
        assert!(quota.contains("exceeded quota") && !quota.contains("apiGroups"), "{quota}");
    }

    #[test]
    fn what_the_server_quotes_of_the_object_is_not_repeated() {
        for field in ["patch", "spec.template.spec.containers[0].image"] {
            let secret = "Invalid value: {\"password\":\"hunter2\"}";
            let e = answer(
                "patch",
                json!({"code": 422, "message": secret, "details": {"causes": [
                    {"field": field, "reason": "FieldValueInvalid", "message": secret}]}}),
            );
            assert_eq!((e.kind(), e.effect()), (Kind::Invalid, Effect::None));
            assert!(!format!("{e:?}").contains("hunter2"), "{e:?}");
        }
    }

    #[test]
    fn an_object_that_is_missing_is_told_from_a_resource_that_is() {
        let gone = |request: Request<'_>| {
            let status = serde_json::from_value(json!({"code": 404, "message": "m"})).unwrap();
            request.failed(kube::Error::Api(Box::new(status))).message().to_owned()
        };
        assert_eq!(gone(request("get")), "there is no Deployment checkout in namespace shop");
        let listed = Request { name: "", ..request("list") };
        assert_eq!(gone(listed), "there is no deployments.apps in namespace shop");
    }

    #[test]
    fn a_refused_connection_sent_nothing() {
        let refused = |kind| kube::Error::Service(Box::new(io::Error::new(kind, "x")));
        let e = request("patch").failed(refused(io::ErrorKind::ConnectionRefused));
        assert_eq!((e.kind(), e.effect()), (Kind::Unavailable, Effect::None));
        let e = request("patch").failed(refused(io::ErrorKind::ConnectionReset));
        assert_eq!((e.kind(), e.effect()), (Kind::Unavailable, Effect::Unknown));
    }
}
