// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A peer that says what a test has it say; the tests of peerfsd have it, too.

use std::time::Duration;

use futures::StreamExt;
use libp2p::{noise, tcp, yamux, StreamProtocol, Swarm, SwarmBuilder};
use peerfs_exchange::frame::HEADER_SIZE;

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/peerfs/exchange/2");

/// A peer that has the transport of a node and nothing else.
pub fn raw_peer() -> (Swarm<libp2p_stream::Behaviour>, libp2p_stream::Control) {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .with_swarm_config(|settings| {
            settings.with_idle_connection_timeout(Duration::from_secs(60))
        })
        .build();
    let control = swarm.behaviour().new_control();
    (swarm, control)
}

/// Has a peer go on with what it does.
pub fn drive(mut swarm: Swarm<libp2p_stream::Behaviour>) {
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
}

/// The bytes of a frame.
pub fn frame(kind: u8, request: u32, payload: &[u8]) -> Vec<u8> {
    let length = (HEADER_SIZE - 4 + payload.len()) as u32;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&[kind, 0, 0, 0]);
    frame.extend_from_slice(&request.to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}
