//! Written by tools/flow_cache_program.py from flow_cache.bpf.c and its headers.
//! Source: sha256 f1a9a5f4cfd22c288a83a023bb60efbd6f30a63088d255c17ac630f7019fb6ba
//! Compiler: Debian clang version 14.0.6

use crate::program::Program;

#[rustfmt::skip]
pub(crate) static PROBE: Program = Program {
    name: "kbe_nat_probe",
    instructions: &[
        0x3c000002b4, 0x3b7, 0x4b7, 0xb0000005b7, 0xb00000085, 0x95,
    ],
    relocations: &[
    ],
};
