//! Property: an ICMP error, however wrong it is, opens, refreshes and ends no flow; one that is
//! translated has right checksums where they were right, and goes to who sent what it quotes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kbe_nat_engine::wire::{Layer4, Wire};
use kbe_nat_engine::{Action, Cause, Engine, Meta, Packet};

use crate::cluster::{self, NODE, NODE6};
use crate::packets::{self, Sums};
use crate::script::Script;

/// Opens flows with valid packets, and sends edited errors about them.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let mut engine = cluster::engine(script.byte());
    let mut now = 0;
    let mut seen = Vec::new();
    let seeds = packets::seeds();
    for _ in 0..=script.below(4) {
        open(&mut engine, &seeds[script.below(seeds.len())], &mut seen);
    }
    while !script.is_over() {
        now += u64::from(script.byte()) << 26;
        let Some(error) = error(&mut script, &seen) else { continue };
        let before = engine.checkpoint(now);
        let flows = engine.occupancy().flows;
        let mut bytes = error.clone();
        let verdict = engine.process(now, &mut Packet { bytes: &mut bytes, meta: Meta::default() });
        let is_error = is_error::<Ipv4Addr>(&error) || is_error::<Ipv6Addr>(&error);
        if !is_error {
            // Edits have made something else of it.
            continue;
        }
        assert!(engine.checkpoint(now) == before, "{verdict:?} has changed a flow");
        assert_eq!(engine.occupancy().flows, flows, "also none that is over has gone");
        if verdict.action == Action::Translate {
            assert_eq!(verdict.cause, Cause::Related);
            check_translation(&error, &bytes);
        } else {
            assert_eq!(bytes, error, "{verdict:?} leaves the packet as it was");
        }
    }
}

/// Sends a packet and its answer through, and keeps both as the far sides saw them.
fn open(engine: &mut Engine, packet: &[u8], seen: &mut Vec<Vec<u8>>) {
    let mut send = |packet: &[u8]| {
        let mut bytes = packet.to_vec();
        let verdict = engine.process(0, &mut Packet { bytes: &mut bytes, meta: Meta::default() });
        (verdict.action == Action::Translate).then_some(bytes)
    };
    let Some(sent) = send(packet) else { return };
    let answered = packets::answer(&sent).and_then(|answer| send(&answer));
    seen.push(sent);
    seen.extend(answered);
}

/// An error about one of the packets that were seen, with edits in what it quotes and in itself.
fn error(script: &mut Script<'_>, seen: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut quoted = seen.get(script.below(seen.len()))?.clone();
    let is_v4 = quoted.first()? >> 4 == 4;
    let edits = if script.chance() { 0 } else { script.below(3) };
    script.edits(&mut quoted, edits);
    let from = match (script.below(3), is_v4) {
        (0, true) => NODE.into(),
        (0, false) => NODE6.into(),
        (1, _) => destination(&quoted)?,
        (_, true) => IpAddr::from([203, 0, 113, script.byte()]),
        (_, false) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(script.byte())]),
    };
    let kinds: &[u8] = if is_v4 { &[3, 11, 4, 5, 12, 8] } else { &[1, 3, 2, 4, 128, 100] };
    let (kind, code) = (script.one_of(kinds)?, script.byte() & 15);
    let length = if script.chance() { quoted.len() } else { script.below(96) };
    let mut error = packets::complaint(from, &quoted, kind, code, length)?;
    let edits = if script.chance() { 0 } else { script.below(3) };
    script.edits(&mut error, edits);
    if script.chance() {
        packets::seal(&mut error);
    }
    Some(error)
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into()),
        _ => None,
    }
}

fn is_error<A: Wire>(packet: &[u8]) -> bool {
    A::parse(packet).is_ok_and(|headers| headers.layer4 == Layer4::IcmpError)
}

fn check_translation(before: &[u8], after: &[u8]) {
    let (old, new) = (packets::sums(before), packets::sums(after));
    assert_eq!(old, new, "checksums stay as they were");
    assert!(
        matches!(new, Sums { transport: Some(true) | None, .. }),
        "a wrong error is not believed"
    );
    if before[0] >> 4 == 4 {
        check_quote::<Ipv4Addr>(before, after)
    } else {
        check_quote::<Ipv6Addr>(before, after)
    }
}

fn check_quote<A: Wire>(before: &[u8], after: &[u8]) {
    let headers = A::parse(after).expect("it is still a packet");
    let was = A::parse(before).expect("it was a packet");
    let (old, new) = (&was.transport(before)[8..], &headers.transport(after)[8..]);
    let (was_quoted, quoted) = (A::parse_quoted(old), A::parse_quoted(new));
    let (was_quoted, quoted) =
        (was_quoted.expect("it quotes a packet"), quoted.expect("it still does"));
    assert_eq!(headers.tuple.ends.dst, quoted.tuple.ends.src, "it goes to who sent what it quotes");
    assert_eq!(
        (was_quoted.l4, was_quoted.end, was_quoted.layer4),
        (quoted.l4, quoted.end, quoted.layer4)
    );
    assert_eq!(packets::sums(old).ip, packets::sums(new).ip, "the quoted header's checksum");
    // Behind the first words of the quoted transport header nothing changes.
    let behind = (usize::from(quoted.l4) + 20).min(new.len());
    assert_eq!(old[behind..], new[behind..]);
}
