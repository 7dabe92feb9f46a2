//! Property: packets that are valid but for single fields, with right checksums or wrong ones, keep
//! right checksums right and wrong ones wrong, and all else that holds for any packet holds for
//! them.

use std::net::IpAddr;

use crate::cluster::{self, CLIENT, CLIENT6, NODE, NODE6, VIP, VIP6};
use crate::packets;
use crate::process::meta;
use crate::script::Script;
use crate::watch::Watch;

/// Sends valid packets with some fields changed, and answers to them, through an engine.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut watch = Watch::new(script.byte());
    let seeds = packets::seeds();
    let mut last = Vec::new();
    while !script.is_over() {
        let mut packet = match packets::answer(&last) {
            Some(answer) if script.chance() => answer,
            _ => seeds[script.below(seeds.len())].clone(),
        };
        for _ in 0..script.below(4) {
            change(&mut script, &mut packet);
        }
        if script.chance() {
            packets::seal(&mut packet);
        } else {
            break_sum(&mut script, &mut packet);
        }
        last = watch.process(&packet, meta(&mut script)).1;
        if script.byte() >= 0xe0 {
            watch.wait(u64::from(script.byte()) << 30);
        }
    }
    watch.finish();
}

/// Changes one field of a packet, as far as it has it.
fn change(script: &mut Script<'_>, packet: &mut Vec<u8>) {
    let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    let header = if is_v4 { 20 } else { 40 };
    let mut put = |place: usize, value: &[u8]| {
        if let Some(field) = packet.get_mut(place..place + value.len()) {
            field.copy_from_slice(value);
        }
    };
    match script.below(16) {
        0 => put(0, &[if is_v4 { 0x40 } else { 0x60 } | script.byte() & 15]),
        1 => put(1, &[script.byte()]),
        // Total length, or length of the payload.
        2 => put(if is_v4 { 2 } else { 4 }, &script.telling_u16().to_be_bytes()),
        // Identification and fragment field; of IPv6 the first words of an extension header, if it
        // has one.
        3 => put(if is_v4 { 4 } else { 44 }, &script.u16().to_be_bytes()),
        4 => put(if is_v4 { 6 } else { 42 }, &script.telling_u16().to_be_bytes()),
        5 => {
            let protocols = [6, 17, 132, 1, 58, 47, 0, 43, 44, 50, 60, 135];
            put(if is_v4 { 9 } else { 6 }, &[script.one_of(&protocols).unwrap_or(0)]);
        }
        6 | 7 => {
            let address = address(script, is_v4);
            let is_source = script.chance();
            match address {
                IpAddr::V4(address) => put(if is_source { 12 } else { 16 }, &address.octets()),
                IpAddr::V6(address) => put(if is_source { 8 } else { 24 }, &address.octets()),
            }
        }
        8 | 9 => {
            let port = script.one_of(&[80, 81, 82, 53, 5060, 30_080, 8080, 0, 40_000]).unwrap_or(0);
            put(header + 2 * script.below(2), &u16::to_be_bytes(port));
        }
        10 => put(header + 2 * script.below(2), &script.u16().to_be_bytes()),
        // TCP: sequence numbers, data offset, flags, window. UDP: length. SCTP: tag, chunk. ICMP:
        // type, code, identifier.
        11 => put(header + 4 * (1 + script.below(2)), &script.u32().to_be_bytes()),
        12 => put(header + 12 + script.below(2), &[script.byte()]),
        13 => put(header + 4, &script.telling_u16().to_be_bytes()),
        14 => put(header, &[script.byte()]),
        _ => {
            let length = script.below(40);
            packet.extend_from_slice(script.take(length));
        }
    }
}

/// An address that means something.
fn address(script: &mut Script<'_>, is_v4: bool) -> IpAddr {
    let vip = if is_v4 { IpAddr::from(VIP) } else { VIP6.into() };
    match script.below(7) {
        0 => vip,
        1 => {
            if is_v4 {
                NODE.into()
            } else {
                NODE6.into()
            }
        }
        2 => {
            if is_v4 {
                CLIENT.into()
            } else {
                CLIENT6.into()
            }
        }
        3 => cluster::backend_address(vip, script.byte() % 8),
        4 => {
            if is_v4 {
                [0, 0, 0, 0].into()
            } else {
                [0; 16].into()
            }
        }
        5 => {
            if is_v4 {
                [127, 0, 0, 1].into()
            } else {
                [0, 0, 0, 0, 0, 0, 0, 1].into()
            }
        }
        _ => {
            let [a, b, c, d] = script.u32().to_be_bytes();
            if is_v4 {
                [a, b, c, d].into()
            } else {
                [0xfd, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into()
            }
        }
    }
}

/// Changes a checksum of an otherwise sealed packet.
fn break_sum(script: &mut Script<'_>, packet: &mut [u8]) {
    packets::seal(packet);
    let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    let header = if is_v4 { 20 } else { 40 };
    let place = match script.below(5) {
        0 if is_v4 => 10,
        1 => header + 2,
        2 => header + 6,
        3 => header + 8,
        _ => header + 16,
    };
    let value = script.byte();
    if let Some(byte) = packet.get_mut(place + usize::from(value & 1)) {
        *byte ^= value;
    }
}
