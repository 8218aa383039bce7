//! What clients of the fake platform get.

use super::FakePlatform;
use crate::{Context, Evidence, Health, HealthCheck, Result};
use async_trait::async_trait;

/// A health check that says what clients of a [`FakePlatform`] get: of one part if it is asked for one, else of all that
/// serve.
#[derive(Clone, Debug)]
pub struct FakeHealth {
    platform: FakePlatform,
}

impl FakeHealth {
    pub(super) fn new(platform: FakePlatform) -> Self {
        Self { platform }
    }
}

#[async_trait]
impl HealthCheck for FakeHealth {
    fn name(&self) -> String {
        "fake clients".into()
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        tokio::task::yield_now().await;
        let mut world = self.platform.world();
        world.catch_up();
        let saw = |seen: &str| vec![Evidence::new("clients of the fake platform", seen)];
        if world.fakes.unknown_health > 0 {
            world.fakes.unknown_health -= 1;
            return Ok(Health::Unknown(saw("could not be asked")));
        }
        Ok(match world.healthy(context.part.as_ref()) {
            Some(true) => Health::Healthy(saw("all get answers")),
            Some(false) => Health::Unhealthy(saw("some get errors")),
            None => Health::Unknown(saw("nothing serves")),
        })
    }
}
