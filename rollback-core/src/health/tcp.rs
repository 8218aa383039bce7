//! Does something listen?

use super::{
    Context, Health, HealthCheck,
    reach::{addresses, each, is_the_service, nowhere},
};
use crate::{Error, Finding, Kind, Result, seconds};
use async_trait::async_trait;
use std::time::Duration;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

/// Healthy when a TCP connection can be made; it is closed at once.
///
/// Refused, reset, or no answer within the check's own time: unhealthy. A name that cannot be resolved, or a network that
/// cannot be reached from here: unknown.
///
/// ```
/// use rollback_core::health::Tcp;
/// let database = Tcp::connect("127.0.0.1:5432")?;
/// assert!(Tcp::connect("127.0.0.1").is_err(), "the port is missing");
/// # Ok::<(), rollback_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tcp {
    at: Option<String>,
    timeout: Duration,
}

impl Tcp {
    /// To one address, `host:port`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if it is not one.
    pub fn connect(address: impl Into<String>) -> Result<Self> {
        let address = address.into();
        let port =
            address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
        if port.is_none_or(|port: u16| port == 0) {
            return Err(Error::new(Kind::Invalid, "make a TCP check")
                .with_message(format!("{address:?} is not host:port, such as 127.0.0.1:5432"))
                .without_effect());
        }
        Ok(Self { at: Some(address), timeout: seconds(5) })
    }
    /// To every address of the part that is asked about, or of all parts that serve.
    pub fn at_each_part() -> Self {
        Self { at: None, timeout: seconds(5) }
    }
    /// How long connecting may take. Default: 5 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn ask(&self, address: &str) -> Health {
        let what = format!("connect to {address}");
        let began = Instant::now();
        // Resolving is not the service's business, so it has its own verdict.
        let found = match timeout(self.timeout, lookup_host(address)).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(e)) => return Health::unknown(what, format!("the name cannot be resolved: {e}")),
            Err(_) => return Health::unknown(what, format!("the name was not resolved within {:?}", self.timeout)),
        };
        match timeout(self.timeout.saturating_sub(began.elapsed()), TcpStream::connect(&found[..])).await {
            Ok(Ok(_)) => Health::healthy(what, format!("connected in {} ms", began.elapsed().as_millis())),
            Ok(Err(e)) if is_the_service(&e) => Health::unhealthy(what, e.to_string()),
            Ok(Err(e)) => Health::unknown(what, e.to_string()),
            Err(_) => Health::unhealthy(what, format!("no answer within {:?}", self.timeout)),
        }
    }
}

#[async_trait]
impl HealthCheck for Tcp {
    fn name(&self) -> String {
        match &self.at {
            Some(address) => format!("connect to {address}"),
            None => "connect to each part".into(),
        }
    }
    async fn check(&self, context: &Context) -> Result<Health> {
        if let Some(address) = &self.at {
            return Ok(self.ask(address).await);
        }
        let name = self.name();
        Ok(match addresses(context, &name) {
            Ok(all) => each(&name, all, |address| async move { self.ask(&address).await }).await,
            Err(unknown) => unknown,
        })
    }
    async fn preflight(&self, context: &Context) -> Result<Vec<Finding>> {
        Ok(if self.at.is_none() { nowhere(context, &self.name()) } else { vec![] })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::sample::*;
    use super::*;
    use crate::{Identity, Observation, PartState, Token};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_listener_is_healthy_and_a_closed_port_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let check = Tcp::connect(&address).unwrap();
        assert_eq!(letter(&check.check(&context()).await.unwrap()), 'h');
        let part = PartState::of("good").with_addresses([address]);
        let now = Observation::of_one(Identity::new("here", "1"), part, Token::none());
        let at_parts = Context::new("test:t".into(), "bad", "good", now);
        assert_eq!(letter(&Tcp::at_each_part().check(&at_parts).await.unwrap()), 'h');
        drop(listener);
        assert_eq!(letter(&check.check(&context()).await.unwrap()), 'u');
        assert_eq!(letter(&Tcp::at_each_part().check(&at_parts).await.unwrap()), 'u');
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_unknown() {
        let seen = Tcp::connect("nowhere.invalid:80").unwrap().check(&context()).await.unwrap();
        assert_eq!(letter(&seen), '?', "{seen:?}");
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        for bad in ["", "host", ":80", "host:", "host:0", "host:http", "host:70000"] {
            assert_eq!(Tcp::connect(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        Tcp::connect("[::1]:80").unwrap();
    }
}
