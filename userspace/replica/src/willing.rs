// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A node's signed word that it keeps images for others (Documentation/replicas.md).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ring::signature::{UnparsedPublicKey, ED25519};

/// What an announcement begins with: its kind and the version of its form.
const MAGIC: [u8; 4] = *b"PFW\x01";
/// What tells the signature of an announcement from others of the same key.
const DOMAIN: &[u8] = b"peerfs-willing-1\0";
/// Bytes of a signature.
pub const SIGNATURE_SIZE: usize = 64;
/// The addresses of an announcement.
pub const ADDRESSES_MAX: usize = 4;
/// The bytes of an announcement without addresses.
const FIXED: usize = 4 + 32 + 3 * 8 + 1 + SIGNATURE_SIZE;
/// Bytes of an address: as IPv6, and a port.
const ADDRESS_SIZE: usize = 18;
/// The most bytes of an announcement.
pub const WILLING_MAX: usize = FIXED + ADDRESSES_MAX * ADDRESS_SIZE;
/// For how long one holds at most: who has gone is forgotten after that.
pub const LIFETIME_MAX: Duration = Duration::from_secs(2 * 60 * 60);

/// A node's public key, Ed25519.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeKey(pub [u8; 32]);

/// Why bytes are no announcement.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidWilling {
    /// It has too few bytes, or too many.
    #[error("the announcement has another length than it says")]
    Length,
    /// It is something else, or of another version.
    #[error("this is no announcement of a willing node, or one of a newer version of peerfs")]
    Kind,
    /// A field has a value that is not allowed.
    #[error("the announcement's {0} is not allowed")]
    Field(&'static str),
    /// The signature does not hold.
    #[error("the announcement is forged: its signature does not hold")]
    Forged,
}

/// A node that keeps images for others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Willing {
    /// Its key.
    pub node: NodeKey,
    /// When it said so, in seconds since 1970: the latest word counts.
    pub issued: u64,
    /// Until when it holds, in seconds since 1970.
    pub expires: u64,
    /// Bytes that it keeps for others in all; with 0 it does not any more.
    pub bytes: u64,
    /// Where it is reached, at least once.
    pub addresses: Vec<SocketAddr>,
}

/// An announcement, and the proof that it is the node's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedWilling {
    willing: Willing,
    bytes: Box<[u8]>,
}

impl Willing {
    /// Signs it, by `sign` with the node's key.
    ///
    /// # Errors
    /// [`InvalidWilling`] if it is none that anybody would accept.
    pub fn sign(
        self,
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_SIZE],
    ) -> Result<SignedWilling, InvalidWilling> {
        self.check()?;
        let mut bytes = self.body();
        let signature = sign(&message(&bytes));
        bytes.extend_from_slice(&signature);
        // So that a key that is another one's is not noticed by others first.
        SignedWilling::parse(&bytes)
    }

    /// The network that one party has all addresses of, by its first address: /24 of IPv4, /48 of IPv6.
    pub fn network(&self) -> [u8; 7] {
        match self.host() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                [4, a, b, c, 0, 0, 0]
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                [6, a, b, c, d, e, f]
            }
        }
    }

    /// The address of its machine, by its first address.
    pub fn host(&self) -> IpAddr {
        let first = self.addresses.first().map(SocketAddr::ip);
        first.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }

    fn check(&self) -> Result<(), InvalidWilling> {
        let field = |name| Err(InvalidWilling::Field(name));
        let lasts = self.expires.checked_sub(self.issued);
        if !lasts.is_some_and(|lasts| (1..=LIFETIME_MAX.as_secs()).contains(&lasts)) {
            return field("expiry");
        }
        if !(1..=ADDRESSES_MAX).contains(&self.addresses.len()) {
            return field("number of addresses");
        }
        let is_none = |address: &SocketAddr| {
            let ip = address.ip();
            address.port() == 0 || ip.is_unspecified() || ip.is_multicast()
        };
        if self.addresses.iter().any(is_none) {
            return field("address");
        }
        Ok(())
    }

    /// All but the signature.
    fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(WILLING_MAX);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.node.0);
        for number in [self.issued, self.expires, self.bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        // Bounded by the check.
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&address.port().to_le_bytes());
        }
        bytes
    }
}

impl SignedWilling {
    /// The announcement in these bytes, of which there are no more, if its signature holds.
    ///
    /// # Errors
    /// [`InvalidWilling`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidWilling> {
        use InvalidWilling::{Forged, Kind, Length};
        if bytes.len() > WILLING_MAX {
            return Err(Length);
        }
        let (magic, rest) = bytes.split_first_chunk().ok_or(Length)?;
        if *magic != MAGIC {
            return Err(Kind);
        }
        let (node, rest) = rest.split_first_chunk().ok_or(Length)?;
        let (issued, rest) = rest.split_first_chunk().ok_or(Length)?;
        let (expires, rest) = rest.split_first_chunk().ok_or(Length)?;
        let (room, rest) = rest.split_first_chunk().ok_or(Length)?;
        let (count, rest) = rest.split_first().ok_or(Length)?;
        let (addresses, signature) = rest
            .split_at_checked(usize::from(*count) * ADDRESS_SIZE)
            .ok_or(Length)?;
        if signature.len() != SIGNATURE_SIZE {
            return Err(Length);
        }
        let address = |bytes: &[u8]| {
            let (ip, port) = bytes.split_first_chunk::<16>()?;
            let ip = Ipv6Addr::from(*ip).to_canonical();
            Some(SocketAddr::new(
                ip,
                u16::from_le_bytes(port.try_into().ok()?),
            ))
        };
        let addresses = addresses.chunks_exact(ADDRESS_SIZE).map(address);
        let willing = Willing {
            node: NodeKey(*node),
            issued: u64::from_le_bytes(*issued),
            expires: u64::from_le_bytes(*expires),
            bytes: u64::from_le_bytes(*room),
            addresses: addresses.collect::<Option<_>>().ok_or(Length)?,
        };
        willing.check()?;
        let (body, _) = bytes.split_at(bytes.len() - SIGNATURE_SIZE);
        let key = UnparsedPublicKey::new(&ED25519, &willing.node.0);
        key.verify(&message(body), signature).map_err(|_| Forged)?;
        Ok(SignedWilling {
            willing,
            bytes: bytes.into(),
        })
    }

    /// What it says.
    pub fn willing(&self) -> &Willing {
        &self.willing
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn willing(key: &Ed25519KeyPair) -> Willing {
        Willing {
            node: NodeKey(key.public_key().as_ref().try_into().unwrap()),
            issued: 1000,
            expires: 1000 + LIFETIME_MAX.as_secs(),
            bytes: 50 << 30,
            addresses: vec![
                "198.51.100.7:4001".parse().unwrap(),
                "[2001:db8::1]:4001".parse().unwrap(),
            ],
        }
    }

    fn sign(willing: Willing, key: &Ed25519KeyPair) -> Result<SignedWilling, InvalidWilling> {
        willing.sign(|message| key.sign(message).as_ref().try_into().unwrap())
    }

    #[test]
    fn what_was_signed_is_read_and_nothing_else() {
        let (one, other) = (key(1), key(2));
        let signed = sign(willing(&one), &one).unwrap();
        let read = SignedWilling::parse(signed.bytes()).unwrap();
        assert_eq!(read.willing(), &willing(&one));
        assert_eq!(sign(willing(&one), &other), Err(InvalidWilling::Forged));
        let bytes = signed.bytes();
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert!(SignedWilling::parse(&flipped).is_err(), "{at}");
            assert!(SignedWilling::parse(&bytes[..at]).is_err(), "{at}");
        }
        let longer = [bytes, &[0]].concat();
        assert_eq!(SignedWilling::parse(&longer), Err(InvalidWilling::Length));
        let oversized = vec![0; WILLING_MAX + 1];
        assert_eq!(
            SignedWilling::parse(&oversized),
            Err(InvalidWilling::Length)
        );
    }

    #[test]
    fn it_holds_for_a_while_and_is_reached_somewhere() {
        let key = key(1);
        let of = |change: fn(&mut Willing)| {
            let mut changed = willing(&key);
            change(&mut changed);
            sign(changed, &key).map(drop)
        };
        assert_eq!(of(|_| ()), Ok(()));
        for change in [
            (|willing: &mut Willing| willing.expires += 1) as fn(&mut Willing),
            |willing| willing.expires = willing.issued,
            |willing| willing.issued = willing.expires + 1,
            |willing| willing.addresses.clear(),
            |willing| willing.addresses = vec![willing.addresses[0]; ADDRESSES_MAX + 1],
            |willing| willing.addresses[1].set_port(0),
            |willing| willing.addresses = vec!["0.0.0.0:1".parse().unwrap()],
            |willing| willing.addresses = vec!["224.0.0.1:1".parse().unwrap()],
        ] {
            assert!(matches!(of(change), Err(InvalidWilling::Field(_))));
        }
    }
}
