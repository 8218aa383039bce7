//! What comes from outside is freed of what looks like a secret before anything is decided, journalled or told: texts of
//! errors, of health answers, of findings and diffs, and what a platform says that it waits for.
//!
//! Not here: names, ids and payloads, which must stay what they are; and what a caller says himself.

use super::ask::Answer;
use crate::{
    Applied, Approved, Evidence, Extent, Fault, Health, Observation, Past, Prepared, Settled, Verdict,
    redact::text_without_secrets,
};
pub(super) fn scrub(answer: &mut Answer) {
    match answer {
        Answer::Identified(Err(fault))
        | Answer::Begun(Err(fault))
        | Answer::Appended(Err(fault))
        | Answer::Observed(Err(fault))
        | Answer::Prepared(Err(fault))
        | Answer::Approval(Err(fault))
        | Answer::Froze(Err(fault))
        | Answer::Held(Err(fault))
        | Answer::Tried(Err(fault))
        | Answer::Applied(Err(fault))
        | Answer::Checked(Err(fault))
        | Answer::Verified(Err(fault))
        | Answer::Evidence(_, Some(fault))
        | Answer::Fenced(fault) => self::fault(fault),
        Answer::Observed(Ok(seen)) => observation(seen),
        Answer::Past(past, lost) => {
            match past {
                Ok(past) => self::past(past),
                Err(fault) => self::fault(fault),
            }
            lost.iter_mut().for_each(|(_, fault)| self::fault(fault));
        }
        Answer::Planned(Err(no)) => text(&mut no.why),
        Answer::Prepared(Ok(prepared)) => self::prepared(prepared),
        Answer::Tried(Ok(verdict)) | Answer::Verified(Ok(verdict)) => match verdict {
            Verdict::Holds(seen) | Verdict::Fails(seen) | Verdict::Unknown(seen) => evidence(seen),
        },
        Answer::Checked(Ok(health)) => match health {
            Health::Healthy(seen) | Health::Unhealthy(seen) | Health::Unknown(seen) => evidence(seen),
        },
        Answer::Applied(Ok(applied)) => self::applied(applied),
        Answer::Start(_)
        | Answer::Identified(Ok(_))
        | Answer::Begun(Ok(_))
        | Answer::Appended(Ok(()))
        | Answer::Planned(Ok(_))
        | Answer::Approval(Ok(_))
        | Answer::Froze(Ok(_))
        | Answer::Held(Ok(_))
        | Answer::Evidence(_, None)
        | Answer::Woke => {}
    }
}

fn text(text: &mut String) {
    // What names a secret, or stands before one, has one of these behind it.
    if text.contains([':', '=', ' ']) {
        *text = text_without_secrets(text);
    }
}

fn fault(fault: &mut Fault) {
    text(&mut fault.message);
}

fn evidence(seen: &mut [Evidence]) {
    for evidence in seen {
        text(&mut evidence.what);
        text(&mut evidence.seen);
    }
}

fn observation(seen: &mut Observation) {
    for (_, part) in &mut seen.parts {
        match &mut part.settled {
            Settled::Yes => {}
            Settled::NotYet { why } | Settled::Never { why } => text(why),
        }
    }
}

fn past(past: &mut Past) {
    let marked = past.ledger.iter_mut().map(|entry| &mut entry.release);
    for release in past.history.iter_mut().chain(marked) {
        release.why.iter_mut().for_each(text);
    }
}

fn prepared(prepared: &mut Prepared) {
    prepared.findings.iter_mut().for_each(|finding| text(&mut finding.text));
    // Before anybody saw its digest.
    approved(&mut prepared.approved);
}

fn approved(approved: &mut Approved) {
    for line in &mut approved.diff {
        line.from.iter_mut().chain(&mut line.to).for_each(text);
        text(&mut line.what);
    }
    approved.needs_approval.iter_mut().for_each(text);
}

fn applied(applied: &mut Applied) {
    applied.notes.iter_mut().for_each(text);
    match &mut applied.extent {
        Extent::Done | Extent::Submitted => {}
        Extent::NotStarted { why } => text(why),
        Extent::Partial { reasons, .. } => {
            for (mut why, times) in std::mem::take(reasons) {
                text(&mut why);
                *reasons.entry(why).or_default() += times;
            }
        }
    }
}
