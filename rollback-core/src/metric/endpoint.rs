//! What the sources that speak HTTP share: an address whose secrets are not shown.

use crate::{Error, Kind, Result};
use reqwest::{Client, Url};
use std::{fmt, time::Duration};

/// An address and a client. Shown without userinfo and query, which may hold secrets.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) client: Client,
}

impl Endpoint {
    pub(super) fn new(url: &str) -> Result<Self> {
        let invalid =
            |why: String| Error::new(Kind::Invalid, "read a metric's address").with_message(why).without_effect();
        // The text itself may hold a password, so it is not repeated.
        let url = Url::parse(url).map_err(|e| invalid(format!("it is not a URL ({e}): use http://host:port/path")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(invalid(format!("{} is not http or https", shown(&url))));
        }
        if url.scheme() == "https" && !cfg!(feature = "tls") {
            return Err(invalid(format!("{} needs the feature tls", shown(&url))));
        }
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|e| Error::new(Kind::Unexpected, "make an HTTP client").with_source(e).without_effect())?;
        Ok(Self { url, client })
    }
    /// What went wrong, without the address as the client has it.
    pub(super) fn failed(&self, error: reqwest::Error) -> Error {
        Error::new(Kind::Unavailable, "read the metric")
            .with_message(self.to_string())
            .with_source(error.without_url())
            .without_effect()
    }
    pub(super) fn unusable(&self, why: impl fmt::Display) -> Error {
        Error::new(Kind::Invalid, "read the metric").with_message(format!("{self}: {why}")).without_effect()
    }
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.url))
    }
}
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&shown(&self.url), f)
    }
}
