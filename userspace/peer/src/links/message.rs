// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Messages of multicast DNS (RFC 6762), as far as libp2p's discovery has them:
//! <https://github.com/libp2p/specs/blob/master/discovery/mdns.md>.

use libp2p::{Multiaddr, PeerId};

use crate::twins::addresses_in;

/// `_p2p._udp.local`.
const SERVICE: &[u8] = b"\x04_p2p\x04_udp\x05local\0";
const HEADER_SIZE: usize = 12;
/// The flag of the second byte of the header's flags: an answer, by who knows best.
const IS_ANSWER: u8 = 0x80;
const IS_AUTHORITATIVE: u8 = 0x04;
const TYPE_PTR: u16 = 12;
const TYPE_TXT: u16 = 16;
const CLASS_IN: u16 = 1;
/// Seconds for which an answer holds: a quarter of an hour, as with IPv4.
const LIVES: u32 = 900;
/// A text has its length in a byte.
const TEXT_MAX: usize = 255;

/// What a message says.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Said {
    /// Who is there?
    Question,
    /// This peer is, at these addresses.
    Answer(Vec<Multiaddr>),
}

/// The question who is there.
pub(super) fn question() -> Vec<u8> {
    let mut message = header(0, [1, 0, 0, 0]);
    message.extend_from_slice(SERVICE);
    put(&mut message, TYPE_PTR);
    put(&mut message, CLASS_IN);
    message
}

/// The answer that this node is, at these addresses.
pub(super) fn answer(id: &PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    let label = id.to_base58();
    let mut name = vec![label.len() as u8];
    name.extend_from_slice(label.as_bytes());
    name.extend_from_slice(SERVICE);
    let mut texts = Vec::new();
    for address in addresses {
        let text = format!("dnsaddr={address}/p2p/{id}");
        if text.len() <= TEXT_MAX {
            texts.push(text.len() as u8);
            texts.extend_from_slice(text.as_bytes());
        }
    }
    let mut message = header(IS_ANSWER | IS_AUTHORITATIVE, [0, 1, 0, 1]);
    put_record(&mut message, SERVICE, TYPE_PTR, &name);
    put_record(&mut message, &name, TYPE_TXT, &texts);
    message
}

/// What a message says, if it is about nodes. Whatever it is, it is only searched.
pub(super) fn read(message: &[u8]) -> Option<Said> {
    let (header, rest) = message.split_at_checked(HEADER_SIZE)?;
    let is_ours = rest.windows(SERVICE.len()).any(|window| window == SERVICE);
    let is_answer = header.get(2)? & IS_ANSWER != 0;
    match (is_ours, is_answer) {
        (false, _) => None,
        (true, false) => Some(Said::Question),
        (true, true) => Some(Said::Answer(addresses_in(rest))),
    }
}

fn header(flags: u8, counts: [u16; 4]) -> Vec<u8> {
    let mut header = vec![0, 0, flags, 0];
    for count in counts {
        put(&mut header, count);
    }
    header
}

fn put_record(message: &mut Vec<u8>, name: &[u8], kind: u16, data: &[u8]) {
    message.extend_from_slice(name);
    put(message, kind);
    put(message, CLASS_IN);
    message.extend_from_slice(&LIVES.to_be_bytes());
    // A few addresses have some hundred bytes.
    put(message, u16::try_from(data.len()).unwrap_or(u16::MAX));
    message.extend_from_slice(data);
}

fn put(message: &mut Vec<u8>, number: u16) {
    message.extend_from_slice(&number.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use libp2p::multiaddr::Protocol;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_is_left() {
        let id = PeerId::random();
        let own: Vec<Multiaddr> = ["/ip6/fd77::1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        assert_eq!(read(&question()), Some(Said::Question));
        let whole = answer(&id, &own);
        let named = own.iter().map(|one| one.clone().with(Protocol::P2p(id)));
        assert_eq!(read(&whole), Some(Said::Answer(named.collect())));
        for end in 0..whole.len() {
            assert!(matches!(read(&whole[..end]), None | Some(Said::Answer(_))));
        }
        for other in [&b""[..], b"\0\0\0\0", &[0xff; 9000]] {
            assert_eq!(read(other), None);
        }
    }
}
