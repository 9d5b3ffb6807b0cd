// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The DHT: who is in it, and what is asked and answered.

use std::time::{Duration, Instant};

use libp2p::kad::store::RecordStore;
use libp2p::kad::{
    self, GetProvidersOk, GetRecordOk, InboundRequest, ProviderRecord, QueryId, QueryResult,
};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{identify, Multiaddr, PeerId};
use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use tokio::sync::mpsc;

use super::dialing::log_dial;
use super::{provider_key, Driver, LOOKUPS_MAX};
use crate::addresses;
use crate::behaviour::KADEMLIA_PROTOCOL;
use crate::client::EXCHANGE_PROTOCOL;
use crate::network::Network;
use crate::provider_records::ProviderRecords;

/// How long a record of a name is kept after it was put last; its holders put it again earlier.
const NAME_LIFETIME: Duration = Duration::from_secs(36 * 60 * 60);

impl Driver {
    /// Puts a record of a name where it is looked for.
    pub(super) fn put_name(&mut self, record: &SignedRecord) {
        let key = provider_key(&record.record().name.topic());
        let mut value = kad::Record::new(key, record.bytes().to_vec());
        value.expires = Some(Instant::now() + NAME_LIFETIME);
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        if let Err(error) = kademlia.put_record(value, kad::Quorum::One) {
            tracing::debug!(name = %record.record().name, %error, "its record is not put into the DHT");
        }
    }

    pub(super) fn find_name(&mut self, topic: &Digest, found: mpsc::Sender<SignedRecord>) {
        if self.name_lookups.len() < LOOKUPS_MAX {
            let key = provider_key(topic);
            let query = self.swarm.behaviour_mut().kademlia.get_record(key);
            self.name_lookups.insert(query, found);
        }
    }

    fn on_name(&mut self, query: QueryId, value: &kad::Record) {
        let Some(found) = self.name_lookups.get(&query) else {
            return;
        };
        let record = SignedRecord::parse(&value.value).ok();
        let is_asked =
            |record: &SignedRecord| provider_key(&record.record().name.topic()) == value.key;
        if let Some(record) = record.filter(is_asked) {
            // Full when there are more than the one who asks wants to know.
            let _ = found.try_send(record);
        }
    }

    /// The nodes of the routing table.
    pub(super) fn dht_nodes(&mut self) -> usize {
        let buckets = self.swarm.behaviour_mut().kademlia.kbuckets();
        buckets.map(|bucket| bucket.num_entries()).sum()
    }

    /// A peer said who it is: its addresses go to the DHT's routing table. Other programs use the
    /// same multicast DNS service name; those are left alone.
    pub(super) fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        if !info.protocols.contains(&EXCHANGE_PROTOCOL) {
            self.strangers.met(peer, &info);
            self.dialer.remove_peer(peer);
            // An error only says that it has gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let mut addresses = addresses::useful(info.listen_addrs.clone());
        self.peers.introduced(peer, addresses.clone());
        self.look_for_relay(peer, &info, &addresses);
        let here = self.peers.address(peer);
        self.keep_usable(&mut addresses, here.as_ref());
        if !info.protocols.contains(&KADEMLIA_PROTOCOL) {
            // It was a part of the DHT before others ceased to reach it.
            self.swarm.behaviour_mut().kademlia.remove_peer(&peer);
            return;
        }
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        for address in &addresses {
            kademlia.add_address(&peer, address.clone());
        }
        // Those that it said earlier are not its own any more, but for the one at which it was reached: a router may
        // forward that, and the peer not know of it.
        let reached = addresses::useful(here);
        keep_addresses(kademlia, peer, |address| {
            // There it may have the peer's id at its end.
            let mut plain = addresses::useful([address.clone()]).into_iter();
            plain.any(|plain| addresses.contains(&plain) || reached.contains(&plain))
        });
    }

    /// Leaves out what is not for the DHT of the addresses that a peer told which is connected at `here`.
    fn keep_usable(&self, addresses: &mut Vec<Multiaddr>, here: Option<&Multiaddr>) {
        match self.internet {
            None => addresses::keep_meaningful(addresses, here),
            // It would pass them on to others, who are anywhere.
            Some(_) => addresses::keep_outside(addresses),
        }
    }

    /// A peer announces that it has something.
    fn on_announced(&mut self, mut record: ProviderRecord) {
        let here = self.peers.address(record.provider);
        self.keep_usable(&mut record.addresses, here.as_ref());
        if record.addresses.is_empty() {
            return;
        }
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        if let Err(error) = kademlia.store_mut().add_provider(record) {
            tracing::debug!(%error, "a provider is not remembered");
        }
    }

    /// A peer wants a record of a name to be kept for others. The store looks at what it is.
    fn on_put(&mut self, peer: PeerId, record: kad::Record) {
        if !self.puts.allows(peer, Instant::now()) {
            return;
        }
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        if let Err(error) = kademlia.store_mut().put_of(peer, record) {
            tracing::debug!(%error, "a record of a name is not kept for others");
        }
    }

    /// The DHT takes the address at which a peer was reached for one that others reach, too.
    fn on_routing_updated(&mut self, peer: PeerId) {
        if self.internet.is_some() {
            let kademlia = &mut self.swarm.behaviour_mut().kademlia;
            keep_addresses(kademlia, peer, |address| {
                Network::outside(address).is_some()
            });
        }
    }

    pub(super) fn on_kademlia_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                stats,
            } => {
                if step.last {
                    self.dht_messages +=
                        u64::from(stats.num_requests()) + u64::from(stats.num_successes());
                }
                match result {
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders {
                        providers,
                        ..
                    })) => self.on_providers(id, providers),
                    QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => {
                        self.on_name(id, &found.record);
                    }
                    QueryResult::StartProviding(_) => self.republisher.finished(),
                    _ => {}
                }
                if step.last {
                    self.lookups.remove(&id);
                    self.name_lookups.remove(&id);
                }
            }
            kad::Event::InboundRequest { request } => {
                // Of announcements there is no answer.
                let is_alone = matches!(request, InboundRequest::AddProvider { .. });
                self.dht_messages += if is_alone { 1 } else { 2 };
                match request {
                    InboundRequest::AddProvider {
                        record: Some(record),
                    } => self.on_announced(record),
                    InboundRequest::PutRecord {
                        source,
                        record: Some(record),
                        ..
                    } => self.on_put(source, record),
                    _ => (),
                }
            }
            kad::Event::RoutingUpdated {
                peer, is_new_peer, ..
            } => {
                self.on_routing_updated(peer);
                if is_new_peer {
                    let nodes = self.dht_nodes();
                    self.republisher.met(nodes, Instant::now());
                }
            }
            _ => {}
        }
    }

    fn on_providers(&mut self, query: QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let own_id = *self.swarm.local_peer_id();
        for peer in providers {
            if peer == own_id {
                continue;
            }
            // Now, because the addresses are only known while the query lasts.
            if !self.swarm.is_connected(&peer) {
                if let Err(error) = self
                    .swarm
                    .dial(DialOpts::peer_id(peer).allocate_new_port().build())
                {
                    log_dial(&error);
                }
            }
            if let Some(found) = self.lookups.get(&query) {
                // Full when there are more than the one who asks wants to know.
                let _ = found.try_send(peer);
            }
        }
    }
}

/// Leaves those of a peer's addresses in the routing table that are to be kept. An address at which a peer was dialled
/// whose id was not known does not have it at its end, and can't be removed for itself.
fn keep_addresses(
    kademlia: &mut kad::Behaviour<ProviderRecords>,
    peer: PeerId,
    is_kept: impl Fn(&Multiaddr) -> bool,
) {
    let known = known_addresses(kademlia, peer);
    if known.iter().all(&is_kept) {
        return;
    }
    kademlia.remove_peer(&peer);
    for address in known.into_iter().filter(is_kept) {
        kademlia.add_address(&peer, address);
    }
}

/// The addresses of a peer in the routing table.
fn known_addresses(kademlia: &mut kad::Behaviour<ProviderRecords>, peer: PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kademlia.kbucket(peer) else {
        return Vec::new();
    };
    let entry = bucket
        .iter()
        .find(|entry| *entry.node.key.preimage() == peer);
    entry.map_or(Vec::new(), |entry| {
        entry.node.value.iter().cloned().collect()
    })
}
