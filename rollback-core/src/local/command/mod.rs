//! Any tool as a target: a program for each thing that a target can do, without a shell.
//!
//! [`CommandTarget`] runs them, [`CommandOptions`] says which, [`Tool`] is one call of one. By default a tool speaks the
//! protocol below; one that does not is read by a closure ([`Tool::read_by`]), so that most tools need no script around
//! them.
//!
//! Not here: what a release of the tool is, and whether going back loses data. Only the tool knows.
//!
//! # What is run
//! | verb | placeholders | must | answers |
//! |---|---|---|---|
//! | observe | `{target}` | yes | what runs |
//! | history | `{target}` `{limit}` | yes | the releases, newest first |
//! | apply | `{target}` `{release}` `{from}` `{run}` `{key}` `{epoch}` `{token}` | yes | how far it came |
//! | apply, forward | as apply | no | how far it came: instead of apply, towards a newer release |
//! | prepare | `{target}` `{release}` `{from}` `{run}` `{key}` `{epoch}` | no | what would change |
//! | resolve | `{target}` `{revision}` | no | the absolute release of a relative revision |
//! | record | `{target}` `{label}` | no | the release that runs, made findable |
//! | evidence | `{target}` `{run}` `{key}` `{epoch}` `{bytes}` | no | what to save before the first change |
//!
//! - A placeholder is replaced within one argument: what is put in can never become a second argument, nor an option,
//!   because a release that begins with `-` is refused. An unknown one, or one that the verb does not have, is refused when
//!   the target is made. `{{` is left as it is.
//! - The same values are in the environment: `ROLLBACK_VERB`, `ROLLBACK_TARGET`, `ROLLBACK_RELEASE`, `ROLLBACK_FROM`,
//!   `ROLLBACK_RUN`, `ROLLBACK_KEY` (the same for every attempt of a write, in every process), `ROLLBACK_EPOCH`,
//!   `ROLLBACK_TOKEN`, `ROLLBACK_LIMIT`, `ROLLBACK_REVISION`, `ROLLBACK_LABEL`, `ROLLBACK_BYTES`, and for apply `ROLLBACK_WHY`. Observe gets as
//!   `ROLLBACK_KEY` the key of the last write of the run, if there is one.
//! - Apply gets on its standard input what was approved:
//!   `{"v":1,"run":"…","key":"…","epoch":1,"release":"…","from":"…","why":"…","token":…,"instructions":…,"trace":…}`.
//! - Each call is bounded in time; then the tool is killed with all that it started. So it is when the run is dropped.
//! - At most 1 MiB of output is read. Messages show at most 400 characters of it, without the values of
//!   [`with_env`](CommandOptions::with_env).
//!
//! # What is answered
//! One JSON value on standard output, with the fields below and no others. Notes for people go to standard error.
//!
//! **observe**: `running` must be there, `null` for nothing.
//! ```json
//! { "running": "4f2a91c0d1e2", "scope": "postgres at db.shop:5432", "object": "7391", "token": "xid 8812" }
//! ```
//! `running` may also be `{"mixed": {"4f2a": 2, "77b0": 1}}`, `{"between": {"from": "77b0", "to": "4f2a", "state": "3 of 5
//! statements"}}` or `{"unknown": "<fingerprint>"}`. Optional: `wanted` (what it was told to run), `settled` (`true`, or why
//! not yet, or `{"never": "why"}`), `ready` and `capacity` (numbers), `addresses`, `owners`, `trace` (what apply was given
//! as `trace`, if the tool can keep it). `scope` tells one cluster, account or host from another, and `object` one object
//! from another of the same name: a rollback stops if they change.
//!
//! **history**: ids, or objects: `id`, and optionally `label`, `why`, `made_at` (RFC 3339), `available`.
//! ```json
//! [ { "id": "77b0", "label": "add orders.note", "made_at": "2026-11-20T09:00:00Z" }, "4f2a91c0d1e2" ]
//! ```
//! **resolve**: the id, as a JSON string.
//!
//! **record**: one release, as in a history: its id, or an object. It must be harmless to run it again.
//!
//! **evidence**: an object; each field is saved by its name, a string as it is, anything else as JSON. At most as many
//! bytes as `{bytes}` says are kept, the end of what is too long left out.
//! ```json
//! { "locks": "orders: AccessExclusive, pid 4711", "settings": { "lock_timeout": "2s" } }
//! ```
//!
//! **prepare**: all optional. `instructions` is any JSON, up to 64 KiB; it is journalled, shown to the approver as a digest,
//! and handed to apply as it is. `needs_approval` stops for a person. A finding that `blocks` stops the run.
//! ```json
//! { "diff": [ { "what": "column orders.note", "from": "text", "to": null } ],
//!   "needs_approval": "drops column orders.note: 1204 rows lose it",
//!   "findings": [ { "severity": "warning", "code": "locks", "text": "locks orders for about 2 s" } ] }
//! ```
//! Without a prepare, the diff is the release from and to.
//!
//! **apply**: nothing, for *done*; or
//! `{"extent": "done"}`, `{"extent": "submitted"}` (it goes on by itself, and observe shows when it is settled),
//! `{"extent": {"partial": {"done": 3, "of": 5, "reasons": {"locked": 2}}}}`, `{"extent": {"not_started": "why"}}`;
//! and optionally `handle`, any JSON.
//!
//! # Exit codes
//! | code | means | of apply: may it have had an effect? |
//! |---|---|---|
//! | 0 | it worked | it had |
//! | 10 | it is not as the token says | no |
//! | 11 | not found | no |
//! | 12 | not allowed | no |
//! | 13 | not supported | no |
//! | 14 | what was prepared is outdated | no |
//! | 75 | not now, try again | yes |
//! | other, or a signal | unexpected | yes |
//!
//! A tool must exit with 10 to 14 only if it changed nothing. Of a tool that is read by a closure, which does not speak this
//! protocol, every code but 0 is unexpected.
//!
//! # Relative revisions
//! `-1`, `+2`, `head`, `head~1`, `previous`: twice the same is not once the same, so no release may be called so, and no
//! tool may answer so. [`CommandTarget::resolve`] makes an absolute one of what a runbook says, before anything begins.

mod answer;
mod exit;
mod fill;
mod notes;
mod options;
mod revision;
mod target;
mod tool;

pub use answer::{ToolAnswer, ToolEvidence, ToolPrepared, ToolState};
pub use options::CommandOptions;
pub use target::CommandTarget;
pub use tool::{Tool, ToolOutput};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
