//! The inputs that every target begins with. They are written as code, and kept as files where
//! bolero looks for them: `cargo run -p kbe-nat-fuzz --example corpus` writes the files anew.

use crate::packets;
use crate::process::{ANSWER, EXPIRE, REPLACE, SEED, WAIT};

/// A file: target, name, content.
pub type File = (&'static str, String, Vec<u8>);

/// All files.
#[must_use]
pub fn files() -> Vec<File> {
    let seeds = packets::seeds();
    let mut files: Vec<File> = Vec::new();
    for (number, packet) in seeds.iter().enumerate() {
        files.push(("parse", format!("packet-{number:02}"), packet.clone()));
    }
    for choices in [0u8, 2, 0x1f, 0x12] {
        files.push((
            "process",
            format!("each-answered-{choices:02x}"),
            each_answer(choices, seeds.len()),
        ));
        files.push((
            "process",
            format!("tables-change-{choices:02x}"),
            tables_change(choices, seeds.len()),
        ));
        files.push((
            "fields",
            format!("each-answered-{choices:02x}"),
            each_seal(choices, seeds.len()),
        ));
    }
    for first in (0..seeds.len()).step_by(4) {
        files.push(("icmp_error", format!("about-{first:02}"), errors(first as u8)));
    }
    for (number, message) in crate::netlink::seeds().into_iter().enumerate() {
        files.push(("netlink", format!("message-{number:02}"), message));
    }
    for (number, file) in crate::capture::seeds().into_iter().enumerate() {
        files.push(("capture", format!("file-{number:02}"), file));
    }
    for (number, answer) in crate::apiserver::seeds().into_iter().enumerate() {
        files.push(("apiserver", format!("answer-{number:02}"), answer));
    }
    for (name, steps) in [("empty", 0), ("few", 3), ("many", 11)] {
        for choices in [0u8, 2] {
            let mut script = vec![choices, steps];
            for step in 0..steps {
                script.extend([step * 3, 1, 2]);
            }
            let written = crate::checkpoint::after_packets(
                &mut crate::script::Script::new(&script[1..]),
                choices,
            );
            files.push(("checkpoint", format!("{name}-{choices:02x}.checkpoint"), written));
            // One edit of the body, framed anew.
            script.extend([1, 1, 1, 60, 0xff, 0, 0, 1]);
            files.push(("checkpoint", format!("{name}-{choices:02x}.edit"), script));
        }
    }
    files
}

/// A packet without edits, and what the driver knows of it.
const AS_IT_IS: [u8; 3] = [1, 0, 0];

fn each_answer(choices: u8, seeds: usize) -> Vec<u8> {
    let mut script = vec![choices];
    for seed in 0..seeds as u8 {
        script.extend([SEED as u8, seed]);
        script.extend(AS_IT_IS);
        script.push(ANSWER as u8);
        script.extend(AS_IT_IS);
    }
    script
}

fn tables_change(choices: u8, seeds: usize) -> Vec<u8> {
    let mut script = vec![choices];
    for seed in 0..seeds as u8 {
        script.extend([SEED as u8, seed]);
        script.extend(AS_IT_IS);
        script.extend([WAIT as u8, 0x10, 0, seed, REPLACE as u8, seed, EXPIRE as u8, 3]);
    }
    script
}

fn each_seal(choices: u8, seeds: usize) -> Vec<u8> {
    let mut script = vec![choices];
    for seed in 0..seeds as u8 {
        // No answer, this packet, no change, sealed, nothing known, no wait; then an answer.
        script.extend([0, seed, 0, 1, 0, 0, 1, 0, 1, 0, 0]);
    }
    script
}

fn errors(first: u8) -> Vec<u8> {
    let mut script = vec![0, 3, first, first + 1, first + 2, first + 3];
    for seen in 0..8 {
        for from in 0..3 {
            // A moment later, about this packet, as it is, from there, of the first kind, all of
            // it, as it is.
            script.extend([1, seen, 1, 0, from]);
            script.extend(if from == 2 { &[9, 0, 0, 1, 1, 0, 1][..] } else { &[0, 0, 1, 1, 0, 1] });
        }
    }
    script
}
