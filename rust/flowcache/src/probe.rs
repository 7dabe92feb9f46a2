//! Whether this machine can have a flow cache.

use std::io;
use std::os::fd::AsFd;

use thiserror::Error;

use crate::bpf::{self, Place};
use crate::layout;
use crate::map::{Map, MapKind};
use crate::program::{PROBE, ProgramError};

/// What is missing for a flow cache.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The kernel is built without bpf(2), or a sandbox refuses the call.
    #[error("this kernel has no bpf(2), or it is forbidden here: {0}")]
    NoBpf(io::Error),
    /// A capability is missing, or the user namespace is not the first one.
    #[error(
        "CAP_BPF and CAP_NET_ADMIN are needed, outside of user namespaces, to load its programs"
    )]
    NotPermitted,
    /// CAP_PERFMON is missing.
    #[error(
        "CAP_PERFMON is needed: without it the kernel guards each step of the programs against \
         speculation, and they are 2.7 times as slow"
    )]
    NoPerfmon,
    /// The kernel does not take a program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel is older than 6.6.
    #[error("this kernel puts no programs on devices by links (tcx): it is older than 6.6")]
    NoTcx,
    /// The kernel is older than 6.16, or than its stable updates.
    #[error(
        "this kernel cannot keep a device's checksum of a whole IPv6 packet right (BPF_F_IPV6)"
    )]
    NoIpv6Checksum,
    /// The machine stores numbers the other way round.
    #[error("the flow cache's programs are for little-endian processors")]
    BigEndian,
    /// Some other fault.
    #[error("bpf(2) fails: {0}")]
    System(#[from] io::Error),
}

/// Asks the kernel for one thing after the other. Cost: a millisecond. Leaves nothing behind.
pub(crate) fn probe() -> Result<(), ProbeError> {
    if cfg!(target_endian = "big") {
        return Err(ProbeError::BigEndian);
    }
    let map = Map::create("kbe_nat_probe", MapKind::Array, 4, layout::CONTROL, 1);
    map.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => ProbeError::NotPermitted,
        Some(libc::ENOSYS) => ProbeError::NoBpf(error),
        _ => ProbeError::System(error),
    })?;
    if !has_perfmon()? {
        return Err(ProbeError::NoPerfmon);
    }
    let program = PROBE.load(&[]).map_err(|error| {
        if error.error.raw_os_error() == Some(libc::EPERM) {
            ProbeError::NotPermitted
        } else {
            error.into()
        }
    })?;
    // A kernel that knows tcx looks for the device, and one that does not refuses the place.
    match bpf::attach(program.as_fd(), NO_DEVICE, Place::Ingress) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            return Err(ProbeError::NotPermitted);
        }
        _ => return Err(ProbeError::NoTcx),
    }
    match bpf::test_run(program.as_fd(), &FRAME, &mut [], 0, 0)? {
        0 => Ok(()),
        _ => Err(ProbeError::NoIpv6Checksum),
    }
}

/// Whether this thread may run programs without guards against speculation.
fn has_perfmon() -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    Ok(effective.is_some_and(|capabilities| {
        [CAP_PERFMON, CAP_SYS_ADMIN].iter().any(|number| capabilities >> number & 1 == 1)
    }))
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
/// More than the kernel counts to.
const NO_DEVICE: u32 = i32::MAX as u32;
/// An Ethernet frame of IPv6 and UDP, long enough for the program; what it says does not matter.
const FRAME: [u8; 64] = {
    let mut frame = [0; 64];
    [frame[12], frame[13], frame[14]] = [0x86, 0xdd, 0x60];
    frame
};
