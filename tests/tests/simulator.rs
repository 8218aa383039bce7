//! The simulator finds nothing in the engine, and finds every bug that is planted in it.
#![allow(clippy::unwrap_used)]

use rollback_core::{
    engine::Bug,
    testing::simulator::{SimOptions, simulate},
};
use std::collections::BTreeMap;

#[test]
fn no_invariant_is_violated() {
    for seed in 0..300 {
        let report = simulate(seed, &SimOptions::default());
        assert_eq!(report.violations, [], "seed {seed}: `simulate --trace {seed}` shows it");
    }
}

/// Each showed a bug once.
#[test]
fn seeds_that_found_something() {
    // A release that somebody else put on a part that the run had made; a deploy before an abort that was not sent yet; a
    // process that stood still while another one took over and recovered; one that said that nothing was touched, without
    // its journal, while another one had adopted its run; a deploy behind an abort that had not said where it would land; a
    // break-glass that moved the traffic from under a run which was adopted later; three that adopted a run of which an
    // earlier process had lost the journal; a copy of a write that arrived before the write itself, which was refused.
    // Freezes: one that stood still after another had taken over; one whose journal was lost, adopted later.
    let seeds = [12_084, 1_389, 5_352, 8_888, 14_991, 17_599, 24_498, 24_755, 25_351, 7_564, 157, 79, 7_534];
    // A deploy that was taken for an abort's landing, and came again behind the change after it; one that came only once; a
    // write that an earlier process may have sent, refused when it was sent again, and one whose rung was over; one that
    // was sent although the journal, which was out, could not say that another one had taken over.
    let more = [38_282, 41_285, 46_606, 229_669, 250_751];
    // The judge asked for what nobody can know: a freeze by who adopted the run of one without a journal; one without a
    // journal, adopted later; one by who took over from one that stood still; an answer that was lost to one that stood
    // still; a journal with a line missing, and a run to adopt, in answers that never came; what a run without a journal had
    // undone; what was written by who had taken over, while the journal was out.
    let judged = [20_137, 43_474, 70_966, 47_710, 64_113, 20_519, 91_307, 192_739];
    // Nobody at the glass waits for a journal that cannot say whose the lease is.
    let glass = [9_636, 57_227];
    // A copy of a write of the rung before, taken for somebody else's; copies that came before the write itself, which was
    // refused, and nobody could look, looked, or looked at the same object; glass broken within the lease, while the journal
    // could not say so; one that ended as recovered while the target was told to go back.
    let later = [495_140, 647_795, 442_351, 590_471, 447_402, 309_281];
    // The judge asked for what nobody can know: what another run did within the age of a stale read, after the journal was
    // lost; that a journal which answered the second time was lost; what another process sent without its journal; how long
    // a run that was adopted without hearing of it had run.
    let judged_later = [392_118, 367_093, 458_721, 492_076];
    for seed in seeds.into_iter().chain(more).chain(judged).chain(glass).chain(later).chain(judged_later) {
        assert_eq!(simulate(seed, &SimOptions::default()).violations, [], "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..40 {
        let (first, second) = (simulate(seed, &SimOptions::default()), simulate(seed, &SimOptions::default()));
        assert_eq!(
            (first.trace_hash, first.calls, first.took),
            (second.trace_hash, second.calls, second.took),
            "seed {seed}"
        );
        assert_ne!(first.trace_hash, simulate(seed + 1, &SimOptions::default()).trace_hash, "seed {seed}");
    }
}

/// What is simulated is worth it: most seeds see several faults, and most kinds of ends are reached.
#[test]
fn there_is_trouble_enough() {
    let (mut several, mut ends) = (0, BTreeMap::new());
    for seed in 0..200 {
        let report = simulate(seed, &SimOptions::default());
        several += u64::from(report.fault_count() >= 3);
        for end in report.outcomes {
            *ends.entry(end).or_insert(0) += 1;
        }
    }
    assert!(several > 120, "only {several} of 200 seeds see three faults");
    for end in ["recovered", "not recovered", "nothing to do", "rehearsed", "superseded", "refused", "stuck"] {
        assert!(ends.contains_key(end), "{end} was never reached: {ends:?}");
    }
}

/// Without a fault, whatever is begun ends well or says why it did not begin.
#[test]
fn without_faults_nothing_gets_lost() {
    let mut recovered = 0;
    for seed in 0..100 {
        let report = simulate(seed, &SimOptions::default().with_without_faults(true));
        assert_eq!(report.violations, [], "seed {seed}");
        assert_eq!(report.fault_count(), 0, "seed {seed}");
        recovered += report.outcomes.iter().filter(|end| **end == "recovered").count();
    }
    assert!(recovered > 40, "only {recovered} recovered");
}

macro_rules! finds {
    ($($name:ident: $bug:ident within $seeds:literal;)*) => {
        mod finds {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let options = SimOptions::default().with_bug(Some(Bug::$bug));
                    let found = (0..$seeds).find(|seed| !simulate(*seed, &options).violations.is_empty());
                    assert!(found.is_some(), "not found in {} seeds", $seeds);
                }
            )*
            #[test]
            fn every_planted_bug() {
                let tried = [$(Bug::$bug),*];
                for bug in Bug::ALL {
                    assert!(tried.contains(&bug), "{bug:?} has no test");
                }
            }
        }
    };
}
finds! {
    effects_without_an_intent: SkipIntent within 100;
    going_on_after_the_lease_is_lost: IgnoreFence within 1000;
    writing_to_another_object: IgnoreIdentity within 500;
    writing_over_somebody_else: IgnoreForeign within 500;
    sending_again_without_looking: BlindRetry within 500;
    taking_a_lost_answer_for_no_effect: LostIsNone within 500;
    taking_a_lost_answer_for_an_effect: LostIsDone within 500;
    taking_the_wish_for_what_runs: TrustWanted within 500;
    taking_unknown_for_healthy: UnknownIsHealthy within 500;
    passing_gates_by: SkipGate within 100;
    passing_verifiers_by: SkipVerify within 100;
    leaving_too_few_instances: SkipFloor within 3000;
    forgetting_the_time_before_a_crash: ForgetSpent within 500;
    resuming_under_the_old_epoch: AdoptWithoutEpoch within 500;
    going_to_a_release_known_bad: ChooseKnownBad within 500;
    rolling_back_too_often: IgnoreBudget within 1000;
    forgetting_where_an_abort_landed: ForgetLanding within 1000;
    going_past_blindly_what_was_unhealthy: ForgetIll within 1000;
    freezing_without_an_intent: FreezeWithoutIntent within 100;
    taking_a_lost_freeze_for_none: LostFreezeIsNone within 500;
    keeping_secrets: KeepSecrets within 100;
    writing_in_a_rehearsal: DryRunWrites within 500;
}
