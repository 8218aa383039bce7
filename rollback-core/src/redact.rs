//! Secrets out of lines that are kept as evidence.
//!
//! Not here: values whose place is known to be secret, which are left out where they are read.

/// What secrets are called.
const WORDS: [&str; 18] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "accesskey",
    "access-key",
    "private_key",
    "privatekey",
    "private-key",
    "credential",
    "authorization",
    "cookie",
];
/// The same, but too short to be looked for within a longer name, or in a sentence: `it does not pass: …`.
const WHOLE_WORDS: [&str; 2] = ["pass", "sig"];
/// What secrets begin with by which their makers tell them: AWS, GitHub, GitLab, Slack, Stripe, Google; and with how many
/// letters in all they are one.
const SHAPES: [(&str, usize); 13] = [
    ("AKIA", 20),
    ("ASIA", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("ghu_", 20),
    ("github_pat_", 20),
    ("glpat-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("sk_live_", 20),
    ("AIza", 30),
    // The beginning of a JSON object in base64: the head of a JSON web token.
    ("eyJ", 20),
];
/// What stands right before a secret without saying what it is.
const BEFORE: [&str; 2] = ["bearer ", "private key-----"];

/// Whether a variable, a key or a flag of this name may hold a secret.
///
/// ```
/// use rollback_core::redact::names_a_secret;
/// assert!(names_a_secret("DB_PASSWORD") && names_a_secret("--api-key"));
/// assert!(!names_a_secret("DB_HOST"));
/// ```
pub fn names_a_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    WORDS.iter().any(|word| lower.contains(word))
}

/// Blanks out what follows `password=`, `DB_TOKEN_OLD:`, `--token`, `Bearer` and the like, to the end of the line (too much is
/// better than too little), what stands before the `@` of a URL, and words that are known to be secrets by how they begin:
/// JSON web tokens, keys of large providers.
///
/// ```
/// use rollback_core::redact::without_secrets;
/// assert_eq!(without_secrets("db password=hunter2 host=a"), "db password= [redacted]");
/// assert_eq!(without_secrets("to postgres://shop:hunter2@db/shop"), "to postgres://[redacted]@db/shop");
/// ```
pub fn without_secrets(line: &str) -> String {
    let line = without_shapes(&without_logins(line));
    let lower = line.to_ascii_lowercase();
    let named = WORDS
        .iter()
        .flat_map(|word| lower.match_indices(word).map(|(at, word)| at + word.len()))
        .filter_map(|at| lower.get(at..).and_then(value_after).map(|length| at + length));
    let alone = |at: usize| !lower[..at].ends_with(|c: char| c.is_alphanumeric() || "_-".contains(c));
    let whole = WHOLE_WORDS
        .iter()
        .flat_map(|word| lower.match_indices(word).filter(|(at, _)| alone(*at)).map(|(at, word)| at + word.len()))
        .filter_map(|at| lower.get(at..).and_then(assigned).map(|length| at + length));
    let flags = lower.match_indices("--").filter_map(|(at, _)| flag_value(&lower[at..]).map(|length| at + length));
    let known = BEFORE.iter().filter_map(|before| lower.find(before).map(|at| at + before.len()));
    match named.chain(whole).chain(flags).chain(known).min() {
        Some(at) if !line[at..].trim().is_empty() => format!("{} [redacted]", line[..at].trim_end()),
        _ => line,
    }
}

/// [`without_secrets`] of each line, and private keys without what stands between their first and their last line.
///
/// ```
/// use rollback_core::redact::text_without_secrets;
/// assert_eq!(text_without_secrets("db down\npassword=hunter2\nretrying"), "db down\npassword= [redacted]\nretrying");
/// ```
pub fn text_without_secrets(text: &str) -> String {
    let (mut clean, mut in_key) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let ends = line.contains("-----END ");
        if !in_key || ends {
            clean.push_str(&without_secrets(line));
            clean.push_str(end);
        }
        in_key = !ends && (in_key || line.contains("PRIVATE KEY-----"));
    }
    clean
}

/// A text of more characters than `most` without its middle: what was being done stands at its beginning, and the cause that
/// all came from at its end.
///
/// ```
/// use rollback_core::redact::shortened;
/// assert_eq!(shortened("pull the image: ask the registry: connection refused", 30), "pull the … connection refused");
/// assert_eq!(shortened("connection refused", 30), "connection refused");
/// ```
pub fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(3);
    let (head, tail) = (kept / 3, kept - kept / 3);
    let through_a_word = text.chars().nth(count - tail - 1).is_some_and(|before| before != ' ');
    let (head, tail): (String, String) = (text.chars().take(head).collect(), text.chars().skip(count - tail).collect());
    // Not through a word, where there are others.
    let head = head.rsplit_once(' ').map_or(head.as_str(), |(whole, _)| whole);
    let tail = tail.split_once(' ').filter(|_| through_a_word).map_or(tail.as_str(), |(_, whole)| whole);
    format!("{head} … {tail}")
}

/// Where the value begins after a word that names a secret: past the rest of the name, and what separates them.
fn value_after(rest: &str) -> Option<usize> {
    let name = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)))?;
    separator(&rest[name..]).map(|length| name + length)
}

/// Past a quote or a space, and `:` or `=`. Not past `is`: that a token is expired must be told.
fn separator(rest: &str) -> Option<usize> {
    rest.find([':', '=']).filter(|i| *i <= 3 && rest[..*i].chars().all(|c| " \"'\\]".contains(c))).map(|i| i + 1)
}

/// Past `=`, or the quote of a key and `:`.
fn assigned(rest: &str) -> Option<usize> {
    if rest.starts_with('=') { Some(1) } else { separator(rest).filter(|_| rest.starts_with(['"', '\''])) }
}

/// Of `--api-key value` where the value begins.
fn flag_value(rest: &str) -> Option<usize> {
    let end = rest.find(char::is_whitespace)?;
    names_a_secret(&rest[..end]).then_some(end + 1)
}

/// Without the words that are secrets by how they begin.
fn without_shapes(line: &str) -> String {
    let of_a_word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let (mut text, mut rest) = (String::with_capacity(line.len()), line);
    while let Some(at) = rest.find(of_a_word) {
        let (before, after) = rest.split_at(at);
        let (word, behind) = after.split_at(after.find(|c| !of_a_word(c)).unwrap_or(after.len()));
        let secret = SHAPES.iter().any(|(begins, length)| word.len() >= *length && word.starts_with(begins));
        text.push_str(before);
        text.push_str(if secret { "[redacted]" } else { word });
        rest = behind;
    }
    text.push_str(rest);
    text
}

/// `scheme://user:password@host` without user and password.
fn without_logins(line: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(line.len()), line);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        text.push_str(before);
        // A slash in a password is not allowed in a URL, but many write it: what comes first decides.
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c)).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(login) => {
                text.push_str("[redacted]");
                &after[login..]
            }
            None => after,
        };
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_goes_with_all_its_lines() {
        let text = "read\n-----BEGIN PRIVATE KEY-----\nMIIE\nabc\n-----END PRIVATE KEY-----\ndone";
        assert_eq!(text_without_secrets(text), "read\n-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\ndone");
        assert_eq!(text_without_secrets("a\n\nb\n"), "a\n\nb\n");
    }

    #[test]
    fn secrets_are_blanked_out() {
        for (line, kept) in [
            ("GET /health 200", "GET /health 200"),
            ("db password=hunter2 host=a", "db password= [redacted]"),
            (r#"{"api_key": "x", "b": 1}"#, r#"{"api_key": [redacted]"#),
            ("Authorization: Bearer abc", "Authorization: [redacted]"),
            ("took a token from the bucket", "took a token from the bucket"),
            ("AWS_SECRET_ACCESS_KEY=abc", "AWS_SECRET_ACCESS_KEY= [redacted]"),
            ("sent Bearer abc", "sent Bearer [redacted]"),
            ("env DB_PASSWORD_OLD = x", "env DB_PASSWORD_OLD = [redacted]"),
            ("token:", "token:"),
            ("start --token abc -v", "start --token [redacted]"),
            ("start --retry-tokens", "start --retry-tokens"),
            ("the token is expired", "the token is expired"),
            ("GET /blob?sig=abc", "GET /blob?sig= [redacted]"),
            (r#"{"pass":"abc"}"#, r#"{"pass": [redacted]"#),
            ("the design: bypass: on", "the design: bypass: on"),
            ("its health check does not pass: it is down", "its health check does not pass: it is down"),
            ("db user=a pass=abc", "db user=a pass= [redacted]"),
            ("sent eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc on", "sent [redacted] on"),
            ("used AKIAIOSFODNN7EXAMPLE, ghp_0123456789abcdefghij", "used [redacted], [redacted]"),
            ("AKIA is a prefix", "AKIA is a prefix"),
            ("-----BEGIN RSA PRIVATE KEY-----MIIE", "-----BEGIN RSA PRIVATE KEY----- [redacted]"),
            ("to amqp://u:p@mq:5672/a and redis://:p@r", "to amqp://[redacted]@mq:5672/a and redis://[redacted]@r"),
            ("see https://example.com/a@b", "see https://example.com/a@b"),
            ("ü password=ü", "ü password= [redacted]"),
        ] {
            assert_eq!(without_secrets(line), kept);
        }
    }
}
