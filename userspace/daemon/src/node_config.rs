// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How the node is set up: what the configuration says of it, and the keys that this names.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use peerfs_names::Certificate;
use peerfs_peer::{Identity, Membership, NodeConfig, PeerId};
use peerfs_swarm::{read, read_credential, KeyFileError, SwarmKey};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::config::Config;
use crate::daemon::StartError;
use crate::state::{check_key, credential, StateDirectory};

/// What the node's key is called among the credentials of the service manager.
const NODE_KEY: &str = "peer.key";
/// What the key of its swarm is called there.
const SWARM_KEY: &str = "swarm.key";

/// The settings of the node, with its keys.
///
/// # Errors
/// If a key can't be used.
pub(crate) fn node_config(
    config: &Config,
    state: &StateDirectory,
) -> Result<NodeConfig, StartError> {
    let key = config.key_file();
    let old_key = config.root_dir.join("peer.key");
    if old_key.symlink_metadata().is_ok() {
        warn!(
            "{} is not used, since a store may be copied and served: to keep the node's id, move it to {}; \
             otherwise remove it",
            old_key.display(),
            key.display()
        );
    }
    let identity = match (&config.peer.key_file, credential(NODE_KEY)) {
        (None, Some(credential)) => {
            if key.exists() {
                warn!(
                    "the node's key is a credential of the service manager; remove {}, where a key lies as well",
                    key.display()
                );
            }
            Identity::load(&credential)?
        }
        (_, credential) => {
            if credential.is_some() {
                warn!("the node's key is peer.key_file, and not the credential {NODE_KEY} of the service manager");
            }
            check_key(&key)?;
            Identity::load_or_generate(&key)?
        }
    };
    let mut node = NodeConfig::new(identity);
    if let Some(listen) = &config.peer.listen {
        node.listen.clone_from(listen);
    }
    node.swarm_key = swarm_key(config)?;
    if let Some(path) = &config.peer.certificate {
        let certificate = certificate(path, node.identity.peer_id())?;
        let swarm = certificate.authority();
        info!(%swarm, "the nodes of the swarm are certified: others are not spoken with");
        node.membership = Some(Arc::new(Membership::new(certificate)));
    }
    node.mdns = config.peer.mdns;
    node.bootstrap.clone_from(&config.peer.bootstrap);
    node.internet = config.peer.internet();
    node.ban_list = Some(state.ban_list());
    node.upload_limit = config.peer.upload_bytes_per_second;
    node.connections_max = config.peer.connections_max.get();
    Ok(node)
}

/// The certificate in a file, if it is this node's.
fn certificate(path: &Path, id: PeerId) -> Result<Certificate, StartError> {
    let failed = |problem: String| StartError::Certificate {
        path: path.to_owned(),
        problem,
    };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let certificate = Certificate::from_text(&text).map_err(|error| failed(error.to_string()))?;
    if certificate.node() != id.to_string() {
        return Err(failed(format!(
            "it is for the node {}; `peerfs member issue {id}` makes one for this node",
            certificate.node()
        )));
    }
    // The clock may be wrong before the network is there, and then others decide.
    if certificate.expiry() <= SystemTime::now() {
        warn!("the node's certificate has expired: other members do not let it in; `peerfs member issue {id}` makes another one");
    }
    Ok(certificate)
}

/// Has a member show the certificate that its file has now: it is for a time, and the next one is put in its place.
///
/// # Errors
/// If it can't be used, or is of another swarm; nothing is changed then.
pub(crate) async fn renew(
    membership: &Membership,
    path: &Path,
    id: PeerId,
) -> Result<(), StartError> {
    let file = path.to_owned();
    // It fails if the runtime ends, and the process with it.
    let Ok(read) = spawn_blocking(move || certificate(&file, id)).await else {
        return Ok(());
    };
    match membership.renew(read?) {
        true => Ok(()),
        false => Err(StartError::Certificate {
            path: path.to_owned(),
            problem: "it is of another swarm, in which the node is after its next start".to_owned(),
        }),
    }
}

/// The key of the node's private swarm, if it is in one.
fn swarm_key(config: &Config) -> Result<Option<SwarmKey>, KeyFileError> {
    let key = match (&config.peer.swarm_key, credential(SWARM_KEY)) {
        (None, None) => return Ok(None),
        (None, Some(credential)) => read_credential(&credential)?,
        (Some(path), credential) => {
            if credential.is_some() {
                warn!("the swarm's key is peer.swarm_key, and not the credential {SWARM_KEY} of the service manager");
            }
            read(path)?
        }
    };
    let fingerprint = key.fingerprint();
    info!(%fingerprint, "the swarm is private: nodes without its key are not spoken with");
    Ok(Some(key))
}
