//! Checks and contexts for tests.

use super::{Context, Health, Probe};
use crate::{Identity, Observation, PartState, Token};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Of a target with one part, which runs `good`.
pub(crate) fn context() -> Context {
    let now = Observation::of_one(Identity::new("here", "1"), PartState::of("good"), Token::none());
    Context::new("test:t".into(), "bad", "good", now)
}
/// One letter an answer: `h`, `u`, `?`.
pub(crate) fn letter(health: &Health) -> char {
    match health {
        Health::Healthy(_) => 'h',
        Health::Unhealthy(_) => 'u',
        Health::Unknown(_) => '?',
    }
}
fn answer(letter: char, seen: String) -> Health {
    match letter {
        'h' => Health::healthy(letter, seen),
        'u' => Health::unhealthy(letter, seen),
        _ => Health::unknown(letter, seen),
    }
}
/// Always the same.
pub(crate) fn says(letter: char) -> Probe {
    Probe::new(letter, move |_: &Context| answer(letter, letter.into()))
}
/// One after the other, the last one for ever; and how many are left.
pub(crate) fn scripted(letters: &'static str) -> (Probe, impl Fn() -> usize) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let next = move |_: &Context| {
        let n = asked.fetch_add(1, Ordering::Relaxed);
        answer(letters.chars().nth(n).or(letters.chars().last()).unwrap_or('?'), format!("number {n}"))
    };
    (Probe::new("scripted", next), move || letters.len().saturating_sub(count.load(Ordering::Relaxed)))
}
