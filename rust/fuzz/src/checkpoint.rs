//! Property: bytes given to `restore` are refused and change nothing, or leave an engine whose
//! books agree and that goes on working; and a checkpoint that was restored is the same checkpoint
//! again.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use kbe_nat_engine::Meta;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Flow;

use crate::cluster::{self, TABLES};
use crate::packets;
use crate::script::Script;
use crate::watch::{self, Watch};

/// The first bytes of a checkpoint.
pub const MAGIC: &[u8] = b"KBENATCK";
const HEADER: usize = MAGIC.len() + 4 + 8 + 4;

/// Takes the input as a checkpoint if it begins as one, and as edits of one in any other case.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    if input.starts_with(MAGIC) {
        restore(input, 0, 0, &mut Script::new(&[]));
        return;
    }
    let mut script = Script::new(input);
    let choices = script.byte();
    let mut bytes = after_packets(&mut script, choices);
    if script.chance() {
        for _ in 0..script.below(6) {
            change(&mut script, &mut bytes);
        }
        if script.chance() {
            script.edits(&mut bytes, 4);
        }
        if script.byte() < 0xe0 {
            frame(&mut bytes);
        }
    }
    let table = script.below(TABLES);
    restore(&bytes, choices, table, &mut script);
}

/// The checkpoint of an engine that had some packets, after its way into another engine and out
/// again was looked at.
#[must_use]
pub fn after_packets(script: &mut Script<'_>, choices: u8) -> Vec<u8> {
    let mut engine = Watch::new(choices);
    let seeds = packets::seeds();
    for _ in 0..script.below(12) {
        let (_, sent) = engine.process(&seeds[script.below(seeds.len())], Meta::default());
        if script.chance()
            && let Some(answer) = packets::answer(&sent)
        {
            let _ = engine.process(&answer, Meta::default());
        }
        engine.wait(u64::from(script.byte()) << 26);
    }
    let bytes = engine.single.checkpoint(engine.now);
    let flows = watch::flows(&engine.single);
    let mut copy = cluster::engine(choices);
    assert_eq!(copy.restore(engine.now, &bytes, 0), Ok(flows.len()));
    assert_eq!(watch::flows(&copy), flows);
    assert!(copy.checkpoint(engine.now) == bytes, "a round trip changes nothing");
    assert_eq!(engine.single.restore(engine.now, &bytes, 0), Ok(0), "all flows are there already");
    assert!(engine.single.checkpoint(engine.now) == bytes, "and stay as they are");
    bytes
}

/// Makes length and checksum of an edited checkpoint right, so that its body is looked at.
pub fn frame(checkpoint: &mut [u8]) {
    let Some((header, body)) = checkpoint.split_at_mut_checked(HEADER) else { return };
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&1u32.to_le_bytes());
    header[12..20].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[20..24].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
}

/// Gives one number of a checkpoint another value: an extreme, one that is near, or any.
fn change(script: &mut Script<'_>, checkpoint: &mut [u8]) {
    let fields = fields(checkpoint);
    let Some(field) = fields.get(script.below(fields.len())).cloned() else { return };
    let choice = script.below(6);
    let field = &mut checkpoint[field];
    match choice {
        0 => field.fill(0),
        1 | 2 => field.fill(0xff),
        3 => field[0] = field[0].wrapping_add(1),
        4 => {
            if let Some(last) = field.last_mut() {
                *last ^= 0x80;
            }
        }
        _ => field.fill_with(|| script.byte()),
    }
}

/// Where the numbers and addresses of a valid checkpoint stand.
fn fields(checkpoint: &[u8]) -> Vec<Range<usize>> {
    let mut walk = Walk { checkpoint, at: HEADER, fields: Vec::new() };
    for _ in 0..walk.number() {
        let length = walk.number();
        walk.field(length);
    }
    for _ in 0..walk.number() {
        // Family, protocol, state, flags; both ends; times, service port and backend; counters;
        // both sides.
        (0..4).for_each(|_| walk.field(1));
        for _ in 0..2 {
            (0..2).for_each(|_| walk.address());
            (0..2).for_each(|_| walk.field(2));
        }
        [4, 4, 4, 2, 8, 8, 8, 8].into_iter().for_each(|width| walk.field(width));
        for _ in 0..2 {
            [4, 4, 4, 1, 1, 1, 1].into_iter().for_each(|width| walk.field(width));
        }
    }
    for _ in 0..walk.number() {
        walk.field(4);
        (0..2).for_each(|_| walk.address());
        [2, 4].into_iter().for_each(|width| walk.field(width));
    }
    walk.fields
}

struct Walk<'a> {
    checkpoint: &'a [u8],
    at: usize,
    fields: Vec<Range<usize>>,
}

impl Walk<'_> {
    fn field(&mut self, width: usize) {
        // An edited checkpoint may say anything, so its fields end where it does.
        let end = self.at.saturating_add(width).min(self.checkpoint.len());
        if self.at < end {
            self.fields.push(self.at..end);
        }
        self.at = end;
    }

    /// A number of others that follow; no more of them than there are bytes.
    fn number(&mut self) -> usize {
        let at = self.at;
        self.field(4);
        let number = self.checkpoint.get(at..at + 4).map_or(0, |bytes| {
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
        });
        number.min(self.checkpoint.len())
    }

    fn address(&mut self) {
        let family = self.checkpoint.get(self.at).copied();
        self.field(1);
        self.field(if family == Some(6) { 16 } else { 4 });
    }
}

/// Restores into an engine that has a flow already, and goes on with it.
fn restore(bytes: &[u8], choices: u8, table: usize, script: &mut Script<'_>) {
    let mut watch = Watch::new(choices);
    watch.replace(table);
    let seeds = packets::seeds();
    let _ = watch.process(&seeds[script.below(seeds.len())], Meta::default());
    let before = (watch.single.checkpoint(0), watch.single.occupancy());
    let now = u64::from(script.byte()) << 30;
    let away = u64::from(script.byte()) << 32;
    let restored = watch.restore(now, bytes, away);
    match restored {
        Ok(restored) => assert_eq!(watch.single.occupancy().flows, before.1.flows + restored),
        Err(_) => {
            assert!(
                (watch.single.checkpoint(0), watch.single.occupancy()) == before,
                "nothing changes"
            )
        }
    }
    watch::check_books(&watch.single);
    let second = watch.single.checkpoint(now);
    assert!(
        cluster::engine(choices).restore(now, &second, 0).is_ok(),
        "what is written can be read"
    );
    for flow in watch::flows(&watch.single) {
        for (src, dst) in
            [(flow.source, flow.destination), (flow.reply_source, flow.reply_destination)]
        {
            if let Some(packet) = of(&flow, src, dst, script) {
                let _ = watch.process(&packet, Meta::default());
            }
        }
        watch.wait(u64::from(script.byte()) << 24);
    }
    watch.replace(script.below(TABLES));
    for _ in 0..script.below(4) {
        let _ = watch.process(&seeds[script.below(seeds.len())], Meta::default());
        watch.expire(script.below(4));
    }
    watch.finish();
}

/// A packet of this flow.
fn of(flow: &Flow, src: SocketAddr, dst: SocketAddr, script: &mut Script<'_>) -> Option<Vec<u8>> {
    let ports = (src.port(), dst.port());
    let payload = match flow.protocol {
        Protocol::TCP => {
            packets::tcp(ports, script.byte() & 0x17, (script.u32(), script.u32()), &[], b"x")
        }
        Protocol::UDP => packets::udp(ports, b"x"),
        Protocol::SCTP => packets::sctp(ports, script.byte() % 16, b"x"),
        Protocol::ICMP => {
            packets::icmp(if dst.port() == 0 { 8 } else { 0 }, 0, echo_id(ports), b"x")
        }
        Protocol::ICMPV6 => {
            packets::icmp(if dst.port() == 0 { 128 } else { 129 }, 0, echo_id(ports), b"x")
        }
        _ => vec![0; 8],
    };
    let (src, dst): (IpAddr, IpAddr) = (src.ip(), dst.ip());
    (src.is_ipv4() == dst.is_ipv4()).then(|| packets::packet(src, dst, flow.protocol, &payload))
}

fn echo_id((sport, dport): (u16, u16)) -> u32 {
    u32::from(sport | dport) << 16
}
