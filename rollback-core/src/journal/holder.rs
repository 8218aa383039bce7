//! Who holds a lease, whether that process still lives, and the clock that leases are timed by.
//!
//! Never the wall clock. On Linux: the time since boot, suspended time included; together with the boot's id, the pid and
//! the process's start time it tells a dead holder from a slow one. Elsewhere the monotonic clock, and the lease alone.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A process, unmistakable on one host. Empty texts: this system does not tell.
///
/// ```
/// use rollback_core::journal::Holder;
/// let me = Holder::this();
/// assert!(!me.is_dead(&me));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Of which boot of its host.
    pub boot: String,
    /// Pids mean something only within it.
    pub pid_namespace: String,
    /// Its number there.
    pub pid: u32,
    /// In clock ticks since boot; 0 where unknown.
    pub started: u64,
}

impl Holder {
    /// This process.
    pub fn this() -> Self {
        let text = |path| std::fs::read_to_string(path).map_or(String::new(), |t| t.trim().to_owned());
        let pid = std::process::id();
        Self {
            boot: text("/proc/sys/kernel/random/boot_id"),
            pid_namespace: std::fs::read_link("/proc/self/ns/pid")
                .map_or(String::new(), |l| l.to_string_lossy().into_owned()),
            pid,
            started: look_at(pid).map_or(0, |p| p.started),
        }
    }
    /// Is it certain that it is dead, seen from `me`, a process of the same host? Another boot is a dead one: between hosts,
    /// compare [`boot`](Holder::boot) first. Where pids cannot be compared, it never is.
    pub fn is_dead(&self, me: &Holder) -> bool {
        if self == me || self.boot.is_empty() || me.boot.is_empty() {
            return false;
        }
        if self.boot != me.boot {
            return true;
        }
        if self.pid_namespace.is_empty() || self.pid_namespace != me.pid_namespace || self.started == 0 {
            return false;
        }
        match look_at(self.pid) {
            Some(process) => process.gone || process.started != self.started,
            // Unreadable is not gone: /proc may hide the processes of others.
            None => {
                me.started != 0
                    && std::fs::metadata(format!("/proc/{}", self.pid))
                        .is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
                    && !proc_hides()
            }
        }
    }
}

/// Where `/proc` hides other users' processes, a missing one may be alive. Process 1 always is.
fn proc_hides() -> bool {
    std::fs::metadata("/proc/1").is_err()
}

struct Process {
    started: u64,
    gone: bool,
}

fn look_at(pid: u32) -> Option<Process> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state …`: the name may hold anything, so fields are counted from its last parenthesis.
fn parse_stat(stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    // A zombie that still has threads is one whose first thread alone has ended.
    Some(Process { started, gone: matches!(state, "X" | "x") || (state == "Z" && threads <= 1) })
}

#[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "the journal in a file alone times leases so"))]
/// Milliseconds on the clock that leases are timed by. Only to be compared within one boot.
pub(in crate::journal) fn now() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    let part = |n: i64, unit: Duration| unit.saturating_mul(u32::try_from(n).unwrap_or(0));
    let span = part(now.tv_sec as i64, Duration::from_secs(1)) + part(now.tv_nsec as i64, Duration::from_nanos(1));
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "the journal in a file alone times leases so"))]
/// Has a lease of `length` that lasts until `until` run out? One that lasts longer than its length is of another boot.
pub(in crate::journal) fn has_lapsed(now: u64, until: u64, length: u64) -> bool {
    until <= now || until - now > length
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_looks_like_fields_is_read() {
        let stat = "7 (a) R 1) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 4242 1 1";
        let process = parse_stat(stat).unwrap();
        assert_eq!((process.started, process.gone), (4242, false));
    }
    #[test]
    fn a_zombie_is_gone() {
        assert!(parse_stat("7 (a) Z 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1").unwrap().gone);
        assert!(parse_stat("7 (a) Z").is_none());
    }
    #[test]
    fn a_lease_lapses_at_its_end_and_after_a_reboot_that_set_the_clock_back() {
        assert!(!has_lapsed(99, 100, 30));
        assert!(has_lapsed(100, 100, 30));
        assert!(has_lapsed(5, 100, 30));
    }
    #[cfg(target_os = "linux")]
    #[test]
    fn another_boot_or_start_is_dead_and_another_pid_namespace_is_not_known_to_be() {
        let me = Holder::this();
        assert!(!me.is_dead(&me));
        assert!(Holder { boot: "other".into(), ..me.clone() }.is_dead(&me));
        assert!(Holder { started: me.started + 1, ..me.clone() }.is_dead(&me));
        assert!(!Holder { started: 1, pid_namespace: "pid:[1]".into(), ..me.clone() }.is_dead(&me));
        assert!(Holder { pid: u32::MAX, ..me.clone() }.is_dead(&me));
    }
}
