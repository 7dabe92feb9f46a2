//! The kernel's entries of flows that have ended, for those who watch flows: an event tells of a
//! flow's end, and the kernel has forgotten its mark and its number by then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kbe_nat_netlink::conntrack::{Ends, Entry};

/// The newest entries that have ended, [`CAPACITY`] at most; none while nobody watches.
#[derive(Debug, Default)]
pub(crate) struct EndedFlows {
    is_watched: AtomicBool,
    entries: Mutex<Entries>,
}

/// Two generations: when the younger one is full, it takes the place of the older one.
#[derive(Debug, Default)]
struct Entries {
    younger: HashMap<(u8, Ends), Entry>,
    older: HashMap<(u8, Ends), Entry>,
}

impl EndedFlows {
    /// Whether entries are kept from now on; those that are kept are dropped at the end.
    pub(crate) fn watch(&self, is_watched: bool) {
        let mut entries = self.lock();
        self.is_watched.store(is_watched, Ordering::Relaxed);
        if !is_watched {
            *entries = Entries::default();
        }
    }

    /// Whether somebody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Keeps entries. Cost: a look at a flag while nobody watches.
    pub(crate) fn note<'e>(&self, ended: impl Iterator<Item = &'e Entry>) {
        if !self.is_watched() {
            return;
        }
        let mut entries = self.lock();
        // Again, under the lock: nobody may have watched since.
        if !self.is_watched() {
            return;
        }
        for entry in ended {
            if entries.younger.len() >= CAPACITY / 2 {
                entries.older = std::mem::take(&mut entries.younger);
            }
            entries.younger.insert((entry.protocol, entry.original), entry.clone());
        }
    }

    /// The newest of these that had such ends.
    pub(crate) fn find(&self, protocol: u8, original: Ends) -> Option<Entry> {
        let (key, entries) = ((protocol, original), self.lock());
        entries.younger.get(&key).or_else(|| entries.older.get(&key)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as events wait for a slow watcher.
const CAPACITY: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(port: u16, id: u32) -> Entry {
        let end = |text: &str| text.parse().expect("an address");
        let original = Ends { src: ([10, 0, 0, 1], port).into(), dst: end("10.96.0.1:80") };
        let reply = Ends { src: end("10.244.0.3:80"), dst: original.src };
        Entry {
            id: Some(id),
            mark: Some(7),
            uses: None,
            protocol: 6,
            original,
            reply,
            is_replied: true,
            is_assured: true,
            needs_conntrack: false,
            state: None,
            timeout: None,
            counters: None,
            started: None,
        }
    }

    fn id(ended: &EndedFlows, port: u16) -> Option<u32> {
        ended.find(6, entry(port, 0).original).and_then(|entry| entry.id)
    }

    #[test]
    fn entries_are_kept_while_somebody_watches() {
        let ended = EndedFlows::default();
        ended.note([entry(1, 1)].iter());
        assert_eq!(id(&ended, 1), None);
        ended.watch(true);
        ended.note([entry(1, 1), entry(2, 2), entry(1, 3)].iter());
        assert_eq!((id(&ended, 1), id(&ended, 2)), (Some(3), Some(2)), "the newest of these ends");
        assert_eq!(ended.find(17, entry(1, 0).original), None);
        ended.watch(false);
        assert_eq!(id(&ended, 1), None);
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let ended = EndedFlows::default();
        ended.watch(true);
        let half = CAPACITY as u32 / 2;
        for number in 0..=2 * half {
            let mut entry = entry(number as u16, number);
            entry.protocol = if number < 1 << 16 { 6 } else { 17 };
            ended.note([entry].iter());
        }
        assert_eq!(id(&ended, 0), None);
        assert_eq!(id(&ended, half as u16), Some(half));
        let entries = ended.lock();
        assert!(entries.younger.len() + entries.older.len() <= CAPACITY);
    }
}
