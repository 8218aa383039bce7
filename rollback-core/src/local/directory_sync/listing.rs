//! The names in a directory, sorted, in memory that does not grow with their number.

use rustix::{fs::Dir, io::Errno};
use std::{collections::BinaryHeap, os::fd::BorrowedFd};

/// So many names are held at once; a directory with more is read once for each such window.
const WINDOW: usize = 8192;

/// The names in a directory, in the order of their bytes.
pub(super) struct Listing {
    dir: Dir,
    window: std::vec::IntoIter<Vec<u8>>,
    last: Option<Vec<u8>>,
    more: bool,
    size: usize,
}

impl Listing {
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        Self::with_window(fd, WINDOW)
    }
    fn with_window(fd: BorrowedFd<'_>, size: usize) -> Result<Self, Errno> {
        let dir = Dir::read_from(fd)?;
        Ok(Self { dir, window: vec![].into_iter(), last: None, more: true, size })
    }
    /// The next name.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, Errno> {
        if let Some(name) = self.window.next() {
            return Ok(Some(name));
        }
        if !self.more {
            return Ok(None);
        }
        self.fill()?;
        Ok(self.window.next())
    }
    /// The smallest names after the last one.
    fn fill(&mut self) -> Result<(), Errno> {
        let mut smallest: BinaryHeap<Vec<u8>> = BinaryHeap::new();
        self.more = false;
        self.dir.rewind();
        while let Some(entry) = self.dir.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || self.last.as_deref().is_some_and(|last| name <= last) {
                continue;
            }
            if smallest.len() < self.size {
                smallest.push(name.to_vec());
            } else {
                self.more = true;
                if let Some(mut greatest) = smallest.peek_mut().filter(|greatest| name < greatest.as_slice()) {
                    *greatest = name.to_vec();
                }
            }
        }
        let names = smallest.into_sorted_vec();
        if let Some(last) = names.last() {
            self.last = Some(last.clone());
        }
        self.window = names.into_iter();
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn sorted_complete_and_once_whatever_the_window() {
        let dir = tempfile::tempdir().unwrap();
        let mut names: Vec<Vec<u8>> = (0..100).map(|i| format!("{}", i * 7919 % 1000).into_bytes()).collect();
        for name in &names {
            std::fs::write(dir.path().join(std::str::from_utf8(name).unwrap()), "").unwrap();
        }
        names.sort();
        for window in [1, 3, 99, 100, 101, WINDOW] {
            let fd = std::fs::File::open(dir.path()).unwrap();
            let mut listing = Listing::with_window(fd.as_fd(), window).unwrap();
            let mut found = vec![];
            while let Some(name) = listing.next().unwrap() {
                found.push(name);
            }
            assert_eq!(found, names, "{window}");
        }
    }
}
