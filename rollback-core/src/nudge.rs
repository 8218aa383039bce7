//! That another look may show something new: what a run waits for besides the time of its next look.
//!
//! Not here: what has changed. A run looks for itself, and goes by what it sees.

use tokio::sync::watch;

/// Says to whoever waits that something may have changed. Cheap to clone.
///
/// ```
/// use rollback_core::Nudger;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let nudger = Nudger::new();
/// let mut nudges = nudger.nudges();
/// nudger.nudge();
/// nudger.nudge(); // many before the next look are one
/// nudges.next().await;
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Nudger(watch::Sender<()>);

impl Nudger {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// What [`Target::nudges`](crate::Target::nudges) gives: those from now on.
    pub fn nudges(&self) -> Nudges {
        Nudges(self.0.subscribe())
    }
    /// Another look may show something new. Never waits.
    pub fn nudge(&self) {
        self.0.send_replace(());
    }
    /// Somebody may still wait.
    pub fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

/// Where a run hears that another look may show something new. It is a hint: one too many costs a look, one that is lost
/// costs the time until the next look ([`Policy::poll`](crate::Policy)).
#[derive(Debug)]
pub struct Nudges(watch::Receiver<()>);

impl Nudges {
    /// Waits for the next one; those since the last call count as one. Never returns once every [`Nudger`] is gone. Cancel
    /// safe.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_there(nudges: &mut Nudges) -> bool {
        tokio::time::timeout(Duration::from_secs(1), nudges.next()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_one_and_none_is_lost() {
        let nudger = Nudger::new();
        let mut nudges = nudger.nudges();
        assert!(!is_there(&mut nudges).await, "none yet");
        nudger.nudge();
        nudger.clone().nudge();
        assert!(is_there(&mut nudges).await);
        assert!(!is_there(&mut nudges).await, "two were one");
        assert!(nudger.is_heard());
        drop(nudger);
        assert!(!is_there(&mut nudges).await, "nobody is left to say so: that is no news");
    }
}
