//! The devices that the programs stand on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
        let mut links = self.lock();
        links.retain(|_, links| is_there(links));
        if links.contains_key(&device) {
            return Ok(());
        }
        // The programs read an Ethernet header, and write one.
        if bpf::device_kind(device)? != libc::ARPHRD_ETHER {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "not an Ethernet device"));
        }
        links.insert(device, stand(device, ingress, egress)?);
        Ok(())
    }

    /// Puts the programs behind those that others have put behind them, and returns on how many
    /// devices. Between the two packets go the kernel's way. Where the system refuses it they are
    /// gone, as with the device.
    pub(crate) fn move_back(&self, ingress: BorrowedFd<'_>, egress: BorrowedFd<'_>) -> usize {
        let mut links = self.lock();
        let is_behind = |device: u32, [inward, outward]: &[OwnedFd; 2]| {
            let ends = [(inward, Place::Ingress), (outward, Place::Egress)];
            ends.into_iter().any(|(link, place)| {
                // A device that is gone has no others.
                !bpf::is_last(link.as_fd(), device, place).unwrap_or(true)
            })
        };
        let devices = links.iter().filter(|(device, links)| is_behind(**device, links));
        let devices: Vec<u32> = devices.map(|(&device, _)| device).collect();
        for &device in &devices {
            // The kernel has a program once at a place.
            links.remove(&device);
            links.extend(stand(device, ingress, egress).ok().map(|links| (device, links)));
        }
        devices.len()
    }

    /// Takes the programs off a device.
    pub(crate) fn detach(&self, device: u32) {
        self.lock().remove(&device);
    }

    /// The devices that the programs stand on. Those that are gone are forgotten.
    pub(crate) fn devices(&self) -> Vec<u32> {
        let mut links = self.lock();
        links.retain(|_, links| is_there(links));
        links.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, [OwnedFd; 2]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel says of a device (RTM_NEWLINK).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link<'a> {
    /// `IFLA_INFO_KIND`; empty where there is none.
    pub kind: &'a str,
    /// `IFF_...`.
    pub flags: u32,
    /// Whether the device at its other end is in another network namespace: there is an
    /// `IFLA_LINK_NETNSID`.
    pub leads_elsewhere: bool,
    /// Whether tc shapes or filters what leaves by the device: the way to the peer passes it by.
    pub is_shaped: bool,
}

impl Link<'_> {
    /// Whether packets for this device may be handed to its other end (`FlowCache::set_peer`): it
    /// is the end of a veth pair whose other end is in another network namespace, and both are up.
    /// The kernel takes the carrier from one end when the other one goes down or moves to another
    /// namespace, so that a message tells.
    #[must_use]
    pub fn may_be_peer(&self) -> bool {
        let up = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
        self.kind == "veth" && self.flags & up == up && self.leads_elsewhere && !self.is_shaped
    }
}

/// Puts the programs last on a device.
fn stand(device: u32, ingress: BorrowedFd<'_>, egress: BorrowedFd<'_>) -> io::Result<[OwnedFd; 2]> {
    // The way out first: nothing is in the cache before that sees packets.
    let out = bpf::attach(egress, device, Place::Egress)?;
    Ok([bpf::attach(ingress, device, Place::Ingress)?, out])
}

/// The kernel severs the links of a device that it removes.
fn is_there(links: &[OwnedFd; 2]) -> bool {
    links.iter().all(|link| bpf::device_of(link.as_fd()).is_ok_and(|device| device != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_end_may_be_a_peer_while_both_ends_are_up_and_nobody_shapes_it() {
        let flags = (libc::IFF_UP | libc::IFF_LOWER_UP | libc::IFF_BROADCAST) as u32;
        let pod = Link { kind: "veth", flags, leads_elsewhere: true, is_shaped: false };
        assert!(pod.may_be_peer());
        for other in [
            Link { kind: "netkit", ..pod },
            Link { kind: "", ..pod },
            Link { flags: flags & !(libc::IFF_UP as u32), ..pod },
            Link { flags: flags & !(libc::IFF_LOWER_UP as u32), ..pod },
            Link { leads_elsewhere: false, ..pod },
            Link { is_shaped: true, ..pod },
        ] {
            assert!(!other.may_be_peer(), "{other:?}");
        }
    }
}
