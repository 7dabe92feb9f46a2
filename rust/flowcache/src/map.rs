//! A map of the kernel, and many of its entries by few system calls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::bpf::{self, MapHandle, MapShape};

/// Kinds of `linux/bpf.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapKind {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
    /// Full, it forgets what was not used for the longest time.
    LruHash = 9,
    /// Without keys. Full, it takes no more.
    Queue = 22,
}

/// A map.
#[derive(Debug)]
pub(crate) struct Map {
    descriptor: OwnedFd,
    key: usize,
    /// As system calls copy it: of an array per processor, the values of all.
    value: usize,
}

impl Map {
    pub(crate) fn create(
        name: &str,
        kind: MapKind,
        key: usize,
        value: usize,
        entries: u32,
    ) -> io::Result<Self> {
        let shape = MapShape { kind: kind as u32, key, value, entries };
        let descriptor = bpf::create_map(name, shape)?;
        let copies = if kind == MapKind::PerCpuArray { processors()? } else { 1 };
        Ok(Self { descriptor, key, value: value * copies })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn handle(&self) -> MapHandle<'_> {
        MapHandle { descriptor: self.descriptor(), key: self.key, value: self.value }
    }

    pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.handle().update(key, value)
    }

    pub(crate) fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        Ok(self.handle().lookup(key, &mut value)?.then_some(value))
    }

    /// Takes a key out; its value.
    pub(crate) fn take(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        Ok(self.handle().take(key, &mut value)?.then_some(value))
    }

    /// Enters keys with their values. Cost: 0.4 us each.
    pub(crate) fn update_all(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let batches = keys.chunks(BATCH * self.key).zip(values.chunks(BATCH * self.value));
        for (keys, values) in batches {
            self.handle().update_batch(keys, values, keys.len() / self.key)?;
        }
        Ok(())
    }

    /// Deletes keys; those that are not there are passed over. Cost: 0.3 us each, and a system call
    /// more for each that is missing.
    pub(crate) fn delete_all(&self, keys: &[u8]) -> io::Result<()> {
        let mut rest = keys;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH * self.key)];
            let (deleted, is_missing) =
                self.handle().delete_batch(batch, batch.len() / self.key)?;
            // The kernel stops at a missing key, and goes no further.
            rest = &rest[(deleted + usize::from(is_missing)) * self.key..];
        }
        Ok(())
    }

    /// Shows all entries, as keys and values. Those that come or go meanwhile may be missing. Cost:
    /// 0.3 us each.
    pub(crate) fn for_each(&self, mut show: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut room = BATCH;
        let mut start = None;
        loop {
            let (mut keys, mut values) = (vec![0; room * self.key], vec![0; room * self.value]);
            match self.handle().lookup_batch(start, &mut keys, &mut values, room) {
                Ok((count, next)) => {
                    let entries = keys.chunks(self.key).zip(values.chunks(self.value));
                    entries.take(count).for_each(|(key, value)| show(key, value));
                    if next.is_none() {
                        return Ok(());
                    }
                    start = next;
                }
                // A bucket comes whole or not at all.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Processors that the kernel keeps values for: those that may come, too.
pub(crate) fn processors() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count(text.trim()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How many numbers there are in ranges such as `0-3,8`.
fn count(ranges: &str) -> Option<usize> {
    ranges
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            (last + 1).checked_sub(first)
        })
        .sum()
}

/// Entries of a system call: more gain nothing.
const BATCH: usize = 64;

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn processors_are_counted_by_ranges() {
        let cases = [("0", Some(1)), ("0-3", Some(4)), ("0-3,8,10-11", Some(7)), ("", None)];
        for (text, expected) in cases {
            assert_eq!(count(text), expected, "{text}");
        }
    }
}
