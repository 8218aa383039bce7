//! Processes that die, stand still, and are started again.

use super::{
    SimOptions,
    fault::Fault,
    log::{Life, What},
    scenario::{Controller, Order, Scenario},
    sim::Sim,
};
use crate::{Event, Observer, Outcome, Result, RunId, report::Report, seconds};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::{Sleep, sleep};

/// How often one controller is started again.
const MOST_LIVES: u16 = 60;

/// A future that may be dropped, or not be polled for a while, at any await.
struct Mortal<'a, F> {
    sim: &'a Sim,
    life: Life,
    inner: Option<Pin<Box<F>>>,
    paused: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Mortal<'_, F> {
    /// `None`: it died.
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(paused) = &mut self.paused {
            if paused.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.paused = None;
        }
        let (sim, life) = (self.sim, self.life);
        if sim.overran() {
            self.inner = None;
            return Poll::Ready(None);
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        if let Poll::Ready(out) = inner.as_mut().poll(cx) {
            return Poll::Ready(Some(out));
        }
        let stage = sim.stage(life);
        let killed = sim.hits(life, Fault::Kill, stage);
        if killed || sim.hits(life, Fault::Crash, stage) {
            if killed {
                sim.shared().killed.push(life);
            }
            self.inner = None;
            sim.note(life, What::Died);
            return Poll::Ready(None);
        }
        if sim.hits(life, Fault::Pause, stage) {
            let mut pause = Box::pin(sleep(seconds(20) + sim.millis(0..60_000)));
            let _ = pause.as_mut().poll(cx);
            self.paused = Some(pause);
        }
        Poll::Pending
    }
}

/// Until its orders have ended, one after the other.
pub(super) async fn control(sim: Sim, scenario: Scenario, options: SimOptions, id: u8, controller: Controller) {
    sleep(controller.begins).await;
    if id > 0 {
        let fault = if controller.orders.contains(&Order::BreakGlass) { Fault::BreakGlass } else { Fault::SecondRun };
        let life = Life { controller: id, nth: 0 };
        sim.injected(life, fault, sim.stage(Life { controller: 0, nth: 0 }));
    }
    let mut nth = 0;
    for (n, order) in controller.orders.iter().enumerate() {
        let run = RunId::new(format!("run-{id}-{n}"));
        loop {
            nth += 1;
            if nth > MOST_LIVES || sim.overran() {
                return;
            }
            let life = Life { controller: id, nth };
            if one_life(&sim, &scenario, &options, life, *order, &run).await.is_some() {
                break;
            }
            sleep(sim.millis(0..45_000)).await;
        }
        sleep(sim.millis(0..30_000)).await;
    }
}

/// Hears everything, and tells where a secret is in it.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) sim: Sim,
    pub(super) life: Life,
}

impl Observer for Ear {
    fn on_event(&self, event: &Event) {
        self.sim.leak(self.life, "an event as JSON", &serde_json::to_string(event).unwrap_or_default());
        self.sim.leak(self.life, "an event as Debug", &format!("{event:?}"));
    }
}

/// One process, to its end or its death.
pub(super) async fn one_life(
    sim: &Sim,
    scenario: &Scenario,
    options: &SimOptions,
    life: Life,
    order: Order,
    run: &RunId,
) -> Option<Outcome> {
    let rollback = scenario.rollback(sim, life, order, run, options);
    let driven = async {
        let report: Result<Report> = match order {
            Order::BreakGlass => Ok(rollback.break_glass("simulated").await),
            _ => rollback.run().await,
        };
        report
    };
    let mortal = Mortal { sim, life, inner: Some(Box::pin(driven)), paused: None };
    let report = mortal.await?;
    let (outcome, lines, frozen) = match report {
        Ok(report) => {
            if sim.secrets {
                sim.leak(life, "the report as JSON", &report.to_json());
                sim.leak(life, "the report as text", &report.to_string());
                sim.leak(life, "the report as Debug", &format!("{report:?}"));
            }
            let frozen = [!report.frozen().is_empty(), !report.maybe_frozen().is_empty()];
            (report.outcome().clone(), report.lines().to_vec(), frozen)
        }
        Err(error) => (Outcome::Refused { why: error.to_string(), lift: String::new() }, vec![], [false; 2]),
    };
    let scene = Box::new(sim.platform.world().scene());
    sim.note(life, What::Ended { outcome: outcome.clone(), lines, scene, frozen });
    Some(outcome)
}
