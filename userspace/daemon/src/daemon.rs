// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Puts the parts together, runs them, and ends them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_exchange::scheduler::Limits;
use peerfs_fetch::source::{
    peer_identity, Configured, DirectorySource, Discovery, Origins, Peers, Registry, RemoteSource,
    Source, PEERS,
};
use peerfs_fetch::{Disk, Fetcher, Packs, PinOrigin, Pins, Pulls, Repository, Traffic};
use peerfs_format::Digest;
use peerfs_http::{Address, Listener};
use peerfs_monitor::serve;
use peerfs_peer::{Membership, Node, NodeConfig};
use peerfs_registry::{Remote, UrlError};
use peerfs_serve::Counts;
use peerfs_store::{Reference, Store};
use peerfs_swarm::KeyFileError;
use peerfs_text::Causes;
use tokio::sync::{watch, Mutex};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::announcer::Announcer;
use crate::attachment;
use crate::cache::Cache;
use crate::commands::Commands;
use crate::config::{Config, ConfigError, DeviceChoice, SourceConfig};
use crate::control::ControlSocket;
use crate::events::Events;
use crate::lazy_pulls::LazyPulls;
use crate::mirror::{MirrorError, Prepared};
use crate::names::{Names, NamesError};
use crate::node_config::{node_config, renew};
use crate::provider::{HttpProvider, StoreProvider};
use crate::reload::{Changes, Settings};
use crate::replicas::{Parts as ReplicaParts, Replicas, SavedError};
use crate::requests::{RepositoryHandler, RequestCounts};
use crate::revocations::Revocations;
use crate::saved_pins::SavedPins;
use crate::state::{StateDirectory, StateError};
use crate::status::StatusReader;
use crate::traces::Traces;
use crate::upcall::RequestHandler;
use crate::uses::{Told, Uses};

/// How long the parts may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store can't be used.
    #[error("cannot use the store")]
    Store(#[from] peerfs_store::Error),
    /// It was told to end before it had started.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The node can't be started.
    #[error("cannot start the peer node")]
    Node(#[from] peerfs_peer::Error),
    /// A source's URL is none.
    #[error("cannot fetch from a source of the configuration: its URL {0}")]
    Source(#[from] UrlError),
    /// A registry of the configuration can't be asked.
    #[error(transparent)]
    Registry(#[from] peerfs_registry::Error),
    /// What is this node's own can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key of its private swarm can't be used.
    #[error(transparent)]
    SwarmKey(#[from] KeyFileError),
    /// The certificate of its swarm can't be used.
    #[error("the certificate {} of this node cannot be used: {problem}", path.display())]
    Certificate {
        /// Its file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The swarm has no list of revoked members.
    #[error("cannot follow the list of revoked members: {0}")]
    Revocations(String),
    /// What is known of names can't be read.
    #[error("cannot use what is known of names")]
    Names(#[from] NamesError),
    /// What is remembered of replicas can't be used.
    #[error("cannot tell which images are kept for others")]
    Replicas(#[from] SavedError),
    /// The control socket can't be made.
    #[error(
        "cannot listen at {}; name another place with --control-socket or control_socket",
        path.display()
    )]
    ControlSocket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The page and the metrics, or the store, can't be served.
    #[error("cannot listen at {address}; name another place with {key}")]
    Listen {
        /// Where.
        address: Address,
        /// The key of the configuration.
        key: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What the configuration says can't be with what else this node has.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There can be no mirror.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The control socket that was passed is none.
    #[error(
        "what was passed to this process is no Unix stream socket that listens; see ListenStream= in peerfsd.socket"
    )]
    PassedSocket(#[source] io::Error),
}

/// What is seen of a daemon at a glance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pulse {
    /// Peers that are connected.
    pub peers: usize,
    /// Requests of the kernel that are not answered yet.
    pub waiting: usize,
    /// Images of which all is being brought here.
    pub pulls: usize,
}

/// A running daemon.
pub struct Daemon {
    node: Node,
    membership: Option<Arc<Membership>>,
    disk: Disk,
    traffic: Arc<Traffic>,
    handler: Arc<dyn RequestHandler>,
    requests: Arc<RequestCounts>,
    pulls: Pulls,
    pins: Pins,
    config: Config,
    settings: watch::Sender<Settings>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
    _state: StateDirectory,
}

impl Daemon {
    /// Starts a daemon, which makes its control socket, unless one was passed to it. Must be called within a tokio
    /// runtime. Its future may be dropped: it waits no longer then for a disk that does not answer.
    ///
    /// # Errors
    /// If the store is damaged or in use, if no address can be listened on, if the control socket
    /// can't be made.
    pub async fn start(config: &Config, passed: Option<OwnedFd>) -> Result<Daemon, StartError> {
        let own = config.clone();
        let opened = tokio::task::spawn_blocking(move || open_all(&own)).await;
        let opened = opened.map_err(|_| StartError::ShuttingDown)??;
        let (store, names, replicas) = (Arc::new(opened.store), opened.names, opened.replicas);
        let disk = Disk::new(Arc::clone(&store), config.limits.store_operations.get());
        let control = control_socket(&config.control_socket, passed)?;
        let monitor = listen(&config.monitor.listen, "monitor.listen").await?;
        let mirror = Prepared::new(config).await?;
        let (settings, changing) = watch::channel(Settings::of(config));
        let packs = Arc::new(Packs::default());
        let cached_packs = Arc::clone(&packs);
        let provider = Arc::new(StoreProvider::new(disk.clone(), Arc::clone(&packs)));
        let served = match &mirror {
            Some(mirror) => mirror.served(provider.clone()),
            None => provider.clone(),
        };
        let swarm_key = opened.node.swarm_key.as_ref();
        let private_swarm = swarm_key.map(|key| key.fingerprint().to_string());
        let membership = opened.node.membership.clone();
        // The key may be a credential, of which the configuration says nothing.
        config
            .serve
            .check(swarm_key.is_some() || membership.is_some())?;
        let http = listen(&config.serve.listen, "serve.listen").await?;
        let member_of = membership.as_ref().map(|own| own.swarm().to_string());
        let revocations = opened.revocations;
        let node = Node::start(opened.node, served).await?;
        provider.tell(Arc::clone(node.arrivals()));
        node.carry_names(Arc::new(names.clone()));
        node.carry_willing(Arc::new(replicas.clone()));
        let uses = Arc::new(Uses::new(Instant::now()));
        store.watch(Arc::new(Told {
            arrivals: Arc::clone(node.arrivals()),
            uses: Arc::clone(&uses),
        }));
        let registry = Arc::new(Registry::default());
        let (configured, directories) = sources(config)?;
        let accounts = configured.iter().map(|source| source.account());
        let accounts = accounts.chain([PEERS]).map(str::to_owned);
        let traffic = Arc::new(Traffic::new(accounts));
        let origins = Origins::new(
            disk.clone(),
            Arc::clone(&registry),
            config.registry.options(),
            config.names.policy.clone(),
        );
        let peers = Peers::new(node.clone(), Arc::clone(&registry), disk.clone());
        let discoveries: Vec<Arc<dyn Discovery>> = vec![
            Arc::new(Configured::new(&registry, configured)),
            Arc::new(peers),
            Arc::new(origins.clone()),
        ];
        let fetcher = Fetcher::new(
            scheduler_limits(config),
            peer_identity(&node.peer_id()),
            registry,
            discoveries,
            disk.clone(),
            Arc::clone(&traffic),
        );
        let events = Events::new();
        let announcer = Announcer::new(node.clone(), events.clone());
        let repository = Arc::new(Repository::new(
            disk.clone(),
            Arc::clone(&packs),
            fetcher.clone(),
            Arc::new(announcer.clone()),
        ));
        provider.fetch_by(&repository);
        let pulls = Pulls::new(Arc::clone(&repository), Arc::clone(&traffic));
        let lazy_pulls = LazyPulls::new(changing.clone(), disk.clone(), pulls.clone());
        let requests = Arc::new(RequestCounts::default());
        let shutdown = CancellationToken::new();
        let traces = Traces::new(Arc::clone(&repository), names.clone(), shutdown.clone());
        let handler: Arc<dyn RequestHandler> = Arc::new(RepositoryHandler::new(
            Arc::clone(&repository),
            changing.clone(),
            Arc::clone(&requests),
            lazy_pulls.clone(),
            traces.clone(),
        ));
        let pins = Pins::new(disk.clone(), pulls.clone());
        let served_by_http = Arc::new(Counts::default());
        let status = StatusReader {
            served_by_http: Arc::clone(&served_by_http),
            disk: disk.clone(),
            packs: Arc::clone(&packs),
            node: node.clone(),
            private_swarm,
            member_of,
            traffic: Arc::clone(&traffic),
            pins: pins.clone(),
            pulls: pulls.clone(),
            requests: Arc::clone(&requests),
            replicas: replicas.clone(),
            started: Instant::now(),
        };
        let commands = Commands {
            status: status.clone(),
            repository: Arc::clone(&repository),
            origins,
            pulls: pulls.clone(),
            pins: pins.clone(),
            saved_pins: Arc::new(Mutex::new(opened.saved_pins)),
            events: events.clone(),
            handler: Arc::clone(&handler),
            uses: Arc::clone(&uses),
            traces: traces.clone(),
            names: names.clone(),
        };

        let replica_parts = ReplicaParts {
            node: node.clone(),
            names: names.clone(),
            repository,
            pins: pins.clone(),
            pulls: pulls.clone(),
        };

        let mut tasks = JoinSet::new();
        tasks.spawn({
            let shutdown = shutdown.clone();
            async move { fetcher.run(shutdown).await }
        });
        tasks.spawn({
            let (disk, shutdown) = (disk.clone(), shutdown.clone());
            async move { announcer.run(disk, packs, shutdown).await }
        });
        tasks.spawn(lazy_pulls.run(shutdown.clone()));
        tasks.spawn(traces.run());
        tasks.spawn(names.clone().keep_time(shutdown.clone()));
        if let Some(revocations) = revocations {
            let (names, node) = (names.clone(), node.clone());
            let (pulls, disk, shutdown) = (pulls.clone(), disk.clone(), shutdown.clone());
            tasks.spawn(revocations.follow(names, node, pulls, disk, shutdown));
        }
        tasks.spawn(names.clone().republish(node.clone(), shutdown.clone()));
        if disk.can_be_filled() {
            let (disk, shutdown) = (disk.clone(), shutdown.clone());
            let rebuild = move |store: &Store| {
                store.rebuild_catalogue(|| shutdown.is_cancelled());
                Ok(())
            };
            tasks.spawn(async move {
                // It fails if the daemon is shutting down.
                let _ = disk.run(rebuild).await;
            });
        }
        if disk.can_be_filled() {
            let cache = Cache {
                settings: changing,
                disk: disk.clone(),
                packs: Arc::clone(&cached_packs),
                pins: pins.clone(),
                pulls: pulls.clone(),
                uses: Arc::clone(&uses),
                names: names.clone(),
            };
            tasks.spawn(cache.bound(shutdown.clone()));
        }
        let watching = events.watch(
            node.clone(),
            pulls.clone(),
            Arc::clone(&requests),
            shutdown.clone(),
        );
        tasks.spawn(watching);
        pins.configure(config.pin.iter().map(|pin| pin.image.clone()));
        for manifest in opened.pinned {
            pins.add(Reference::Digest(manifest), PinOrigin::Command);
        }
        replicas.pin_kept(&pins);
        tasks.spawn(replicas.run(replica_parts, shutdown.clone()));
        tasks.spawn(control.serve(commands, shutdown.clone()));
        if let Some(mirror) = mirror {
            tasks.spawn(mirror.work(node.clone(), shutdown.clone())?);
        }
        if let Some(listener) = http {
            info!(address = %listener.address(), "the store over HTTP");
            let served = Arc::new(HttpProvider::new(provider));
            let shutdown = shutdown.clone();
            tasks.spawn(peerfs_serve::serve(
                listener,
                served,
                served_by_http,
                shutdown,
            ));
        }
        if let Some(listener) = monitor {
            info!(address = %listener.address(), "the page and the metrics");
            tasks.spawn(serve(listener, Arc::new(status), shutdown.clone()));
        }
        for directory in directories {
            tasks.spawn(async move { directory.look().await });
        }
        let mut daemon = Daemon {
            membership,
            node,
            disk,
            traffic,
            handler,
            requests,
            pulls,
            pins,
            config: config.clone(),
            settings,
            tasks,
            shutdown,
            _state: opened.state,
        };
        daemon.attach(config, uses);
        info!(
            node = %daemon.node.peer_id(),
            store = %config.root_dir.display(),
            listen = ?daemon.node.listen_addresses(),
            "started"
        );
        Ok(daemon)
    }

    /// The peer node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The store.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What was fetched.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What answers the kernel's requests, for a kernel that is reached otherwise than by the
    /// configured device.
    pub fn handler(&self) -> Arc<dyn RequestHandler> {
        Arc::clone(&self.handler)
    }

    /// How it is doing, if its peer node answers.
    pub async fn pulse(&self) -> Option<Pulse> {
        self.node.network().await?;
        Some(Pulse {
            peers: self.node.peers().len(),
            waiting: self.requests.in_flight(),
            pulls: self.pulls.progress().len(),
        })
    }

    /// Goes on with another configuration, as far as that is possible without a new start. What is logged is for the
    /// caller to change. Must be called within a tokio runtime.
    pub fn reload(&mut self, new: &Config) -> Changes {
        let changes = Changes::take_over(&mut self.config, new);
        self.settings.send_replace(Settings::of(&self.config));
        self.pins
            .configure(self.config.pin.iter().map(|pin| pin.image.clone()));
        changes
    }

    /// Reads the node's certificate again, if it has one.
    ///
    /// # Errors
    /// If it can't be used; the node goes on with the one that it had.
    pub async fn renew_certificate(&self) -> Result<(), StartError> {
        if let (Some(member), Some(path)) = (&self.membership, &self.config.peer.certificate) {
            renew(member, path, self.node.peer_id()).await?;
        }
        Ok(())
    }

    /// Ends the daemon within a few seconds. The kernel gives requests that are not answered to
    /// the next daemon.
    pub async fn shut_down(mut self) {
        self.shutdown.cancel();
        let end = async {
            while self.tasks.join_next().await.is_some() {}
            self.node.shutdown().await;
            self.disk.settle().await;
        };
        if timeout(SHUTDOWN_TIMEOUT, end).await.is_err() {
            warn!("not everything ended in time");
        }
        info!("ended");
    }

    fn attach(&mut self, config: &Config, uses: Arc<Uses>) {
        let DeviceChoice::Path(device) = config.device.clone() else {
            return;
        };
        let (root_dir, limit) = (config.root_dir.clone(), config.limits.requests.get());
        let (handler, shutdown) = (self.handler(), self.shutdown.clone());
        self.tasks.spawn(async move {
            attachment::attach(&device, &root_dir, handler, &uses, limit, shutdown).await;
        });
    }
}

/// What is on a disk, open.
struct Opened {
    store: Store,
    state: StateDirectory,
    node: NodeConfig,
    names: Names,
    /// Of a swarm whose nodes are certified.
    revocations: Option<Revocations>,
    replicas: Replicas,
    /// The pins of clients, or why they are not known.
    saved_pins: Result<SavedPins, String>,
    /// Their manifests.
    pinned: Vec<Digest>,
}

/// Opens what is on a disk, which blocks as long as that does.
fn open_all(config: &Config) -> Result<Opened, StartError> {
    let store = open_store(&config.root_dir)?;
    let state = StateDirectory::take(&config.state_dir())?;
    let node = node_config(config, &state)?;
    // No reason not to serve the kernel and peers: clients who want to change the pins are told.
    let saved_pins = SavedPins::load(&state.pins()).map_err(|error| {
        let problem = Causes(&error).to_string();
        warn!(problem, "images that were pinned are not");
        problem
    });
    let names = Names::load(&state.names(), &config.names, &config.registry.options())?;
    let revocations = node.membership.clone().map(Revocations::new);
    let revocations = revocations.transpose()?;
    if let Some(revocations) = &revocations {
        // Before anybody can come in.
        revocations.apply_known(&names, &store);
    }
    let replicas = Replicas::load(&state.replicas(), &config.replicate, node.identity.clone())?;
    let pinned = saved_pins.iter().flat_map(SavedPins::pins);
    Ok(Opened {
        pinned: pinned.copied().collect(),
        store,
        state,
        node,
        names,
        revocations,
        replicas,
        saved_pins,
    })
}

/// Listens at an address of the configuration, if there is one.
async fn listen(
    address: &Option<Address>,
    key: &'static str,
) -> Result<Option<Listener>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = Listener::bind(address).await;
    listener.map(Some).map_err(|source| StartError::Listen {
        address: address.clone(),
        key,
        source,
    })
}

/// Listens for clients: at the socket that was passed, or else at one of its own.
fn control_socket(path: &Path, passed: Option<OwnedFd>) -> Result<ControlSocket, StartError> {
    let Some(passed) = passed else {
        return ControlSocket::listen(path).map_err(|source| StartError::ControlSocket {
            path: path.to_owned(),
            source,
        });
    };
    let control = ControlSocket::passed(passed).map_err(StartError::PassedSocket)?;
    let passed = control.path().unwrap_or_default();
    if passed != path {
        warn!(
            "clients are answered at {}, which was passed to this process, and not at control_socket = {}: change \
             ListenStream= in peerfsd.socket, or disable that",
            passed.display(),
            path.display()
        );
    }
    Ok(control)
}

/// Opens the store to fill it; one on a read-only mount, to serve what is there.
fn open_store(root_dir: &Path) -> peerfs_store::Result<Store> {
    let to_fill = Store::create(root_dir).and_then(|store| {
        store.lock_for_filling()?;
        Ok(store)
    });
    match to_fill {
        Err(error) if error.is_read_only() => {
            warn!(store = %root_dir.display(), "is read only: what is there is served, and nothing is fetched");
            Store::open(root_dir)
        }
        opened => opened,
    }
}

fn scheduler_limits(config: &Config) -> Limits {
    Limits {
        orders: config.limits.requests.get(),
        transfers: config.limits.transfers.get(),
        transfers_per_source: config.limits.transfers_per_source.get(),
        ..Limits::default()
    }
}

/// Directories that are sources.
type Directories = Vec<Arc<DirectorySource>>;

/// The configured sources, and those of them that are directories.
fn sources(config: &Config) -> Result<(Vec<Arc<dyn Source>>, Directories), StartError> {
    let (mut all, mut directories) = (Vec::new(), Vec::new());
    for source in &config.source {
        match source {
            SourceConfig::Directory(path) => {
                let directory = Arc::new(DirectorySource::new(path));
                directories.push(Arc::clone(&directory));
                all.push(directory as Arc<dyn Source>);
            }
            SourceConfig::Url(url) => {
                all.push(Arc::new(RemoteSource::new(Remote::directory(url)?)));
            }
            SourceConfig::Oci(repository) => {
                let remote = Remote::repository(repository, &config.registry.options())?;
                all.push(Arc::new(RemoteSource::new(remote)));
            }
        }
    }
    Ok((all, directories))
}
