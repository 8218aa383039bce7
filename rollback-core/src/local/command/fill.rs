//! Placeholders in arguments: replaced within one argument, never across.

use crate::{Error, Kind, Result};

/// What a verb knows, by the name of its placeholder. `None`: it has such a placeholder, and nothing to put there.
pub(super) type Values = Vec<(&'static str, Option<String>)>;

/// The argument with its placeholders replaced.
///
/// # Errors
/// [`Kind::Invalid`], without effect, for a placeholder that is not known or has no value.
pub(super) fn fill(argument: &str, mut value: impl FnMut(&str) -> Result<String>) -> Result<String> {
    let mut done = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(open) = rest.find('{') {
        done.push_str(&rest[..open]);
        rest = &rest[open..];
        // `{{…}}` is some other tool's template.
        if let Some(inner) = rest.strip_prefix("{{") {
            let end = inner.find("}}").map_or(rest.len(), |end| end + 4);
            done.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        match rest[1..].split_once('}') {
            Some((name, after)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
                done.push_str(&value(name)?);
                rest = after;
            }
            _ => {
                done.push('{');
                rest = &rest[1..];
            }
        }
    }
    done.push_str(rest);
    Ok(done)
}

/// All arguments, filled.
pub(super) fn argv(argv: &[String], values: &Values) -> Result<Vec<String>> {
    argv.iter()
        .map(|argument| {
            fill(argument, |name| match values.iter().find(|(known, _)| *known == name) {
                Some((_, Some(value))) => Ok(value.clone()),
                Some((_, None)) => Err(Error::new(Kind::Invalid, "run the tool")
                    .with_message(format!("there is nothing to put for {{{name}}} in {argument:?}"))
                    .without_effect()),
                None => Err(unknown(name, argument, &values.iter().map(|(known, _)| *known).collect::<Vec<_>>())),
            })
        })
        .collect()
}

/// Refuses arguments with placeholders that the verb does not have.
pub(super) fn check(argv: &[String], known: &[&str]) -> Result<()> {
    for argument in argv {
        fill(argument, |name| match known.contains(&name) {
            true => Ok(String::new()),
            false => Err(unknown(name, argument, known)),
        })?;
    }
    Ok(())
}

fn unknown(name: &str, argument: &str, known: &[&str]) -> Error {
    let known = known.iter().map(|k| format!("{{{k}}}")).collect::<Vec<_>>().join(" ");
    Error::new(Kind::Invalid, "read the argument")
        .with_message(format!("{{{name}}} in {argument:?} is no placeholder here; there are {known}"))
        .without_effect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn filled(argument: &str) -> Result<String> {
        let values = vec![("release", Some("a b; {run}".to_owned())), ("from", None)];
        Ok(argv(&[argument.to_owned()], &values)?.remove(0))
    }

    #[test]
    fn a_placeholder_stays_within_its_argument_and_is_filled_once() {
        assert_eq!(filled("{release}").unwrap(), "a b; {run}");
        assert_eq!(filled("--to={release}:{release}").unwrap(), "--to=a b; {run}:a b; {run}");
        for left in ["", "plain", "{", "}", "{}", "{\"a\": 1}", "{A}", "{{json}}", "{{release}}", "{{release", "a{b"] {
            assert_eq!(filled(left).unwrap(), left);
        }
        assert_eq!(filled("{{x}}{release}").unwrap(), "{{x}}a b; {run}");
        assert_eq!(filled("{ {release}").unwrap(), "{ a b; {run}");
    }

    #[test]
    fn what_is_not_known_or_has_no_value_is_refused() {
        let e = filled("{relase}").unwrap_err();
        assert!(e.message().contains("{relase}") && e.message().contains("{release}"), "{e}");
        assert_eq!(filled("{from}").unwrap_err().kind(), Kind::Invalid);
        assert!(check(&["x".into(), "{token}".into()], &["release"]).is_err());
        check(&["x".into(), "{token}".into()], &["token"]).unwrap();
    }
}
