//! The system calls: bpf(2), and what it takes to know a device and the time.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// Commands of bpf(2), of `linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    ProgramLoad = 5,
    ProgramTestRun = 10,
    GetInfo = 15,
    ProgramQuery = 16,
    MapLookupAndDelete = 21,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
}

/// Arguments of bpf(2): a union of structures, so fields are put by their offsets. The kernel takes
/// a longer one than it knows if the rest is zero.
struct Attributes([u8; LENGTH]);

const LENGTH: usize = 152;

impl Attributes {
    fn new() -> Self {
        Self([0; LENGTH])
    }

    fn bytes<const N: usize>(mut self, offset: usize, bytes: [u8; N]) -> Self {
        self.0[offset..offset + N].copy_from_slice(&bytes);
        self
    }

    fn u32(self, offset: usize, value: u32) -> Self {
        self.bytes(offset, value.to_ne_bytes())
    }

    fn descriptor(self, offset: usize, value: BorrowedFd<'_>) -> Self {
        self.bytes(offset, value.as_raw_fd().to_ne_bytes())
    }

    /// Bytes that the kernel reads. Of no bytes it wants no address either.
    fn source(self, offset: usize, bytes: &[u8]) -> Self {
        let address = if bytes.is_empty() { 0 } else { bytes.as_ptr() as u64 };
        self.bytes(offset, address.to_ne_bytes())
    }

    /// Bytes that the kernel writes.
    fn target(self, offset: usize, bytes: &mut [u8]) -> Self {
        self.bytes(offset, (bytes.as_mut_ptr() as u64).to_ne_bytes())
    }

    /// A name of at most fifteen letters.
    fn name(mut self, offset: usize, name: &str) -> Self {
        let length = name.len().min(15);
        self.0[offset..offset + length].copy_from_slice(&name.as_bytes()[..length]);
        self
    }

    fn get(&self, offset: usize) -> u32 {
        self.0[offset..offset + 4].try_into().map_or(0, u32::from_ne_bytes)
    }

    /// # Safety
    /// Each address in here is of memory that is as long as this command makes the kernel read or
    /// write.
    unsafe fn call(&mut self, command: Command) -> io::Result<i32> {
        loop {
            // SAFETY: the structure is valid for the length that is given; the caller answers for
            // the addresses in it.
            let result = unsafe {
                libc::syscall(libc::SYS_bpf, command as i32, self.0.as_mut_ptr(), LENGTH)
            };
            if result >= 0 {
                return Ok(result as i32);
            }
            let error = io::Error::last_os_error();
            // The verifier stops when a signal comes.
            if error.raw_os_error() != Some(libc::EAGAIN) {
                return Err(error);
            }
        }
    }

    /// # Safety
    /// As for `call`.
    unsafe fn open(&mut self, command: Command) -> io::Result<OwnedFd> {
        // SAFETY: as the caller says.
        let descriptor: RawFd = unsafe { self.call(command)? };
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

/// What a map is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapShape {
    pub(crate) kind: u32,
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) entries: u32,
}

pub(crate) fn create_map(name: &str, shape: MapShape) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::new()
        .u32(0, shape.kind)
        .u32(4, shape.key as u32)
        .u32(8, shape.value as u32)
        .u32(12, shape.entries)
        .name(28, name);
    // SAFETY: there is no address in it.
    unsafe { attributes.open(Command::MapCreate) }
}

/// A map, with how long its keys and values are, as the kernel copies them: slices that are shorter
/// are refused before the kernel sees them.
#[derive(Clone, Copy)]
pub(crate) struct MapHandle<'a> {
    pub(crate) descriptor: BorrowedFd<'a>,
    pub(crate) key: usize,
    pub(crate) value: usize,
}

impl MapHandle<'_> {
    fn check(self, keys: &[u8], values: Option<&[u8]>, count: usize) -> io::Result<()> {
        let values = values.map_or(count * self.value, <[u8]>::len);
        if keys.len() == count * self.key && values == count * self.value {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    pub(crate) fn update(self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, Some(value), 1)?;
        let mut attributes =
            Attributes::new().descriptor(0, self.descriptor).source(8, key).source(16, value);
        // SAFETY: key and value are as long as the map's, and borrowed until the call returns.
        unsafe { attributes.call(Command::MapUpdate) }.map(drop)
    }

    /// Whether the key is there; its value is put into `value`.
    pub(crate) fn lookup(self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.read(Command::MapLookup, key, value)
    }

    /// As `lookup`, and takes the key out.
    pub(crate) fn take(self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.read(Command::MapLookupAndDelete, key, value)
    }

    fn read(self, command: Command, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key, Some(value), 1)?;
        let mut attributes =
            Attributes::new().descriptor(0, self.descriptor).source(8, key).target(16, value);
        // SAFETY: key and value are as long as the map's; the value is borrowed mutably.
        match unsafe { attributes.call(command) } {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn update_batch(self, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
        self.check(keys, Some(values), count)?;
        let mut attributes = Attributes::new()
            .source(16, keys)
            .source(24, values)
            .u32(32, count as u32)
            .descriptor(36, self.descriptor);
        // SAFETY: there are `count` keys and values, borrowed until the call returns.
        unsafe { attributes.call(Command::MapUpdateBatch) }.map(drop)
    }

    /// Deletes keys in their order, up to the first one that is missing; how many, and whether one
    /// was missing.
    pub(crate) fn delete_batch(self, keys: &[u8], count: usize) -> io::Result<(usize, bool)> {
        self.check(keys, None, count)?;
        let mut attributes = Attributes::new()
            .source(16, keys)
            .u32(32, count as u32)
            .descriptor(36, self.descriptor);
        // SAFETY: there are `count` keys, borrowed until the call returns.
        match unsafe { attributes.call(Command::MapDeleteBatch) } {
            Ok(_) => Ok((count, false)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                Ok((attributes.get(32) as usize, true))
            }
            Err(error) => Err(error),
        }
    }

    /// Entries from where the last call has stopped, or from the beginning. Returns how many there
    /// are, and where the next call goes on. `ENOSPC`: the entries of one bucket need more room.
    pub(crate) fn lookup_batch(
        self,
        start: Option<u32>,
        keys: &mut [u8],
        values: &mut [u8],
        count: usize,
    ) -> io::Result<(usize, Option<u32>)> {
        self.check(keys, Some(values), count)?;
        let (mut input, mut next) = (start.unwrap_or(0).to_ne_bytes(), [0; 4]);
        let mut attributes = Attributes::new()
            .target(8, &mut next)
            .target(16, keys)
            .target(24, values)
            .u32(32, count as u32)
            .descriptor(36, self.descriptor);
        if start.is_some() {
            attributes = attributes.target(0, &mut input);
        }
        // SAFETY: there is room for `count` keys and values, borrowed mutably; hash tables number
        // their buckets by 32 bits.
        match unsafe { attributes.call(Command::MapLookupBatch) } {
            Ok(_) => Ok((attributes.get(32) as usize, Some(u32::from_ne_bytes(next)))),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                Ok((attributes.get(32) as usize, None))
            }
            Err(error) => Err(error),
        }
    }
}

const SCHEDULER_CLASSIFIER: u32 = 3;

/// Loads a program for packets of a device. The verifier's log is put into `log`, up to a zero.
pub(crate) fn load_program(
    name: &str,
    instructions: &[u8],
    licence: &CStr,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::new()
        .u32(0, SCHEDULER_CLASSIFIER)
        .u32(4, (instructions.len() / 8) as u32)
        .source(8, instructions)
        .source(16, licence.to_bytes_with_nul())
        .u32(24, u32::from(!log.is_empty()))
        .u32(28, log.len() as u32)
        .name(48, name);
    if !log.is_empty() {
        attributes = attributes.target(32, log);
    }
    // SAFETY: the instructions are as many as is said, the licence ends with a zero, and the log is
    // borrowed mutably for its length.
    unsafe { attributes.open(Command::ProgramLoad) }
}

/// Runs a program on a frame at the loopback device, and returns its answer. The frame that it
/// leaves is put into `result`, which is as long, or empty. `arrival` is the device by which the
/// frame has come, or 0; `flags` are `BPF_F_TEST_...`.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    result: &mut [u8],
    arrival: u32,
    flags: u32,
) -> io::Result<i32> {
    // The beginning of `struct __sk_buff`, up to `ingress_ifindex`.
    let mut packet = [0; 40];
    packet[36..].copy_from_slice(&arrival.to_ne_bytes());
    let mut attributes = Attributes::new()
        .descriptor(0, program)
        .u32(8, frame.len() as u32)
        .u32(12, result.len() as u32)
        .source(16, frame)
        .u32(32, 1)
        .u32(40, packet.len() as u32)
        .source(48, &packet)
        .u32(64, flags);
    if !result.is_empty() {
        attributes = attributes.target(24, result);
    }
    // SAFETY: frame and packet are as long as is said, and so is the room for what becomes of the
    // frame, which is borrowed mutably.
    unsafe { attributes.call(Command::ProgramTestRun) }?;
    Ok(attributes.get(4).cast_signed())
}

/// Where on a device a program stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Ingress = 46,
    Egress = 47,
}

/// Puts a program on a device of this thread's network namespace, behind those that are there. It
/// stands there until the descriptor is closed, or the device is gone.
pub(crate) fn attach(program: BorrowedFd<'_>, device: u32, place: Place) -> io::Result<OwnedFd> {
    let mut attributes =
        Attributes::new().descriptor(0, program).u32(4, device).u32(8, place as u32);
    // SAFETY: there is no address in it.
    unsafe { attributes.open(Command::LinkCreate) }
}

/// The device of a link, 0 when it is gone.
pub(crate) fn device_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(number_at(&link_information(link)?, 16))
}

/// Whether the link's program is the last one at its place of a device.
pub(crate) fn is_last(link: BorrowedFd<'_>, device: u32, place: Place) -> io::Result<bool> {
    let number = number_at(&link_information(link)?, 4);
    let (mut programs, mut links) = ([0; 4 * PROGRAMS], [0; 4 * PROGRAMS]);
    let mut attributes = Attributes::new()
        .u32(0, device)
        .u32(4, place as u32)
        .target(16, &mut programs)
        .u32(24, PROGRAMS as u32)
        .target(40, &mut links);
    // SAFETY: there is room for as many programs and links as are said, borrowed mutably.
    unsafe { attributes.call(Command::ProgramQuery) }?;
    let last = (attributes.get(24) as usize).saturating_sub(1).min(PROGRAMS - 1);
    // A program that stands there without a link has 0.
    Ok(number_at(&links, 4 * last) == number)
}

fn number_at(bytes: &[u8], start: usize) -> u32 {
    bytes.get(start..).and_then(<[u8]>::first_chunk).map_or(0, |&bytes| u32::from_ne_bytes(bytes))
}

/// `struct bpf_link_info`: the link's number is at 4, its device at 16.
fn link_information(link: BorrowedFd<'_>) -> io::Result<[u8; 64]> {
    let mut information = [0; 64];
    let mut attributes = Attributes::new()
        .descriptor(0, link)
        .u32(4, information.len() as u32)
        .target(8, &mut information);
    // SAFETY: there is as much room as is said, borrowed mutably.
    unsafe { attributes.call(Command::GetInfo) }?;
    Ok(information)
}

/// At a place of a device, at most (`BPF_MPROG_MAX` of the kernel's bpf_mprog.h).
const PROGRAMS: usize = 64;

/// The coarse monotonic clock in nanoseconds, as programs read it: the machine's, which a time
/// namespace shifts for processes alone.
pub(crate) fn coarse_clock() -> u64 {
    static SHIFT: OnceLock<i64> = OnceLock::new();
    let shift = SHIFT.get_or_init(clock_shift);
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one structure, which lives until the call returns.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    nanoseconds.saturating_add_signed(shift.saturating_neg())
}

/// The nanoseconds by which our clock is ahead of the machine's. A kernel without time namespaces
/// has no such files.
fn clock_shift() -> i64 {
    let namespace = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
    // The file tells of the namespace that children get. A process which has unshared it, and has
    // not begun another program since, still has the clock of before.
    if namespace("time") != namespace("time_for_children") {
        return 0;
    }
    monotonic_shift(&std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default())
}

/// The same, of that file's text: a line for each clock, with seconds and nanoseconds.
fn monotonic_shift(offsets: &str) -> i64 {
    let numbers = offsets.lines().find_map(|line| line.strip_prefix("monotonic"));
    let mut numbers = numbers.unwrap_or_default().split_whitespace().map(|word| word.parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or(0i64);
    let seconds = next();
    seconds.saturating_mul(1_000_000_000).saturating_add(next())
}

/// A number that nobody can guess.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: there is as much room as is said, borrowed mutably.
    match unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kind of a device of this thread's network namespace (`ARPHRD_...`).
pub(crate) fn device_kind(device: u32) -> io::Result<u16> {
    // SAFETY: no pointer is passed; the descriptor is owned from here on.
    let socket = unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
            descriptor if descriptor < 0 => return Err(io::Error::last_os_error()),
            descriptor => OwnedFd::from_raw_fd(descriptor),
        }
    };
    // SAFETY: all zeroes are a valid value of this structure of numbers and letters.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = device.cast_signed();
    for question in [libc::SIOCGIFNAME, libc::SIOCGIFHWADDR] {
        // SAFETY: the structure lives until the call returns; the first answer is the name by which
        // the second question is put.
        if unsafe { libc::ioctl(socket.as_raw_fd(), question as _, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the last call has written this field.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_namespace_shifts_clocks() {
        assert_eq!(monotonic_shift("monotonic           0         0\nboottime       9  9\n"), 0);
        assert_eq!(monotonic_shift("monotonic      -1000         5\n"), -999_999_999_995);
        assert_eq!(monotonic_shift(""), 0);
    }
}
