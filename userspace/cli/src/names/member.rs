// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs member`: who belongs to a swarm whose nodes are certified.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueHint};
use peerfs_format::Digest;
use peerfs_names::{is_node_id, Certificate, InvalidCertificate, REVOKED_MEMBERS};
use peerfs_store::{Error as StoreError, Image, Reference, Store, Tag};

use super::key::SigningKeyArguments;
use super::list::{make_arguments, make_list};
use super::publish::{Signer, SignerArguments, Terms};
use super::time_text::{parse_span, time_text};
use crate::build::Maker;
use crate::error::{Error, Result};
use crate::output::{tell, Output};

/// What a revoked member's link leads to: nothing.
const TARGET: &str = "revoked";

/// Say who belongs to a swarm.
///
/// The swarm belongs to a key of `peerfs key new`. Each of its nodes has a certificate by that key ([peer] certificate in the
/// configuration of peerfsd), and speaks with those that have one, too, and with nobody else.
#[derive(Args)]
pub(crate) struct MemberArguments {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Subcommand)]
enum MemberCommand {
    /// Make a node a member for some time.
    ///
    /// Prints a certificate, which is no secret: it is for a file on that node. Make another one before it expires.
    Issue(IssueArguments),
    /// Show whose a certificate is, and until when it holds.
    Show {
        /// Its file.
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Let nodes in no more, although their certificates have not expired.
    ///
    /// The list of all who were revoked is published as KEY/revoked-members, and followed by all members. Who is on it is cut off and let in
    /// nowhere. Publish it again before it expires for those who come later; members go on obeying the last one that they know. Prints the
    /// name.
    Revoke(RevokeArguments),
}

/// Whom to certify.
#[derive(Args)]
struct IssueArguments {
    #[command(flatten)]
    key: SigningKeyArguments,
    /// For how long it holds: a number with s, m, h, d or w behind it.
    #[arg(long, value_name = "SPAN", default_value = "90d", value_parser = parse_span)]
    expires: Duration,
    /// The node's id, as `peerfs status` prints it there.
    #[arg(value_name = "NODE")]
    node: String,
}

/// Whom to revoke.
#[derive(Args)]
struct RevokeArguments {
    #[command(flatten)]
    signer: SignerArguments,
    /// Take the nodes off the list.
    #[arg(long)]
    undo: bool,
    /// The nodes' ids; none, to publish the list again.
    #[arg(value_name = "NODE", value_parser = parse_node)]
    nodes: Vec<String>,
}

fn parse_node(text: &str) -> std::result::Result<String, String> {
    match is_node_id(text) {
        true => Ok(text.to_owned()),
        false => Err(InvalidCertificate::Node.to_string()),
    }
}

/// Does what is asked.
pub(crate) fn run(arguments: &MemberArguments) -> Result<()> {
    match &arguments.command {
        MemberCommand::Issue(arguments) => issue(arguments),
        MemberCommand::Show { file } => show(file),
        MemberCommand::Revoke(arguments) => revoke(arguments),
    }
}

fn issue(arguments: &IssueArguments) -> Result<()> {
    let key = arguments.key.load()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let expires = (now + arguments.expires).as_secs();
    let certificate = Certificate::issue(&arguments.node, now.as_secs(), expires, &key)
        .map_err(|error| Error::Key(error.to_string()))?;
    tell(&format!(
        "peerfs: {} is a member of {}, until {} UTC",
        certificate.node(),
        certificate.authority(),
        time_text(expires)
    ));
    let mut output = Output::new();
    output.bytes(certificate.to_text().as_bytes())?;
    output.finish()
}

fn show(file: &PathBuf) -> Result<()> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read {
        path: file.clone(),
        source,
    })?;
    let certificate =
        Certificate::from_text(&text).map_err(|error| Error::Key(error.to_string()))?;
    let expires = certificate.expiry().duration_since(UNIX_EPOCH);
    let mut output = Output::new();
    output.line(&format!("node     {}", certificate.node()))?;
    output.line(&format!("swarm    {}", certificate.authority()))?;
    let expires = time_text(expires.unwrap_or_default().as_secs());
    output.line(&format!("expires  {expires} UTC"))?;
    output.finish()
}

fn revoke(arguments: &RevokeArguments) -> Result<()> {
    let signer = Signer::new(&arguments.signer, REVOKED_MEMBERS)?;
    let tag: Tag = REVOKED_MEMBERS.parse()?;
    let make = make_arguments(&arguments.signer.store, tag.clone());
    let maker = Maker::new(&make)?;
    let here = match maker.store.resolve(&Reference::Tag(tag.clone())) {
        Err(StoreError::UnknownImage { .. }) => None,
        here => Some(here?),
    };
    // Or those on the newest one would be let in again.
    if let Some(known) = signer.published()?.filter(|known| Some(*known) != here) {
        return Err(Error::Key(format!(
            "the newest list is not called {REVOKED_MEMBERS} in this store: `peerfs pull {known} && peerfs tag {known} \
             {REVOKED_MEMBERS}` first"
        )));
    }
    let revoked = here.map(|here| entries(&maker.store, &here)).transpose()?;
    let mut revoked = revoked.unwrap_or_default();
    for node in &arguments.nodes {
        match arguments.undo {
            true => revoked.remove(node),
            false => revoked.insert(node.clone()),
        };
    }
    let links = revoked.iter().map(|node| (node.clone(), TARGET.to_owned()));
    let list = make_list(&maker, links, &tag)?;
    tell(&format!("{} nodes are revoked", revoked.len()));
    signer.publish(list, Terms::default())
}

/// Whom a list names.
fn entries(store: &Arc<Store>, list: &Digest) -> Result<BTreeSet<String>> {
    let image = Image::open(Arc::clone(store), list)?;
    let mut entries = BTreeSet::new();
    image.for_each_entry(&image.root()?, |entry| {
        entries.extend(String::from_utf8(entry.name));
        Ok::<_, StoreError>(())
    })?;
    Ok(entries)
}
