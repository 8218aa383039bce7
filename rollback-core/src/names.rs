//! Names of things: short strings that must not be mixed up.

use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, sync::Arc};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, as given.
            pub fn new(name: impl Into<String>) -> Self {
                Self(Arc::from(name.into()))
            }
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(Arc::from(name))
            }
        }
        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(Arc::from(name))
            }
        }
        impl From<&$name> for $name {
            fn from(name: &$name) -> Self {
                name.clone()
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }
        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    )* };
}

names!(
    /// Which target: a URI such as `k8s:prod/shop/deployment/checkout` or `dir:/srv/checkout`. The key of journal, lock
    /// and registry, so the same thing must always get the same id.
    TargetId,
    /// Which release. By content, not by number: where a platform renumbers its revisions, the id stays.
    ReleaseId,
    /// Which part of a target: `blue`, `canary`, `primary`, or `all` where there is only one.
    PartId,
    /// Which run. A resumed run keeps its id.
    RunId,
    /// A digest with its algorithm in front: `sha256:…`.
    Digest,
    /// What a target can do besides releases: `invalidate`, `backup`.
    VerbName,
);

impl ReleaseId {
    /// As people are shown it: of a digest the first twelve digits, as docker and git show them; anything else whole.
    ///
    /// ```
    /// # use rollback_core::{Digest, ReleaseId};
    /// assert_eq!(ReleaseId::new(Digest::of(b"abc").as_str()).short(), "ba7816bf8f01");
    /// assert_eq!(ReleaseId::from("2.4.0").short(), "2.4.0");
    /// ```
    pub fn short(&self) -> &str {
        self.digits().and_then(|digits| digits.get(..12)).unwrap_or(&self.0)
    }
    /// Of a digest, without what it is a digest of: `sha256:…`, `template:…`.
    pub(crate) fn digits(&self) -> Option<&str> {
        let (_, digits) = self.0.rsplit_once(':')?;
        (digits.len() >= 12 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
    }
}

impl Digest {
    /// The SHA-256 of some bytes.
    ///
    /// ```
    /// # use rollback_core::Digest;
    /// assert!(Digest::of(b"abc").as_str().starts_with("sha256:ba7816bf"));
    /// ```
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_sha256(&sha2::Sha256::digest(bytes))
    }

    /// From the raw bytes of a finished SHA-256.
    pub fn from_sha256(raw: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(7 + raw.len() * 2);
        text.push_str("sha256:");
        for byte in raw {
            let _ = write!(text, "{byte:02x}");
        }
        Self::new(text)
    }
}
