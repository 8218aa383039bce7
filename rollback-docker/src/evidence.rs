//! What is saved before the first change: how the containers were, what they logged, what happened to them. Values of
//! environment variables are left out.

use crate::{connect::Engine, error, member::Member};
use bollard::query_parameters::{EventsOptions, LogsOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use rollback_core::{Artifact, Bounds, Result, Work, redact::without_secrets};
use std::pin::pin;

/// So many lines of each log.
const LINES: &str = "1000";
/// Events of so long.
const EVENTS_FOR: i64 = 3600;

/// Of these containers, which the engine's events know by this filter; `more` is what else there is to say, by its kind.
///
/// Kinds, in this order: those of `more`, `docker-ps/1`, `docker-inspect/1` (JSON), `docker-events/1`, and for each container
/// `docker-logs/1`.
pub(crate) async fn of(
    engine: &Engine,
    members: &[Member],
    filter: (&str, Vec<String>),
    more: Vec<(&str, String)>,
    bounds: Bounds,
    work: &Work,
) -> Result<Vec<Artifact>> {
    let mut left = bounds.bytes;
    let mut kept = vec![];
    for (kind, text) in more {
        keep(work, kind, text, &mut left, &mut kept).await?;
    }
    keep(work, "docker-ps/1", ps(members), &mut left, &mut kept).await?;
    let seen: Vec<_> = members.iter().map(inspected).collect();
    keep(work, "docker-inspect/1", serde_json::to_string_pretty(&seen).unwrap_or_default(), &mut left, &mut kept)
        .await?;
    keep(work, "docker-events/1", events(engine, filter).await?, &mut left, &mut kept).await?;
    for (i, member) in members.iter().enumerate() {
        let share = left / (members.len() - i) as u64;
        keep(work, "docker-logs/1", log(engine, member, share).await?, &mut left, &mut kept).await?;
    }
    Ok(kept)
}

async fn keep(work: &Work, kind: &str, text: String, left: &mut u64, kept: &mut Vec<Artifact>) -> Result<()> {
    let mut bytes = text.into_bytes();
    bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    if bytes.is_empty() {
        return Ok(());
    }
    let mut writer = work.keep(kind).await?;
    writer.push(&bytes).await?;
    kept.push(writer.seal().await?);
    *left -= bytes.len() as u64;
    Ok(())
}

fn ps(members: &[Member]) -> String {
    members
        .iter()
        .map(|m| format!("{} {} {} {}\n", crate::release::short(&m.id), m.image, m.created, m.describe()))
        .collect()
}

/// As docker inspect shows it, without the values of the environment, of labels that look secret, and without arguments
/// that may hold a password.
fn inspected(member: &Member) -> serde_json::Value {
    let mut seen = member.seen.clone();
    if let Some(config) = &mut seen.config {
        for line in config.env.iter_mut().flatten() {
            let name = line.split_once('=').map_or(line.as_str(), |(name, _)| name);
            *line = format!("{name}=[redacted]");
        }
        config.cmd = config.cmd.as_ref().map(|_| vec!["[redacted]".into()]);
        config.entrypoint = config.entrypoint.as_ref().map(|_| vec!["[redacted]".into()]);
        config.healthcheck = None;
        for (name, value) in config.labels.iter_mut().flatten() {
            if !name.starts_with("com.docker.compose.") && !name.starts_with("rollback.") {
                *value = "[redacted]".into();
            }
        }
    }
    seen.args = None;
    // A probe's output may hold anything.
    if let Some(health) = seen.state.as_mut().and_then(|s| s.health.as_mut()) {
        health.log = None;
    }
    serde_json::to_value(seen).unwrap_or_default()
}

async fn events(engine: &Engine, (filter, values): (&str, Vec<String>)) -> Result<String> {
    // By the engine's clock, and to the moment: of a failure the last second is what is looked for.
    let info = engine.client().info().await.map_err(error::read("read the engine's clock"))?;
    let now = info.system_time.as_deref().and_then(|at| at.parse().ok()).unwrap_or_else(jiff::Timestamp::now);
    let filters = [(filter.to_owned(), values)];
    let options = EventsOptions {
        since: Some((now.as_second() - EVENTS_FOR).to_string()),
        until: Some(format!("{}.{:09}", now.as_second(), now.subsec_nanosecond())),
        filters: Some(filters.into()),
    };
    let events = engine.client().events(Some(options));
    let lines = events.map_ok(|event| {
        let actor = event.actor.and_then(|a| a.attributes).unwrap_or_default();
        let name = actor.get("name").cloned().unwrap_or_default();
        let code = actor.get("exitCode").map(|c| format!(" exit code {c}")).unwrap_or_default();
        // What a health check runs stands after the colon, and may hold a password.
        let action = event.action.unwrap_or_default();
        let action = action.split_once("exec_").map_or(action.as_str(), |_| "exec");
        format!("{} {action} {name}{code}\n", event.time.unwrap_or_default())
    });
    lines.try_collect().await.map_err(error::read("read the events"))
}

/// The end of what it logged.
async fn log(engine: &Engine, member: &Member, most: u64) -> Result<String> {
    let options =
        LogsOptions { stdout: true, stderr: true, timestamps: true, tail: LINES.into(), ..LogsOptions::default() };
    let mut text = format!("{}\n", member.describe());
    let mut lines = pin!(engine.client().logs(&member.id, Some(options)));
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => {
                let line = line.into_bytes();
                text.push_str(&without_secrets(String::from_utf8_lossy(&line).trim_end()));
                text.push('\n');
            }
            // Some log drivers cannot be read.
            Err(e) => {
                text.push_str(&format!("{}\n", error::read("read the log")(e)));
                break;
            }
        }
    }
    Ok(end_of(&text, usize::try_from(most).unwrap_or(usize::MAX)))
}

/// The last lines, so many bytes of them at most.
fn end_of(text: &str, most: usize) -> String {
    let mut from = text.len();
    for line in text.split_inclusive('\n').rev() {
        if text.len() - (from - line.len()) > most {
            break;
        }
        from -= line.len();
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_at_a_line_and_is_bounded() {
        for (most, end) in [(100, "one\ntwo\nthree\n"), (10, "two\nthree\n"), (9, "three\n"), (3, "")] {
            assert_eq!(end_of("one\ntwo\nthree\n", most), end, "{most}");
        }
    }

    #[test]
    fn values_that_may_be_secret_are_left_out() {
        let seen = serde_json::json!({
            "Id": "1", "Name": "/shop", "Image": "sha256:1", "Args": ["--password", "hunter2"],
            "Config": {
                "Env": ["PASSWORD=hunter2", "EMPTY"], "Cmd": ["serve", "hunter2"], "Entrypoint": ["hunter2"],
                "Labels": {"team": "hunter2", "com.docker.compose.service": "shop"},
                "Healthcheck": {"Test": ["CMD", "curl", "hunter2"]},
            },
            "State": {"Running": true, "Health": {"Status": "healthy", "Log": [{"Output": "hunter2"}]}},
        });
        let member = serde_json::from_value(seen).ok().and_then(Member::of).map(|m| inspected(&m).to_string());
        let text = member.unwrap_or_default();
        assert!(text.contains("PASSWORD=[redacted]") && text.contains("\"shop\""), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
