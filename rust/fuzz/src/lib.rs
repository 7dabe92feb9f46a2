//! Fuzz targets: hostile packets, errors, checkpoints, capture files, messages and answers.
//!
//! | target | property |
//! |---|---|
//! | [`parse`] | reading never panics, offsets lie inside the packet |
//! | [`process`] | any sequence gets verdicts, within all limits |
//! | [`fields`] | valid packets with one field changed: checksums stay right or wrong |
//! | [`icmp_error`] | errors open and refresh nothing |
//! | [`checkpoint`] | an error or an engine that works; a round trip is the identity |
//! | [`netlink`] | messages of the kernel are read, whatever they say |
//! | [`capture`] | capture files are read or refused at a place inside them |
//! | [`apiserver`] | objects in protobuf are those in JSON, and damaged ones errors |
//!
//! `cargo test -p kbe-nat-fuzz` runs each 100,000 times, beginning with the files in
//! `tests/__fuzz__`; `BOLERO_RANDOM_ITERATIONS` is another number. A failure names the
//! `BOLERO_RANDOM_SEED` that repeats it. An input that failed is kept in
//! `tests/__fuzz__/TARGET/crashes`, where every run looks first.
//!
//! `make fuzz` runs each ten million times with libFuzzer, which lets coverage guide its choices:
//! see `tools/fuzz.sh`. Its corpus stays in `target/fuzz`.
//!
//! Kubernetes objects and YAML texts are fuzzed in Python: `tests/test_objects_fuzz.py` and
//! `tests/test_yaml_fuzz.py`, longer with `KBE_NAT_FUZZ_EXAMPLES=3000`.

pub mod apiserver;
pub mod capture;
pub mod checkpoint;
pub mod cluster;
pub mod corpus;
pub mod fields;
pub mod icmp_error;
pub mod netlink;
pub mod packets;
pub mod parse;
pub mod process;
pub mod script;
pub mod watch;
