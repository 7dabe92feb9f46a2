//! The devices that the programs stand on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use crate::bpf::{self, Place};

/// Links by device. A link that is dropped takes its program off.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<BTreeMap<u32, [OwnedFd; 2]>>);

impl Links {
    /// Puts the programs on a device of this thread's network namespace. Does nothing where they
    /// stand already.
    pub(crate) fn attach(
        &self,
        device: u32,
        ingress: BorrowedFd<'_>,
        egress: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, links| is_there(links));
        if links.contains_key(&device) {
            return Ok(());
        }
        // The programs read an Ethernet header, and write one.
        if bpf::device_kind(device)? != libc::ARPHRD_ETHER {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "not an Ethernet device"));
        }
        // The way out first: nothing is in the cache before that sees packets.
        let out = bpf::attach(egress, device, Place::Egress)?;
        links.insert(device, [bpf::attach(ingress, device, Place::Ingress)?, out]);
        Ok(())
    }

    /// Takes the programs off a device.
    pub(crate) fn detach(&self, device: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&device);
    }

    /// The devices that the programs stand on. Those that are gone are forgotten.
    pub(crate) fn devices(&self) -> Vec<u32> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, links| is_there(links));
        links.keys().copied().collect()
    }
}

/// The kernel severs the links of a device that it removes.
fn is_there(links: &[OwnedFd; 2]) -> bool {
    links.iter().all(|link| bpf::device_of(link.as_fd()).is_ok_and(|device| device != 0))
}
