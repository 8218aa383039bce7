//! For how long was nobody there? Asked of a clock that goes on while processes come and go, and does not jump: the one
//! that counts from the boot of this very machine.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A moment since a boot. Comparable between processes of one machine, until it boots again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SinceBoot {
    boot: String,
    at: Duration,
}

impl SinceBoot {
    /// Now; `None` where the system has no such clock (Linux only).
    pub(super) fn now() -> Option<Self> {
        #[cfg(target_os = "linux")]
        {
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let at = Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
            Some(Self { boot: boot.trim().to_owned(), at })
        }
        #[cfg(not(target_os = "linux"))]
        None
    }
    /// How long after `earlier`; `None` if that was another boot or another machine.
    pub(super) fn since(&self, earlier: &Self) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| self.at.checked_sub(earlier.at)).flatten()
    }
}
