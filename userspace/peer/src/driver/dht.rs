// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The DHT: who is in it, and what is asked and answered.

use std::time::{Duration, Instant};

use libp2p::kad::{self, GetProvidersOk, GetRecordOk, InboundRequest, QueryId, QueryResult};
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
        let mut addresses = addresses::useful(info.listen_addrs);
        self.peers.introduced(peer, addresses.clone());
        if !info.protocols.contains(&KADEMLIA_PROTOCOL) {
            return;
        }
        let here = self.peers.address(peer);
        addresses::keep_meaningful(&mut addresses, here.as_ref());
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        for address in &addresses {
            kademlia.add_address(&peer, address.clone());
        }
        // Those that it said earlier are not its own any more, but for the one at which it was reached: a router may
        // forward that, and the peer not know of it.
        let reached = addresses::useful(here);
        for address in known_addresses(kademlia, peer) {
            // There it has the peer's id at its end.
            let mut plain = addresses::useful([address.clone()]).into_iter();
            if !plain.any(|plain| addresses.contains(&plain) || reached.contains(&plain)) {
                kademlia.remove_address(&peer, &address);
            }
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
            }
            kad::Event::RoutingUpdated {
                is_new_peer: true, ..
            } => {
                let nodes = self.dht_nodes();
                self.republisher.met(nodes, Instant::now());
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
