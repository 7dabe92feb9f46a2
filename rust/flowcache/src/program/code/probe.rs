//! Written by tools/flow_cache_program.py from flow_cache.bpf.c and its headers.
//! Source: sha256 833c4f1bf64a3da59eddf77d681d539576df991787e314c956203271c37d37d5
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
