//! A closure is a verifier.

use super::{Verdict, Verifier, Window};
use crate::{Context, Result};
use async_trait::async_trait;
use std::{fmt, future::Future, pin::Pin, sync::Arc};

type Asked = Pin<Box<dyn Future<Output = Result<Verdict>> + Send>>;

/// A verifier made of a closure.
///
/// ```
/// use rollback_core::{Context, Evidence, Verdict, Window, verify::Verify};
/// let orders = Verify::with("orders come in", Window::default(), |_: Context| async {
///     Ok(Verdict::Holds(vec![Evidence::new("orders", "12 in the last minute")]))
/// });
/// ```
#[derive(Clone)]
pub struct Verify {
    name: String,
    window: Window,
    ask: Arc<dyn Fn(Context) -> Asked + Send + Sync>,
}

impl Verify {
    /// From a closure that gives a future. It is dropped after [`Context::within`].
    pub fn with<F>(name: impl Into<String>, window: Window, ask: impl Fn(Context) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Verdict>> + Send + 'static,
    {
        Self { name: name.into(), window, ask: Arc::new(move |context| Box::pin(ask(context))) }
    }
    /// When samples are taken.
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

impl fmt::Debug for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("name", &self.name).field("window", &self.window).finish_non_exhaustive()
    }
}

#[async_trait]
impl Verifier for Verify {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn window(&self) -> Window {
        self.window
    }
    async fn verify(&self, context: &Context) -> Result<Verdict> {
        (self.ask)(context.clone()).await
    }
}
