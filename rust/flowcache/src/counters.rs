//! What the programs have counted.

use crate::layout::u64_at;

macro_rules! counters {
    ($($(#[$comment:meta])* $name:ident;)*) => {
        /// Packets of the devices that the programs stand on, summed over processors. Counting
        /// costs a packet about 2 ns.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counters {
            $($(#[$comment])* pub $name: u64,)*
        }

        impl Counters {
            const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Names with numbers.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            fn from_array(numbers: &[u64; COUNTERS]) -> Self {
                let [$($name),*] = *numbers;
                Self { $($name),* }
            }
        }
    };
}

// In the order of `enum count`.
counters! {
    /// Translated and sent on by the cache.
    hits;
    /// Slow: no entry.
    missed;
    /// Slow: neither TCP nor UDP, or with a header between IP and these.
    other_protocol;
    /// Slow: tagged for a VLAN, or for another machine's Ethernet address.
    foreign;
    /// Slow: options of IPv4.
    options;
    /// Slow: a fragment.
    fragments;
    /// Slow: shorter than its headers say.
    truncated;
    /// Slow: the entry was being written, or its memory given to another flow, in this moment.
    torn;
    /// Slow: by another device than the packets that have made the entry.
    other_device;
    /// Slow: a FIN, SYN or RST of a flow in the cache, which has ended the entry.
    closing;
    /// Slow: the daemon has not been heard of.
    no_heartbeat;
    /// Slow: the entry is older than the last `void`.
    void;
    /// Slow: no packet has renewed the entry, or the connection has ended.
    expired;
    /// Slow: the last hop.
    time_to_live;
    /// Slow: longer than the packets of its flow that have left by the kernel's way.
    longer;
    /// Slow: sent the kernel's way to renew the entry.
    renewals;
    /// Slow: the kernel refused to change the checksum.
    checksum_refused;
    /// Entries made, or replaced because flows leave by another way.
    entered;
    /// Entries renewed.
    renewed;
    /// Connections whose entries a packet has ended.
    ended;
    /// Dropped: the first packet of a connection within a second after a RST ended another one with
    /// the same ends.
    reopened;
    /// Dropped: a FIN or RST of a flow in the cache, with a sequence number far from what its ends
    /// have sent and acknowledged last.
    out_of_window;
    /// Resets, and volumes of packets, of which the daemon could not be told, because it was slow.
    untold;
}

/// How many there are.
pub(crate) const COUNTERS: usize = Counters::NAMES.len();

impl Counters {
    /// Sums the values of all processors.
    pub(crate) fn sum(values: &[u8]) -> Self {
        let mut sums = [0; COUNTERS];
        for processor in values.chunks_exact(COUNTERS * 8) {
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum += u64_at(processor, index * 8);
            }
        }
        Self::from_array(&sums)
    }
}
