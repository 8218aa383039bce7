//! Time, as data. Nothing that decides reads a clock: it is handed a [`Now`].

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// A moment on the wall clock, in milliseconds since 1970. For reports, and for ages of hours or days; never for a
/// deadline, because wall clocks jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// What the system's wall clock says.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64))
    }
    /// How long after `earlier`; zero if it is not after.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
    /// This much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time.as_millis() as u64))
    }
    /// Reads RFC 3339, such as `2026-11-22T03:04:05Z` or `2026-11-22T05:04:05.678+02:00`; from 1970 on.
    ///
    /// ```
    /// use rollback_core::Timestamp;
    /// let at = Timestamp::parse("2026-11-22T05:04:05.678+02:00")?;
    /// assert_eq!(at.to_string(), "2026-11-22T03:04:05.678Z");
    /// # Ok::<(), rollback_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if it is not one.
    pub fn parse(text: &str) -> crate::Result<Self> {
        let read = |(local, ahead): (&str, i64)| {
            let ms =
                humantime::parse_rfc3339(&format!("{local}Z")).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            u64::try_from(i64::try_from(ms.as_millis()).ok()? - ahead).ok()
        };
        utc_and_offset(text).and_then(read).map(Self).ok_or_else(|| {
            crate::Error::new(crate::Kind::Invalid, "read a time")
                .with_message(format!("{text:?} is not RFC 3339, such as 2026-11-22T03:04:05Z"))
        })
    }
}

/// What stands before the `Z` or the offset, and how many milliseconds that is ahead of UTC. humantime reads no offset, and
/// lets pass what may stand behind the seconds.
fn utc_and_offset(text: &str) -> Option<(&str, i64)> {
    let (local, ahead) = match text.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = *offset.as_bytes() else { return None };
            let digit = |c: u8| c.is_ascii_digit().then(|| i64::from(c - b'0'));
            let (hours, minutes) = (10 * digit(h1)? + digit(h2)?, 10 * digit(m1)? + digit(m2)?);
            let ahead = (60 * hours + minutes) * 60_000;
            (
                local,
                if hours > 23 || minutes > 59 {
                    return None;
                } else if sign == b'+' {
                    ahead
                } else {
                    -ahead
                },
            )
        }
    };
    let fraction = local.get("2026-11-22T03:04:05".len()..)?;
    let digits = fraction.strip_prefix('.').is_some_and(|d| !d.is_empty() && d.bytes().all(|c| c.is_ascii_digit()));
    (fraction.is_empty() || digits).then_some((local, ahead))
}

/// RFC 3339 in UTC, to the millisecond.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The last one with a year of four digits.
        const LAST: u64 = 253_402_300_799_999;
        if self.0 > LAST {
            return write!(f, "{} ms", self.0);
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(self.0);
        humantime::format_rfc3339_millis(at).fmt(f)
    }
}

/// Both clocks, read by whoever drives a decision and handed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Monotonic, since any fixed moment of this process; only differences count.
    pub mono: Duration,
    /// For reports.
    pub wall: Timestamp,
}

/// Where the driver reads the time. [`SystemClock`] outside of tests.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Both clocks, now.
    fn now(&self) -> Now;
}

/// Tokio's monotonic clock (which tests can pause) and the system's wall clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    began: tokio::time::Instant,
}

impl SystemClock {
    /// Starts at zero.
    pub fn new() -> Self {
        Self { began: tokio::time::Instant::now() }
    }
}
impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}
impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now { mono: self.began.elapsed(), wall: Timestamp::now() }
    }
}

/// So many seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
/// So many minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}
/// So many hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(3600 * n)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_is_read_and_written() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T02:00:00.001+02:00", 1),
            ("1970-01-01T00:00:00-05:30", 19_800_000),
            ("2026-11-22T03:04:05.678Z", 1_795_316_645_678),
            ("2026-11-22T03:04:05.678901234Z", 1_795_316_645_678),
            ("2026-11-22T05:04:05.678+02:00", 1_795_316_645_678),
            ("2026-11-22T03:04:05.678-00:00", 1_795_316_645_678),
            ("2024-02-29T23:59:60Z", 1_709_251_199_000),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap(), Timestamp(ms), "{text}");
        }
        assert_eq!(Timestamp(1_795_316_645_678).to_string(), "2026-11-22T03:04:05.678Z");
        assert_eq!(Timestamp(1000).to_string(), "1970-01-01T00:00:01.000Z");
        assert_eq!(Timestamp(253_402_300_799_999).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp(u64::MAX).to_string(), format!("{} ms", u64::MAX));
    }

    #[test]
    fn what_is_no_rfc_3339_is_refused() {
        for text in [
            "",
            "Z",
            "now",
            "+02:00",
            "2026-11-22",
            "2026-11-22T03:04:05",
            "2026-13-22T03:04:05Z",
            "2026-02-30T03:04:05Z",
            "2026-11-22T03:04:05Z+02:00",
            "2026-11-22T03:04:05ZabZ",
            "2026-11-22T03:04:05.Z",
            "2026-11-22 03:04:05 Z",
            "2026-11-22T03:04:05+24:00",
            "2026-11-22T03:04:05+2:00",
            "2026-11-22T03:04:05+é:00",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }
}
