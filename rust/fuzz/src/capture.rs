//! Property: whatever a capture file holds, reading it never panics and takes no more memory than
//! the file and its longest segment; its packets lie back to back, and an error names a place
//! inside the file.

use std::io::Cursor;

use kbe_nat_capture::{CaptureError, Reader};

use crate::packets;
use crate::script::Script;

/// Reads the input as it is, and as the edits of sound files.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    check(input);
    let mut script = Script::new(input);
    let seeds = seeds();
    while !script.is_over() {
        let mut file = seeds[script.below(seeds.len())].clone();
        for _ in 0..=script.below(4) {
            script.edit(&mut file);
        }
        check(&file);
    }
}

fn check(file: &[u8]) {
    let Ok(mut reader) = Reader::new(Box::new(Cursor::new(file.to_vec()))) else { return };
    loop {
        match reader.read_batch(4, 1_000_000) {
            Ok(None) => break,
            Ok(Some(batch)) => {
                assert_eq!(batch.offsets.len(), batch.len() + 1);
                assert!(batch.offsets.is_sorted());
                assert_eq!(batch.offsets.last(), Some(&(batch.packets.len() as u64)));
                assert!(
                    batch.packets.len() <= file.len() + 4 * 8 * 65_536,
                    "filled up without end"
                );
            }
            Err(CaptureError::Damaged { place, .. }) => {
                assert!(place.number > 0 && place.offset <= file.len() as u64, "{place:?}");
                return;
            }
            Err(error) => unreachable!("a file in memory: {error}"),
        }
    }
    assert_eq!(reader.position(), file.len() as u64);
    assert!(reader.cut().is_none_or(|place| place.offset < file.len() as u64));
}

/// Files of both formats in both byte orders, with one packet of each kind of record.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let packet = packets::seeds().swap_remove(0);
    let orders: [fn(u32) -> [u8; 4]; 2] = [u32::to_le_bytes, u32::to_be_bytes];
    let mut seeds = Vec::new();
    for order in orders {
        let long =
            |numbers: &[u32]| numbers.iter().flat_map(|&number| order(number)).collect::<Vec<u8>>();
        // Two numbers of 16 bits in one: their order is that of the bytes.
        let pair = |first: u16, second: u16| match order(1)[0] {
            1 => long(&[u32::from(second) << 16 | u32::from(first)]),
            _ => long(&[u32::from(first) << 16 | u32::from(second)]),
        };
        let length = packet.len() as u32;
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d, 0xa1b2_cd34] {
            let header = [long(&[magic]), pair(2, 4), long(&[0, 0, 0, 101])].concat();
            let more = if magic == 0xa1b2_cd34 { long(&[1, 2]) } else { Vec::new() };
            seeds.push([header, long(&[1, 2, length, length]), more, packet.clone()].concat());
        }
        let block = |kind: u32, body: &[u8]| {
            let body = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
            let length = body.len() as u32 + 12;
            [long(&[kind, length]), body, long(&[length])].concat()
        };
        let padded =
            [&packet[..], &vec![0; packet.len().next_multiple_of(4) - packet.len()]].concat();
        let options =
            [pair(9, 1), vec![9, 0, 0, 0], pair(14, 8), long(&[0, 7]), pair(0, 0)].concat();
        let hash = [pair(3, 5), vec![2, 1, 2, 3, 4, 0, 0, 0], pair(0, 0)].concat();
        let section =
            block(0x0a0d_0d0a, &[long(&[0x1a2b_3c4d]), pair(1, 0), long(&[u32::MAX; 2])].concat());
        let interface = block(1, &[pair(101, 0), long(&[0]), options].concat());
        let enhanced = block(6, &[long(&[0, 0, 5, length, length]), padded, hash].concat());
        let obsolete =
            block(2, &[pair(0, 0), long(&[0, 9, length, length]), packet.clone()].concat());
        let simple = block(3, &[long(&[length]), packet.clone()].concat());
        let unknown = block(0x0bad, &[1, 2, 3, 4]);
        seeds.push([section, interface, unknown, enhanced, obsolete, simple].concat());
    }
    seeds
}
