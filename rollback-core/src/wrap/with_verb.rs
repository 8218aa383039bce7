//! One thing more that a target can be asked to do.

use crate::{
    Applied, Approved, Capabilities, Change, DiffLine, Error, EvidenceSource, Kind, Look, Nudges, Observation,
    Prepared, Record, Release, Result, Strategy, Target, TargetId, Token, VerbName, When, Work, process::Process,
    redact::shortened,
};
use async_trait::async_trait;
use std::{fmt, sync::Arc};

/// A target with one more verb, which a command carries out: a failover, a cache that is emptied. Nothing asks for it but a
/// strategy that names it, as [`strategy::Verb`](crate::strategy::Verb) does.
///
/// The command gets `ROLLBACK_KEY` (the same at each attempt), `ROLLBACK_RUN`, `ROLLBACK_EPOCH`, `ROLLBACK_TARGET`, and the
/// arguments of the verb as `ROLLBACK_RELEASE`, `ROLLBACK_SUSPECT` and so on. It runs **at least once**: where its answer
/// was lost, it is run again with the same key. It may take as long as the step may; then it is killed. Exit code 0 is
/// success; what it wrote to its error output last is in the report, so no secrets there.
///
/// ```
/// use rollback_core::{When, Target, wrap::WithVerb};
/// # use rollback_core::testing::FakePlatform;
/// let shop = FakePlatform::new();
/// let shop = WithVerb::new(shop, "fail-over", ["/usr/local/bin/fail-over", "checkout", "eu-2"]);
/// assert_eq!(shop.capabilities().verbs["fail-over"], When::Asked);
/// ```
#[derive(Clone)]
pub struct WithVerb<T> {
    inner: T,
    verb: VerbName,
    argv: Arc<Vec<String>>,
}

impl<T> WithVerb<T> {
    /// Around a target: the name of the verb, and the command with its arguments.
    pub fn new(inner: T, verb: impl Into<VerbName>, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { inner, verb: verb.into(), argv: Arc::new(argv.into_iter().map(Into::into).collect()) }
    }
    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }
    fn is_it(&self, change: &Change) -> bool {
        matches!(change, Change::Verb { name, .. } if *name == self.verb)
    }
}

/// Arguments may be secrets, and stay out.
impl<T: fmt::Debug> fmt::Debug for WithVerb<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, verb, .. } = self;
        f.debug_struct("WithVerb").field("inner", inner).field("verb", verb).field("program", &self.program()).finish()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: Target> Target for WithVerb<T> {
    fn id(&self) -> &TargetId {
        self.inner.id()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities().with_verb(self.verb.clone(), When::Asked)
    }
    async fn observe(&self, look: Look) -> Result<Observation> {
        self.inner.observe(look).await
    }
    async fn history(&self, limit: usize) -> Result<Vec<Release>> {
        self.inner.history(limit).await
    }
    async fn prepare(&self, change: &Change, work: &Work) -> Result<Prepared> {
        if !self.is_it(change) {
            return self.inner.prepare(change, work).await;
        }
        let line = DiffLine { what: format!("runs {}", self.program()), from: None, to: None };
        Ok(Prepared::new(change).with_diff([line]))
    }
    async fn apply(&self, approved: &Approved, token: Token, work: &Work) -> Result<Applied> {
        let Change::Verb { arguments, .. } = &approved.change else {
            return self.inner.apply(approved, token, work).await;
        };
        if !self.is_it(&approved.change) {
            return self.inner.apply(approved, token, work).await;
        }
        let mut command = Process::new(self.argv.iter().cloned())
            .env("ROLLBACK_KEY", work.key())
            .env("ROLLBACK_RUN", work.run().as_str())
            .env("ROLLBACK_EPOCH", work.epoch().to_string())
            .env("ROLLBACK_TARGET", self.id().as_str())
            .within(work.within())
            .stdout_limit(0);
        for (name, value) in arguments {
            command = command.env(format!("ROLLBACK_{}", name.to_uppercase().replace('-', "_")), value);
        }
        let output = command.run().await.map_err(|e| e.with_target(self.id()))?;
        if output.is_success() {
            return Ok(Applied::done());
        }
        let last = shortened(output.stderr.lines().next_back().unwrap_or_default(), 200);
        let message = format!("{} failed ({output}): {last}", self.program());
        Err(Error::new(Kind::Unexpected, format!("ask for {}", self.verb)).with_target(self.id()).with_message(message))
    }
    fn recorder(&self) -> Option<Arc<dyn Record>> {
        self.inner.recorder()
    }
    fn evidence(&self) -> Option<Arc<dyn EvidenceSource>> {
        self.inner.evidence()
    }
    fn strategy(&self) -> Option<Arc<dyn Strategy>> {
        self.inner.strategy()
    }
    fn nudges(&self) -> Option<Nudges> {
        self.inner.nudges()
    }
}
