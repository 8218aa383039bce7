//! Takes a running service back to a release that works, and proves that it did.
//!
//! # Words
//! A [`Target`] has [`Release`]s. Something blames one, the *suspect*; [`Choose`] picks the one to go back to. A
//! [`Strategy`] makes a [`Plan`] of [`Change`]s, the [`engine`] carries it out and writes every intent and every outcome to
//! a [`Journal`], a [`HealthCheck`] says whether it is OK now, [`Verifier`]s whether it helped, and the report says what
//! became of it: reverted is not recovered.
//!
//! # Features
//! | feature | what it brings | cost |
//! |---|---|---|
//! | `local` (default) | local targets; checks, freezes and approvals by commands, files, TCP and the terminal | tokio's processes and sockets |
//! | `watch` (default) | metrics, rules over them, the watch, verifiers of metrics | nothing |
//! | `group` (default) | several rollbacks in dependency order | four small crates |
//! | `host` | child processes and small files, for back ends that work through them; part of `local` | tokio's processes |
//! | `sqlite` (default) | the journal in one SQLite file | a C compiler, about 20 s of build |
//! | `http` | HTTP health checks, plain | reqwest without TLS |
//! | `tls` | HTTPS for everything that speaks HTTP | rustls |
//! | `prometheus` | metrics from a text page or a Prometheus server | a parser, a query client |
//! | `mock` | mockall types of the public traits | mockall |
//! | `testing` | fake platform, conformance laws, simulator | nothing |
//!
//! A crate that brings a back end depends on this one with `default-features = false`: traits, engine, strategies, the rest
//! of the checks and verifiers, the journal in memory and reports are always there, and nothing of what is above is needed
//! to implement a target. How many crates each feature adds stands in the README. Rust 1.89 or newer. Linux; macOS as far as it compiles.

#[cfg(feature = "mock")]
pub mod mock;

mod blocking;
mod capabilities;
mod change;
mod choose;
mod error;
mod join;
mod names;
mod nudge;
mod observation;
mod part_map;
mod payload;
mod plan;
mod prepared;
mod release;
mod rollback;
mod target;
mod time;
mod weight;
mod work;

pub mod approve;
#[cfg(feature = "host")]
pub mod atomic_file;
pub mod engine;
pub mod freeze;
#[cfg(feature = "group")]
pub mod group;
pub mod health;
pub mod journal;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "watch")]
pub mod metric;
pub mod observe;
#[cfg(feature = "host")]
pub mod process;
pub mod record;
#[doc(hidden)]
pub mod redact;
pub mod report;
pub mod status;
pub mod strategy;
#[cfg(feature = "testing")]
pub mod testing;
pub mod verify;
#[cfg(feature = "watch")]
pub mod watch;
pub mod wrap;

pub use approve::{Approval, ApprovalRequest, Approver};
pub use capabilities::{Capabilities, Fencing, OnUnknown, Pacing, Parts, Weights, When};
pub use change::{Capacity, Change, ChangeKind, Shape, Wish};
pub use choose::{Choose, Chosen, NoChoice, Past};
pub use engine::{At, Budget, Entry, Event, EventKind, Intent, Line, OrderedBy, Outcome, Policy, Support};
pub use error::{Effect, Error, Fault, Kind, Result};
pub use freeze::{Freeze, Hold};
pub use health::{Context, Evidence, Health, HealthCheck};
pub use journal::{ArtifactReader, ArtifactWriter, Begun, HeldFreeze, Journal, Lease, RunQuery, RunSummary, Shelf};
pub use names::{Digest, PartId, ReleaseId, RunId, TargetId, VerbName};
pub use nudge::{Nudger, Nudges};
pub use observation::{
    Found, Handle, Identity, InFlight, Landing, Look, Mark, Observation, Ours, PartState, Running, Settled, Token,
    Trace,
};
pub use observe::Observer;
pub use part_map::PartMap;
pub use payload::{Payload, Stored};
pub use plan::{Gate, Plan, Rung, Situation, Step};
pub use prepared::{Applied, Approved, Artifact, DiffLine, Expected, Extent, Finding, Prepared, Severity};
pub use release::{LedgerEntry, Release, Standing};
pub use report::Report;
pub use rollback::{IntoJournal, Rollback};
pub use status::Status;
pub use strategy::{Strategy, Unplannable};
pub use target::{Bounds, EvidenceSource, Record, Target, Targets};
pub use time::{Clock, Now, SystemClock, Timestamp, hours, minutes, seconds};
pub use verify::{Verdict, Verifier, Verifiers, Window};
pub use weight::Weight;
pub use work::Work;

/// What a program that rolls something back usually needs.
pub mod prelude {
    #[cfg(feature = "group")]
    pub use crate::group::*;
    #[cfg(feature = "local")]
    pub use crate::local::*;
    pub use crate::{
        Choose, Context, Error, Evidence, Health, HealthCheck, IntoJournal, Journal, Kind, Observer, OrderedBy,
        Outcome, Policy, Release, ReleaseId, Result, Rollback, Status, Strategy, Target, TargetId, Timestamp, Verdict,
        Verifier, Weight, approve::*, freeze::*, health::*, hours, journal::*, minutes, observe::*, report::*, seconds,
        strategy::*, verify::*, wrap::*,
    };
    #[cfg(feature = "watch")]
    pub use crate::{metric::*, watch::*};
}

// Dyn compatible, and their futures are Send: checked by the compiler.
#[allow(dead_code, clippy::too_many_arguments)]
fn dyn_compatible(
    _: &dyn Target,
    _: &dyn Record,
    _: &dyn EvidenceSource,
    _: &dyn Targets,
    _: &dyn Strategy,
    _: &dyn HealthCheck,
    _: &dyn Verifier,
    _: &dyn Freeze,
    _: &dyn Approver,
    _: &dyn Observer,
    _: &dyn Journal,
    _: &dyn Shelf,
    _: &dyn Clock,
) {
}
#[allow(dead_code)]
fn futures_are_send(target: &dyn Target) -> impl Send + '_ {
    target.observe(Look::full())
}
