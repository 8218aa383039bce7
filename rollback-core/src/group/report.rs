//! One report of all members.

use super::{OnFailure, Order};
use crate::{Fault, Outcome, Report, RunId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How it went with one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemberEnd {
    /// It ran; the report says how it ended.
    Ran(Box<Report>),
    /// It could not even be tried.
    NotTried(Fault),
    /// It was never begun, because of what failed before it.
    Untouched,
}

/// A member of a group, and how it went with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// Its name.
    pub name: String,
    /// How it went.
    pub end: MemberEnd,
}

impl Member {
    /// How it ended, if it ran.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.end {
            MemberEnd::Ran(report) => Some(report.outcome()),
            MemberEnd::NotTried(_) | MemberEnd::Untouched => None,
        }
    }
    /// Its report, if it ran.
    pub fn report(&self) -> Option<&Report> {
        match &self.end {
            MemberEnd::Ran(report) => Some(report),
            MemberEnd::NotTried(_) | MemberEnd::Untouched => None,
        }
    }
}

/// The report of a group. `Display` writes it for terminals, [`to_json`](GroupReport::to_json) for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupReport {
    order: Order,
    members: Vec<Member>,
}

impl GroupReport {
    pub(super) fn new(order: Order, members: Vec<Member>) -> Self {
        Self { order, members }
    }
    /// Which group.
    pub fn run(&self) -> &RunId {
        self.order.run()
    }
    /// In which order.
    pub fn order(&self) -> &Order {
        &self.order
    }
    /// Every member, each after all it comes after.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
    /// One member.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
    /// Every member ended well.
    pub fn is_good(&self) -> bool {
        self.members.iter().all(|member| member.outcome().is_some_and(Outcome::is_good))
    }
    /// Those that did not end well, or could not be tried.
    pub fn failed(&self) -> Vec<&str> {
        self.named(|member| match &member.end {
            MemberEnd::Ran(report) => !report.outcome().is_good(),
            MemberEnd::NotTried(_) => true,
            MemberEnd::Untouched => false,
        })
    }
    /// Those that were never begun.
    pub fn untouched(&self) -> Vec<&str> {
        self.named(|member| member.end == MemberEnd::Untouched)
    }
    fn named(&self, which: impl Fn(&Member) -> bool) -> Vec<&str> {
        self.members.iter().filter(|member| which(member)).map(|member| member.name.as_str()).collect()
    }
    /// What a person must still do. Empty if nothing.
    pub fn to_do(&self) -> Vec<String> {
        let mut todo = vec![];
        for member in &self.members {
            let name = &member.name;
            match &member.end {
                MemberEnd::Ran(report) => todo.extend(report.to_do().into_iter().map(|what| format!("{name}: {what}"))),
                MemberEnd::NotTried(fault) => todo.push(format!("{name}: {}", fault.message)),
                MemberEnd::Untouched => {}
            }
        }
        let (failed, untouched) = (self.failed(), self.untouched());
        if !failed.is_empty() {
            let went: Vec<_> = self.named(|member| member.outcome().is_some_and(Outcome::is_good));
            let mut what = format!("decide how the group goes on without {}", failed.join(", "));
            if !went.is_empty() {
                what.push_str(&format!(
                    "; left where they were taken, because the way forward again leads to releases known bad: {}",
                    went.join(", ")
                ));
            }
            if !untouched.is_empty() {
                what.push_str(&format!("; not touched: {}", untouched.join(", ")));
            }
            todo.push(what);
        }
        todo
    }
    /// As JSON.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["good"] = self.is_good().into();
        value["failed"] = self.failed().into();
        value["untouched"] = self.untouched().into();
        value["to_do"] = self.to_do().into();
        format!("{value:#}")
    }
}

impl fmt::Display for GroupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, untouched) = (self.failed(), self.untouched());
        let all = self.members.len();
        write!(f, "group {}: {} of {all} ended well", self.run(), all - failed.len() - untouched.len())?;
        if !failed.is_empty() {
            let then = match self.order.on_failure() {
                OnFailure::Hold => "held",
                OnFailure::GoOn => "gone on with the others",
            };
            write!(f, ", {} failed ({then})", failed.join(", "))?;
        }
        if !untouched.is_empty() {
            write!(f, ", {} untouched", untouched.join(", "))?;
        }
        writeln!(f)?;
        for member in &self.members {
            write!(f, "  {}: ", member.name)?;
            match &member.end {
                MemberEnd::Ran(report) => writeln!(f, "{} (run {})", report.outcome(), report.run())?,
                MemberEnd::NotTried(fault) => writeln!(f, "not tried: {fault}")?,
                MemberEnd::Untouched => writeln!(f, "untouched")?,
            }
        }
        let todo = self.to_do();
        if !todo.is_empty() {
            writeln!(f, "  still to do")?;
            for what in todo {
                writeln!(f, "    {what}")?;
            }
        }
        for report in self.members.iter().filter_map(Member::report) {
            write!(f, "\n{report}")?;
        }
        Ok(())
    }
}
