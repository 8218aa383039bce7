//! What back ends store in plans, tokens, handles and checkpoints: a named schema, its number, a value.
//!
//! A run must be resumable by a newer binary, and refused by an older one: hence the number.

use crate::{Error, Kind, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A type of a back end that can be stored.
///
/// ```
/// use rollback_core::{Payload, Stored};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// struct LinkAt { release: String }
/// impl Stored for LinkAt {
///     const NAME: &'static str = "example/link-at";
///     const VERSION: u32 = 1;
/// }
/// let stored = Payload::of(&LinkAt { release: "2.3.9".into() })?;
/// assert_eq!(stored.read::<LinkAt>()?.release, "2.3.9");
/// # Ok::<(), rollback_core::Error>(())
/// ```
pub trait Stored: Serialize + DeserializeOwned {
    /// Unique among all back ends: `crate/type`.
    const NAME: &'static str;
    /// Counted up when what is stored changes its form.
    const VERSION: u32;
    /// Brings a stored value one version up, from `from`. `None`: that version cannot be read any more.
    fn upgrade(from: u32, value: serde_json::Value) -> Option<serde_json::Value> {
        let _ = (from, value);
        None
    }
}

/// A stored value with the name and the number of its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    schema: String,
    version: u32,
    value: serde_json::Value,
}

impl Payload {
    /// Stores.
    ///
    /// # Errors
    /// [`Kind::Invalid`] where serde cannot write the value as JSON (a map whose keys are not text).
    pub fn of<T: Stored>(value: &T) -> Result<Self> {
        let value = serde_json::to_value(value)
            .map_err(|e| Error::new(Kind::Invalid, format!("store {}", T::NAME)).without_effect().with_source(e))?;
        Ok(Self { schema: T::NAME.into(), version: T::VERSION, value })
    }
    /// Reads, upgrading what an older version stored.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for another schema or a damaged value, [`Kind::Unsupported`] for a newer version, or one that is
    /// too old to upgrade. None is transient.
    pub fn read<T: Stored>(&self) -> Result<T> {
        let failed = |kind| Error::new(kind, format!("read {}", T::NAME)).without_effect();
        if self.schema != T::NAME {
            return Err(failed(Kind::Invalid).with_message(format!("this is {}", self.schema)));
        }
        if self.version > T::VERSION {
            return Err(failed(Kind::Unsupported).with_message(format!(
                "version {} was written by a newer release of this library, which reads up to {}: use that one",
                self.version,
                T::VERSION
            )));
        }
        let (mut version, mut value) = (self.version, self.value.clone());
        while version < T::VERSION {
            value = T::upgrade(version, value).ok_or_else(|| {
                failed(Kind::Unsupported).with_message(format!("version {version} is too old to upgrade"))
            })?;
            version += 1;
        }
        serde_json::from_value(value).map_err(|e| failed(Kind::Invalid).with_source(e))
    }
    /// The name of the schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }
    /// Bytes as JSON.
    pub fn size(&self) -> usize {
        self.value.to_string().len()
    }
}
