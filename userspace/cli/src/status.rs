// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs status`.

use peerfs_control::{PinOrigin, Reply, Request, Status};
use peerfs_store::printable;

use crate::arguments::StatusArguments;
use crate::conversation::ask;
use crate::error::{Error, Result};
use crate::output::{size, Output};

/// Shows how a daemon is doing.
pub(crate) fn run(arguments: &StatusArguments) -> Result<()> {
    let Reply::Status(status) = ask(&arguments.daemon.socket, &Request::Status)? else {
        return Err(Error::UnexpectedReply);
    };
    let mut output = Output::new();
    if arguments.json {
        output.json(&status)?;
    } else {
        print(&status, &mut output)?;
    }
    output.finish()
}

fn print(status: &Status, output: &mut Output) -> Result<()> {
    output.line(&format!("peerfsd {}", printable(&status.version)))?;
    output.line(&format!("node {}", printable(&status.node_id)))?;
    for address in &status.listen_addresses {
        output.line(&format!("  listens on {}", printable(address)))?;
    }
    if let Some(fingerprint) = &status.private_swarm {
        let fingerprint = printable(fingerprint);
        output.line(&format!(
            "  in the private swarm with the key {fingerprint}"
        ))?;
    }
    if let Some(swarm) = &status.member_of {
        output.line(&format!("  a member of the swarm {}", printable(swarm)))?;
    }
    if let Some(reachability) = status.reachability {
        output.line(&format!("  {reachability}"))?;
    }
    output.line(&format!(
        "requests in flight: {}",
        status.requests_in_flight
    ))?;
    output.line(&format!("peers: {}", status.peers.len()))?;
    for peer in &status.peers {
        let time = match peer.rtt_ms {
            Some(time) => format!("{time:.1} ms"),
            None => "not measured".to_owned(),
        };
        output.line(&format!(
            "  {} at {}, round trip {time}, {} received",
            printable(&peer.id),
            printable(&peer.address),
            size(peer.bytes_received)
        ))?;
    }
    output.line(&format!("images: {}", status.images.len()))?;
    for image in &status.images {
        let tags = image.tags.iter().map(|tag| format!(" {}", printable(tag)));
        output.line(&format!(
            "  {}{}: {} of {} here",
            printable(&image.manifest),
            tags.collect::<String>(),
            size(image.present_bytes),
            size(image.total_bytes)
        ))?;
    }
    for pin in &status.pins {
        let (image, state) = (printable(&pin.image), printable(&pin.state));
        let origin = match pin.origin {
            PinOrigin::Configuration => " of the configuration",
            PinOrigin::Command => "",
            PinOrigin::Replica => " for others",
        };
        output.line(&format!("pin{origin} {image}: {state}"))?;
    }
    for pull in &status.pulls {
        output.line(&format!(
            "pull {}: {} of {} here",
            printable(&pull.image),
            size(pull.present_bytes),
            pull.total_bytes
                .map_or("what is not known yet".to_owned(), size)
        ))?;
    }
    if status.lying_sources > 0 {
        output.line(&format!(
            "sources that sent wrong bytes and are not asked any more: {}",
            status.lying_sources
        ))?;
    }
    output.line("fetched since it started:")?;
    for (source, bytes) in &status.bytes_by_source {
        output.line(&format!("  {}: {}", printable(source), size(*bytes)))?;
    }
    Ok(())
}
