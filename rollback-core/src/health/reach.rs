//! Where a check looks: at one fixed place, or at every address of the part that is asked about.

use super::{Context, Evidence, Health, logic::Value};
use crate::{Finding, Severity, join::join_all};
use std::{future::Future, io};

/// Addresses asked at the same time.
const AT_ONCE: usize = 16;
/// Lines of evidence of one check: a part may have a thousand instances.
const LINES: usize = 16;

/// The service, and not the way to it, is why there is no connection.
pub(super) fn is_the_service(e: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(
        e.kind(),
        E::ConnectionRefused
            | E::ConnectionReset
            | E::ConnectionAborted
            | E::BrokenPipe
            | E::UnexpectedEof
            | E::TimedOut
    )
}

/// The addresses of the part asked about, or of all that serve. `Err`: why there are none.
pub(super) fn addresses(context: &Context, what: &str) -> Result<Vec<String>, Health> {
    let parts: Vec<_> = match &context.part {
        Some(id) => context.now.parts.get(id).map(|part| (id, part)).into_iter().collect(),
        None => context.now.serving().collect(),
    };
    if parts.is_empty() {
        let seen = match &context.part {
            Some(id) => format!("there is no part {id}"),
            None => "no part serves".into(),
        };
        return Err(Health::unknown(what, seen));
    }
    if let Some((id, _)) = parts.iter().find(|(_, part)| part.addresses.is_empty()) {
        return Err(Health::unknown(what, format!("the target does not say where part {id} is reached")));
    }
    let mut all: Vec<String> = vec![];
    for address in parts.iter().flat_map(|(_, part)| &part.addresses) {
        if !all.contains(address) {
            all.push(address.clone());
        }
    }
    Ok(all)
}

/// Nobody says where to ask, although something runs there that could be asked.
pub(super) fn nowhere(context: &Context, what: &str) -> Vec<Finding> {
    let mut parts = context.now.parts.iter();
    let some = parts.any(|(_, part)| !part.addresses.is_empty());
    let runs = context.now.parts.iter().find(|(_, part)| part.ready.is_some_and(|ready| ready > 0));
    match runs.filter(|_| !some) {
        Some((id, _)) => {
            let text = format!(
                "{what} has nothing to ask: the target does not say where part {id} is reached; tell it the port, or give \
                 the check an address"
            );
            vec![Finding::new(Severity::Blocks, "address", text)]
        }
        None => vec![],
    }
}

/// Asks every place, a few at once; all must be healthy. Of many, the evidence of those that are not comes first.
pub(super) async fn each<T, F: Future<Output = Health>>(what: &str, places: Vec<T>, ask: impl Fn(T) -> F) -> Health {
    let of = places.len();
    let (mut good, mut bad) = (vec![], vec![]);
    let mut places = places.into_iter();
    loop {
        let batch: Vec<F> = places.by_ref().take(AT_ONCE).map(&ask).collect();
        if batch.is_empty() {
            break;
        }
        for answer in join_all(batch).await {
            if answer.is_healthy() { good.push(answer) } else { bad.push(answer) }
        }
    }
    let healthy = good.len();
    let (value, mut evidence) = Health::all(bad.into_iter().chain(good)).split();
    if evidence.len() > LINES {
        let left_out = evidence.len() - LINES;
        evidence.truncate(LINES);
        evidence.push(Evidence::new(what, format!("{healthy} of {of} are healthy; {left_out} more lines left out")));
    }
    match (value, evidence.is_empty()) {
        (Value::Unknown, true) => Health::unknown(what, "nothing was asked"),
        (value, _) => value.with(evidence),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::*;
    use super::*;
    use crate::{Identity, Observation, PartId, PartState, Token, Weight};

    fn of(parts: impl IntoIterator<Item = (&'static str, PartState)>) -> Context {
        let parts = parts.into_iter().map(|(id, part)| (PartId::from(id), part));
        let now = Observation::new(Identity::new("here", "1"), parts, Token::none());
        Context::new("test:t".into(), "bad", "good", now)
    }
    fn at(addresses: &[&str]) -> PartState {
        PartState::of("good").with_addresses(addresses.iter().map(|a| a.to_string()))
    }

    #[test]
    fn the_part_asked_about_or_all_that_serve() {
        let all = of([
            ("blue", at(&["b:1"])),
            ("green", at(&["g:1", "b:1"])),
            ("old", at(&["o:1"]).with_weight(Weight::NONE)),
        ]);
        assert_eq!(addresses(&all, "x").unwrap(), ["b:1", "g:1"]);
        assert_eq!(addresses(&all.clone().with_part(Some("old".into())), "x").unwrap(), ["o:1"]);
        assert_eq!(letter(&addresses(&all.with_part(Some("none".into())), "x").unwrap_err()), '?');
        assert_eq!(letter(&addresses(&of([("blue", at(&["b:1"])), ("green", at(&[]))]), "x").unwrap_err()), '?');
        assert_eq!(letter(&addresses(&of([]), "x").unwrap_err()), '?');
    }

    #[test]
    fn where_nobody_says_where_to_ask_it_is_known_before() {
        let runs = |addresses: &[&str]| at(addresses).with_capacity(1, 1);
        let found = |context: &Context| nowhere(context, "x").len();
        assert_eq!(found(&of([("blue", runs(&[]))])), 1);
        assert_eq!(found(&of([("blue", runs(&["b:1"])), ("green", runs(&[]))])), 0, "it says where, once there is one");
        assert_eq!(found(&of([("blue", at(&[]).with_capacity(1, 0))])), 0, "what does not run has no address");
    }

    #[tokio::test]
    async fn of_many_the_bad_ones_come_first_and_the_rest_is_counted() {
        let ask = |n: u32| async move {
            if n == 77 { Health::unhealthy("77", "no") } else { Health::healthy(n.to_string(), "yes") }
        };
        let seen = each("all", (0..100).collect(), ask).await;
        assert_eq!(letter(&seen), 'u');
        assert_eq!(seen.evidence()[0].what, "77");
        assert_eq!(seen.evidence().len(), LINES + 1);
        assert_eq!(seen.evidence()[LINES].seen, "99 of 100 are healthy; 84 more lines left out");
    }
}
