//! No process of the quickstart outlives the one that started it, however that one ends.

use rustix::process::{Pid, getppid};
use std::{thread, time::Duration};

/// Ends this process when its parent is not `parent` any more. Looked at ten times a second: asking the kernel for a
/// signal instead would need `unsafe`.
pub(crate) fn end_with(parent: u32) {
    let parent = i32::try_from(parent).ok().and_then(Pid::from_raw);
    thread::spawn(move || {
        while getppid() == parent {
            thread::sleep(Duration::from_millis(100));
        }
        std::process::exit(1);
    });
}
