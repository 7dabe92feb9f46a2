//! Property: an engine never panics, with any packets in any order. Each packet gets a verdict, one
//! that is not translated stays byte for byte as it was, a translated one keeps its length and all
//! but ends and checksums, and no table outgrows its limit.

use kbe_nat_engine::{ChecksumState, Meta};

use crate::cluster::TABLES;
use crate::packets;
use crate::script::Script;
use crate::watch::Watch;

/// Sends raw bytes, edited valid packets and answers to what was translated through an engine,
/// while time passes and tables change.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut watch = Watch::new(script.byte());
    let seeds = packets::seeds();
    let mut last = Vec::new();
    while !script.is_over() {
        let packet = match script.below(16) {
            RAW => {
                let length = script.below(96);
                script.take(length).to_vec()
            }
            WAIT => {
                watch.wait(u64::from(script.u16()) << (20 + script.below(16)));
                continue;
            }
            REPLACE => {
                watch.replace(script.below(TABLES));
                continue;
            }
            EXPIRE => {
                watch.expire(script.below(64));
                continue;
            }
            ANSWER..ANSWER_END => packets::answer(&last).unwrap_or_default(),
            AGAIN => last.clone(),
            _ => seeds[script.below(seeds.len())].clone(),
        };
        let mut packet = packet;
        let edits = if script.chance() { 0 } else { script.below(4) };
        script.edits(&mut packet, edits);
        last = watch.process(&packet, meta(&mut script)).1;
    }
    watch.finish();
}

/// A packet's facts, as a driver may know them.
pub(crate) fn meta(script: &mut Script<'_>) -> Meta {
    let choice = script.byte();
    let checksum =
        if choice & 0x70 == 0x70 { ChecksumState::Incomplete } else { ChecksumState::Complete };
    let interface = if choice & 8 == 8 { 7 } else { 0 };
    Meta { interface, checksum, is_captured: choice & 0x84 == 0x84 }
}

/// Steps of a script; all numbers above are packets of [`packets::seeds`].
pub(crate) const RAW: usize = 0;
pub(crate) const WAIT: usize = 1;
pub(crate) const REPLACE: usize = 2;
pub(crate) const EXPIRE: usize = 3;
pub(crate) const ANSWER: usize = 4;
const ANSWER_END: usize = 8;
const AGAIN: usize = 8;
/// The first number that is a packet of the seeds.
pub(crate) const SEED: usize = 9;
