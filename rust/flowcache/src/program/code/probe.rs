//! Written by tools/flow_cache_program.py from flow_cache.bpf.c and its headers.
//! Source: sha256 92361749e6a43b4f27355ef367eeb9c8cce031589b57600eb8d91f7df2030c5c
//! Compiler: Debian clang version 14.0.6

use crate::program::Program;

#[rustfmt::skip]
pub(crate) static PROBE: Program = Program {
    name: "kbe_nat_probe",
    instructions: &[
        0x0000003c000002b4, 0x00000000000003b7, 0x00000000000004b7, 0x000000b0000005b7,
        0x0000000b00000085, 0x0000000000000095,
    ],
    relocations: &[
    ],
};
