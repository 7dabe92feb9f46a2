//! The programs as the kernel takes them: instructions, and where in them maps are named. What they
//! do stands in `program/flow_cache.bpf.c`; `tools/flow_cache_program.py` makes
//! `program/code` of it, so that building this crate takes no compiler for BPF.

/// Each is written by the tool.
mod code {
    pub(crate) mod egress;
    pub(crate) mod ingress;
    pub(crate) mod probe;
}

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use thiserror::Error;

use crate::bpf;

pub(crate) use code::egress::EGRESS;
pub(crate) use code::ingress::INGRESS;
pub(crate) use code::probe::PROBE;

/// The names that the programs have for maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapName {
    Flows4,
    Flows6,
    Proposals4,
    Proposals6,
    Peers,
    Voids,
    Counters,
    Notices,
    /// Programs have the address of its only value.
    Control,
}

/// A program, compiled.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    instructions: &'static [u64],
    /// The number of an instruction, the map that it names, and an offset in that map's value.
    relocations: &'static [(usize, MapName, u32)],
}

/// The kernel refuses a program.
#[derive(Debug, Error)]
#[error("the kernel refuses the program {name}: {error}{}", last_lines(log))]
pub struct ProgramError {
    name: &'static str,
    /// The system's.
    #[source]
    pub(crate) error: io::Error,
    log: String,
}

impl Program {
    /// Loads it with the maps that it names. Cost: some milliseconds for the verifier.
    pub(crate) fn load(&self, maps: &[(MapName, BorrowedFd<'_>)]) -> Result<OwnedFd, ProgramError> {
        let mut words = self.instructions.to_vec();
        for &(index, name, offset) in self.relocations {
            let source = if name == MapName::Control { MAP_VALUE } else { MAP };
            let map = maps.iter().find(|(candidate, _)| *candidate == name);
            // The kernel refuses a program with a map that is not open.
            let descriptor = map.map_or(-1, |(_, map)| map.as_raw_fd());
            let descriptor = u64::from(descriptor.cast_unsigned());
            // Two instructions of which the second has the upper half of the number.
            words[index] = words[index] & 0xfff | source << 12 | descriptor << 32;
            words[index + 1] = u64::from(if source == MAP { 0 } else { offset }) << 32;
        }
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Without a log loading is quicker; with one that is too short it fails.
        bpf::load_program(self.name, &code, LICENCE, &mut []).or_else(|_| {
            let mut log = vec![0; LOG];
            bpf::load_program(self.name, &code, LICENCE, &mut log).map_err(|error| {
                let text = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                ProgramError { name: self.name, error, log: text.to_string_lossy().into_owned() }
            })
        })
    }
}

/// The end of the verifier's log, where it says what it has against the program.
fn last_lines(log: &str) -> String {
    let mut lines: Vec<&str> = log.lines().rev().take(LINES).collect();
    lines.reverse();
    lines.iter().flat_map(|line| ["; ", line]).collect()
}

/// In the place of a source register: what the number of an instruction is.
const MAP: u64 = 1;
const MAP_VALUE: u64 = 2;
/// The programs call nothing that is for GPL programs alone.
const LICENCE: &CStr = c"MIT OR Apache-2.0";
const LOG: usize = 1 << 20;
const LINES: usize = 4;
