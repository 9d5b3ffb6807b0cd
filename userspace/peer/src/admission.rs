// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who is let in: on a new connection, behind Noise and before anything else, members of a swarm show each other their certificates
//! (Documentation/peer-protocol.md).
//!
//! Noise has proven by then that a node has the key of its id, and encrypts what is shown. No other protocol is spoken with who is no
//! member.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Future};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::{noise, PeerId};
use peerfs_names::{Certificate, InvalidCertificate, PublisherKey, CERTIFICATE_MAX};

/// A swarm whose nodes are certified, as one of its members.
#[derive(Debug)]
pub struct Membership {
    swarm: PublisherKey,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What this node shows.
    own: Certificate,
    /// Whose certificates hold no longer.
    revoked: BTreeSet<String>,
    /// Until when who was let in is a member.
    admitted: HashMap<PeerId, SystemTime>,
}

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
pub enum NotAMember {
    /// It has shown no certificate.
    #[error("it shows no certificate")]
    None(#[source] InvalidCertificate),
    /// It is one of another swarm.
    #[error("it is a member of {0}")]
    OfAnother(PublisherKey),
    /// It shows somebody else's.
    #[error("it shows the certificate of {0}")]
    OfSomebodyElse(String),
    /// It was a member.
    #[error("its certificate has expired")]
    Expired,
    /// It was a member.
    #[error("its certificate is revoked")]
    Revoked,
}

impl Membership {
    /// Membership by this certificate.
    pub fn new(own: Certificate) -> Self {
        Membership {
            swarm: own.authority(),
            state: Mutex::new(State {
                own,
                revoked: BTreeSet::new(),
                admitted: HashMap::new(),
            }),
        }
    }

    /// The key that certifies the swarm's nodes.
    pub fn swarm(&self) -> PublisherKey {
        self.swarm
    }

    /// What this node shows.
    fn own(&self) -> Certificate {
        self.state().own.clone()
    }

    /// Shows another certificate of this node on connections that come: those that are there stay until the one ends that they were
    /// made with. False, and nothing is changed, if it is of another swarm.
    pub fn renew(&self, own: Certificate) -> bool {
        let is_ours = own.authority() == self.swarm;
        if is_ours {
            self.state().own = own;
        }
        is_ours
    }

    /// Lets these in no more.
    pub fn revoke(&self, nodes: BTreeSet<String>) {
        self.state().revoked = nodes;
    }

    /// Who was let in and is no member any more. Each is told once.
    pub(crate) fn ended(&self, now: SystemTime) -> Vec<PeerId> {
        let mut state = self.state();
        let State {
            revoked, admitted, ..
        } = &mut *state;
        let ended: Vec<PeerId> = admitted
            .iter()
            .filter(|(peer, expiry)| **expiry <= now || revoked.contains(&peer.to_string()))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in &ended {
            admitted.remove(peer);
        }
        ended
    }

    /// Forgets who is not connected any more.
    pub(crate) fn forget(&self, peer: &PeerId) {
        self.state().admitted.remove(peer);
    }

    /// Lets in who shows this, or says why not.
    fn admit(&self, peer: PeerId, shown: &[u8], now: SystemTime) -> Result<(), NotAMember> {
        let certificate = Certificate::parse(shown).map_err(NotAMember::None)?;
        if certificate.authority() != self.swarm {
            return Err(NotAMember::OfAnother(certificate.authority()));
        }
        if certificate.node() != peer.to_string() {
            return Err(NotAMember::OfSomebodyElse(certificate.node().to_owned()));
        }
        if certificate.expiry() <= now {
            return Err(NotAMember::Expired);
        }
        let mut state = self.state();
        if state.revoked.contains(certificate.node()) {
            return Err(NotAMember::Revoked);
        }
        state.admitted.insert(peer, certificate.expiry());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Noise, and then certificates, if the swarm has them.
#[derive(Clone)]
pub(crate) struct Authenticated {
    noise: noise::Config,
    membership: Option<Arc<Membership>>,
}

/// Why a connection is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthenticationError {
    #[error(transparent)]
    Noise(#[from] noise::Error),
    #[error("the certificates could not be exchanged")]
    Io(#[from] io::Error),
    #[error("{peer} is not let in")]
    NotAMember {
        peer: PeerId,
        #[source]
        reason: NotAMember,
    },
}

impl Authenticated {
    /// As members of a swarm, or as anybody.
    pub(crate) fn new(noise: noise::Config, membership: Option<Arc<Membership>>) -> Self {
        Authenticated { noise, membership }
    }
}

impl UpgradeInfo for Authenticated {
    type Info = <noise::Config as UpgradeInfo>::Info;
    type InfoIter = <noise::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.noise.protocol_info()
    }
}

/// A connection that is encrypted, and the id that the other end has the key of.
type Secured<C> = (PeerId, noise::Output<C>);
type Upgrading<C> = Pin<Box<dyn Future<Output = Result<Secured<C>, AuthenticationError>> + Send>>;

impl<C> InboundConnectionUpgrade<C> for Authenticated
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<C>;
    type Error = AuthenticationError;
    type Future = Upgrading<C>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        let secured = self.noise.upgrade_inbound(socket, info);
        Box::pin(async move { admit(secured.await?, self.membership).await })
    }
}

impl<C> OutboundConnectionUpgrade<C> for Authenticated
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Secured<C>;
    type Error = AuthenticationError;
    type Future = Upgrading<C>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        let secured = self.noise.upgrade_outbound(socket, info);
        Box::pin(async move { admit(secured.await?, self.membership).await })
    }
}

/// Shows this node's certificate, and looks at the other one's. Both do so at once. How long that may take is bounded as connecting is.
async fn admit<C: AsyncRead + AsyncWrite + Unpin>(
    (peer, mut socket): Secured<C>,
    membership: Option<Arc<Membership>>,
) -> Result<Secured<C>, AuthenticationError> {
    let Some(membership) = membership else {
        return Ok((peer, socket));
    };
    let own = membership.own().to_bytes();
    // Bounded by CERTIFICATE_MAX.
    let length = u16::try_from(own.len()).unwrap_or(u16::MAX);
    socket.write_all(&length.to_be_bytes()).await?;
    socket.write_all(&own).await?;
    socket.flush().await?;
    let mut length = [0; 2];
    socket.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    let admitted = match length <= CERTIFICATE_MAX {
        true => {
            let mut shown = vec![0; length];
            socket.read_exact(&mut shown).await?;
            membership.admit(peer, &shown, SystemTime::now())
        }
        false => Err(NotAMember::None(InvalidCertificate::Form)),
    };
    match admitted {
        Ok(()) => Ok((peer, socket)),
        Err(reason) => {
            tracing::info!(%peer, reason = %peerfs_text::Causes(&reason), "a node is not let in");
            Err(AuthenticationError::NotAMember { peer, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use peerfs_names::SecretKey;

    use super::*;
    use crate::Identity;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn key() -> SecretKey {
        SecretKey::parse(&SecretKey::generate().unwrap()).unwrap()
    }

    fn certificate(peer: PeerId, seconds: u64, key: &SecretKey) -> Certificate {
        Certificate::issue(&peer.to_string(), 0, seconds, key).unwrap()
    }

    #[test]
    fn members_alone_are_let_in_and_until_they_are_none() {
        let [key, other] = [key(), key()];
        let [own, one, two, stranger] = [(); 4].map(|()| Identity::generate().peer_id());
        let membership = Membership::new(certificate(own, 100, &key));
        let admit = |peer: PeerId, shown: &Certificate, seconds| {
            let now = NOW + Duration::from_secs(seconds);
            membership.admit(peer, &shown.to_bytes(), now)
        };
        let of_one = certificate(one, 10, &key);
        admit(one, &of_one, 9).unwrap();
        admit(two, &certificate(two, 20, &key), 9).unwrap();
        let refused = admit(stranger, &of_one, 9);
        assert!(matches!(refused, Err(NotAMember::OfSomebodyElse(_))));
        let refused = admit(stranger, &certificate(stranger, 10, &other), 9);
        assert!(matches!(refused, Err(NotAMember::OfAnother(_))));
        let refused = membership.admit(stranger, &[], NOW);
        assert!(matches!(refused, Err(NotAMember::None(_))));
        assert!(matches!(admit(one, &of_one, 10), Err(NotAMember::Expired)));

        let ended = |seconds| membership.ended(NOW + Duration::from_secs(seconds));
        assert_eq!(ended(9), []);
        assert_eq!(ended(10), [one]);
        assert_eq!(ended(10), []);
        membership.revoke([two.to_string()].into());
        assert_eq!(ended(10), [two]);
        let refused = admit(two, &certificate(two, 200, &key), 10);
        assert!(matches!(refused, Err(NotAMember::Revoked)));
        membership.revoke(BTreeSet::new());
        admit(two, &certificate(two, 200, &key), 10).unwrap();
        membership.forget(&two);
        assert_eq!(ended(300), []);

        assert!(!membership.renew(certificate(own, 900, &other)));
        assert_eq!(membership.own(), certificate(own, 100, &key));
        assert!(membership.renew(certificate(own, 900, &key)));
        assert_eq!(membership.own(), certificate(own, 900, &key));
    }
}
