//! What clients and servers say to each other.

/// Bytes of a server's name; shorter ones are padded with zeros.
pub const NAME_BYTES: usize = 16;
/// Bytes of a ping and of its answer: magic, sequence, name.
pub(crate) const PING_BYTES: usize = 32;
/// Bytes of a request on a connection: whether it is the last, and a nonce.
pub(crate) const REQUEST_BYTES: usize = 16;
/// Bytes of its answer: the request and the server's name.
pub(crate) const ANSWER_BYTES: usize = REQUEST_BYTES + NAME_BYTES;
/// No flood has it: its datagrams are zeros.
const MAGIC: &[u8; 8] = b"kbe-ping";

/// A server's name as it is sent.
pub(crate) type Name = [u8; NAME_BYTES];

pub(crate) fn name_of(text: &str) -> Name {
    let mut name = [0; NAME_BYTES];
    for (to, from) in name.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    name
}

pub(crate) fn text_of(name: &[u8]) -> String {
    let text = name.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// A ping with this number.
pub(crate) fn ping(sequence: u64) -> [u8; PING_BYTES] {
    let mut content = [0; PING_BYTES];
    content[..8].copy_from_slice(MAGIC);
    content[8..16].copy_from_slice(&sequence.to_be_bytes());
    content
}

/// Makes a ping the answer of this server; false for any other datagram.
pub(crate) fn answer_ping(content: &mut [u8], name: &Name) -> bool {
    let is_ping = content.len() == PING_BYTES && content.starts_with(MAGIC);
    if is_ping {
        content[16..].copy_from_slice(name);
    }
    is_ping
}

/// The number and the server of an answered ping.
pub(crate) fn ping_answer(content: &[u8]) -> Option<(u64, &[u8])> {
    let (_, rest) = content.split_at_checked(8).filter(|(magic, _)| magic == MAGIC)?;
    let (sequence, name) = rest.split_first_chunk::<8>()?;
    // An unanswered ping that comes back has no name.
    (name.len() == NAME_BYTES && name[0] != 0).then(|| (u64::from_be_bytes(*sequence), name))
}

/// A request with this nonce; the server closes behind the answer to the `last` one.
pub(crate) fn request(nonce: u64, last: bool) -> [u8; REQUEST_BYTES] {
    let mut content = [0; REQUEST_BYTES];
    content[0] = u8::from(last);
    content[8..].copy_from_slice(&nonce.to_be_bytes());
    content
}

pub(crate) fn is_last(request: &[u8; REQUEST_BYTES]) -> bool {
    request[0] == 1
}

pub(crate) fn answer(request: &[u8; REQUEST_BYTES], name: &Name) -> [u8; ANSWER_BYTES] {
    let mut content = [0; ANSWER_BYTES];
    content[..REQUEST_BYTES].copy_from_slice(request);
    content[REQUEST_BYTES..].copy_from_slice(name);
    content
}
