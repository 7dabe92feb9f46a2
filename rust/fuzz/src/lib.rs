//! Fuzz targets of the engine: hostile packets, errors and checkpoints.
//!
//! | target | property |
//! |---|---|
//! | [`parse`] | reading never panics, offsets lie inside the packet |
//! | [`process`] | any sequence gets verdicts, within all limits |
//! | [`fields`] | valid packets with single fields changed keep right checksums right and wrong ones wrong |
//! | [`icmp_error`] | errors open and refresh nothing |
//! | [`checkpoint`] | an error or an engine that works; a round trip is the identity |
//!
//! `cargo test -p kbe-nat-fuzz` runs each for a few seconds, beginning with the files in `tests/__fuzz__`. Longer, here for a minute each:
//! `BOLERO_RANDOM_TEST_TIME_MS=60000 cargo test --release -p kbe-nat-fuzz`. A failure names the `BOLERO_RANDOM_SEED` that repeats it; an
//! input that failed is kept in `tests/__fuzz__/TARGET/crashes`, where every run looks first. With cargo-bolero installed (and a nightly
//! toolchain) `cargo bolero test -p kbe-nat-fuzz TARGET` lets coverage guide the choices.
//!
//! The sixth target, Kubernetes objects, is in Python: `tests/test_objects_fuzz.py`, longer with `KBE_NAT_FUZZ_EXAMPLES=3000`.

pub mod checkpoint;
pub mod cluster;
pub mod corpus;
pub mod fields;
pub mod icmp_error;
pub mod packets;
pub mod parse;
pub mod process;
pub mod script;
pub mod watch;
