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
    /// CAP_BPF is missing.
    #[error("CAP_BPF is needed, to make its maps and to load its programs, and CAP_PERFMON")]
    NoBpfCapability,
    /// CAP_NET_ADMIN is missing.
    #[error("CAP_NET_ADMIN is needed, to load programs for devices and to put them there")]
    NoNetAdmin,
    /// The capabilities are there, and the kernel refuses the call all the same.
    #[error(
        "bpf(2) is refused: capabilities of a user namespace other than the first do not count, \
         and a sandbox may forbid the call"
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
    let lacks = Lacks::of_this_thread()?;
    let map = Map::create("kbe_nat_probe", MapKind::Array, 4, layout::CONTROL, 1);
    map.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => lacks.refusal(),
        Some(libc::ENOSYS) => ProbeError::NoBpf(error),
        _ => ProbeError::System(error),
    })?;
    let program = PROBE.load(&[]).map_err(|error| {
        if error.error.raw_os_error() == Some(libc::EPERM) { lacks.refusal() } else { error.into() }
    })?;
    // Without it all works, but slowly: the kernel does not refuse.
    if lacks.perfmon {
        return Err(ProbeError::NoPerfmon);
    }
    // A kernel that knows tcx looks for the device, and one that does not refuses the place.
    match bpf::attach(program.as_fd(), NO_DEVICE, Place::Ingress) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Err(lacks.refusal()),
        _ => return Err(ProbeError::NoTcx),
    }
    match bpf::test_run(program.as_fd(), &FRAME, &mut [], 0, 0)? {
        0 => Ok(()),
        _ => Err(ProbeError::NoIpv6Checksum),
    }
}

/// The capabilities that this thread lacks. CAP_SYS_ADMIN stands for each.
#[derive(Clone, Copy, Debug)]
struct Lacks {
    bpf: bool,
    net_admin: bool,
    perfmon: bool,
}

impl Lacks {
    fn of_this_thread() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/thread-self/status")?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
        Ok(Self::of(effective.unwrap_or(0)))
    }

    fn of(effective: u64) -> Self {
        let lacks = |number: u32| effective & (1 << number | 1 << CAP_SYS_ADMIN) == 0;
        Self { bpf: lacks(CAP_BPF), net_admin: lacks(CAP_NET_ADMIN), perfmon: lacks(CAP_PERFMON) }
    }

    /// Why the kernel has answered EPERM.
    fn refusal(self) -> ProbeError {
        match self {
            Self { bpf: true, .. } => ProbeError::NoBpfCapability,
            Self { net_admin: true, .. } => ProbeError::NoNetAdmin,
            _ => ProbeError::NotPermitted,
        }
    }
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;
/// More than the kernel counts to.
const NO_DEVICE: u32 = i32::MAX as u32;
/// An Ethernet frame of IPv6 and UDP, long enough for the program; what it says does not matter.
const FRAME: [u8; 64] = {
    let mut frame = [0; 64];
    [frame[12], frame[13], frame[14]] = [0x86, 0xdd, 0x60];
    frame
};
