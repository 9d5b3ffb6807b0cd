// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a daemon is busy with, as OpenMetrics (<https://prometheus.io/docs/specs/om/open_metrics_spec>) has it.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_control::{Activity, ImageStatus, MountStatus, PeerClass, PeerDirection, PullState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The most images and mounts that have numbers of their own: each is a time series for whoever collects them.
const EACH_MAX: usize = 200;

/// All names that there may be, without the ends that counters have (`_total`) and what the kernel counts.
pub const NAMES: [&str; 37] = [
    "peerfs_build",
    "peerfs_start_time_seconds",
    "peerfs_requests_waiting",
    "peerfs_requests",
    "peerfs_chunk_requests",
    "peerfs_received_bytes",
    "peerfs_sent_bytes",
    "peerfs_http_sent_bytes",
    "peerfs_http_requests",
    "peerfs_wrong_bytes",
    "peerfs_peers",
    "peerfs_peers_banned",
    "peerfs_receive_rate_bytes",
    "peerfs_send_rate_bytes",
    "peerfs_dht_nodes",
    "peerfs_dht_messages",
    "peerfs_mdns_neighbours",
    "peerfs_bootstrap_peers",
    "peerfs_willing_nodes",
    "peerfs_replicas_kept",
    "peerfs_replica_bytes",
    "peerfs_replicas_missing",
    "peerfs_open_files",
    "peerfs_open_files_limit",
    "peerfs_pulls",
    "peerfs_images",
    "peerfs_image_bytes",
    "peerfs_image_present_bytes",
    "peerfs_mounts",
    "peerfs_mount_missing_bytes",
    "peerfs_store_readable",
    "peerfs_kernel_requests",
    "peerfs_kernel_failed",
    "peerfs_kernel_timed_out",
    "peerfs_kernel_waiting",
    "peerfs_kernel_attached",
    "peerfs_kernel_oldest_pending_milliseconds",
];

/// Of what the kernel counts, what does not only grow.
const KERNEL_GAUGES: [&str; 4] = [
    "attached",
    "waiting",
    "pending",
    "oldest_pending_milliseconds",
];

/// All that is known at a time.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) now: SystemTime,
    pub(crate) activity: Activity,
    /// None if the store can't be read.
    pub(crate) images: Option<Vec<ImageStatus>>,
    pub(crate) mounts: Option<Vec<MountStatus>>,
    pub(crate) kernel: Vec<(String, u64)>,
}

impl Snapshot {
    /// The text that Prometheus reads.
    pub(crate) fn into_text(self) -> Result<String, Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn network(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let activity = &self.activity;
        let mut peers: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for peer in &activity.peers {
            let class = match peer.class {
                PeerClass::Unknown => "unknown",
                PeerClass::Link => "link",
                PeerClass::Wide => "wide",
            };
            let direction = match peer.direction {
                PeerDirection::Inbound => "inbound",
                PeerDirection::Outbound => "outbound",
            };
            *peers.entry((class, direction)).or_default() += 1;
        }
        let peers: Vec<_> = peers
            .into_iter()
            .map(|((class, direction), count)| {
                (vec![("class", class), ("direction", direction)], count)
            })
            .collect();
        out.gauges(
            "peerfs_peers",
            "Connected peers, by how near they are and who made the connection",
            &peers,
        )?;
        let sum = |rate: fn(&peerfs_control::PeerStatus) -> u64| {
            activity.peers.iter().map(rate).sum::<u64>()
        };
        out.gauge(
            "peerfs_receive_rate_bytes",
            "Bytes a second from peers, over the last seconds",
            sum(|peer| peer.receive_rate),
        )?;
        out.gauge(
            "peerfs_send_rate_bytes",
            "Bytes a second to peers, over the last seconds",
            sum(|peer| peer.send_rate),
        )?;
        let network = &activity.network;
        out.gauge(
            "peerfs_peers_banned",
            "Peers that are banned, because their bytes were wrong",
            network.banned,
        )?;
        out.gauge(
            "peerfs_dht_nodes",
            "Nodes of the routing table of the DHT",
            network.dht_nodes,
        )?;
        out.counter(
            "peerfs_dht_messages",
            "Messages of the DHT, in both directions",
            network.dht_messages,
        )?;
        if let Some(neighbours) = network.neighbours {
            out.gauge(
                "peerfs_mdns_neighbours",
                "Peers that multicast DNS has found",
                neighbours,
            )?;
        }
        let missing = network
            .bootstrap
            .saturating_sub(network.bootstrap_connected);
        let bootstrap = [
            (vec![("state", "connected")], network.bootstrap_connected),
            (vec![("state", "missing")], missing),
        ];
        out.gauges(
            "peerfs_bootstrap_peers",
            "Bootstrap peers of the configuration",
            &bootstrap,
        )
    }

    fn requests(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let requests = &self.activity.requests;
        out.gauge(
            "peerfs_requests_waiting",
            "Requests of readers that are not answered yet",
            requests.waiting,
        )?;
        let answered = [
            (vec![("outcome", "filled")], requests.filled),
            (vec![("outcome", "failed")], requests.failed),
        ];
        out.counters(
            "peerfs_requests",
            "Requests of readers that were answered",
            &answered,
        )?;
        let chunks = [
            (vec![("found", "store")], requests.chunks_here),
            (
                vec![("found", "elsewhere")],
                requests.chunks.saturating_sub(requests.chunks_here),
            ),
        ];
        out.counters(
            "peerfs_chunk_requests",
            "Requests for chunks, by where all of them were",
            &chunks,
        )?;
        let by_source = &self.activity.bytes_by_source;
        let received: Vec<_> = by_source
            .iter()
            .map(|(name, bytes)| (vec![("source", name.as_str())], *bytes))
            .collect();
        out.counters(
            "peerfs_received_bytes",
            "Bytes fetched, by source",
            &received,
        )?;
        out.counter(
            "peerfs_sent_bytes",
            "Bytes sent to peers",
            self.activity.bytes_sent,
        )?;
        let http = &self.activity.served_by_http;
        out.counter(
            "peerfs_http_sent_bytes",
            "Bytes of blobs and packs that were given out by HTTP",
            http.bytes,
        )?;
        let answers = [
            (vec![("outcome", "answered")], http.answered),
            (vec![("outcome", "missing")], http.missing),
            (vec![("outcome", "refused")], http.refused),
        ];
        out.counters(
            "peerfs_http_requests",
            "Requests by HTTP for what the store has, by what came of them",
            &answers,
        )?;
        out.counter(
            "peerfs_wrong_bytes",
            "How often a source sent wrong bytes, which were dropped",
            self.activity.lying_sources,
        )
    }

    fn replicas(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let replicas = &self.activity.replicas;
        for (name, help, value) in [
            (
                "peerfs_willing_nodes",
                "Nodes that keep images for others, as far as is known",
                replicas.willing_nodes,
            ),
            (
                "peerfs_replicas_kept",
                "Images that are kept here for others",
                replicas.kept,
            ),
            (
                "peerfs_replica_bytes",
                "Bytes of them, and of those that are being brought",
                replicas.bytes,
            ),
            (
                "peerfs_replicas_missing",
                "Copies that are wanted of images that are looked after here, and not proven",
                replicas.missing,
            ),
        ] {
            out.gauge(name, help, value)?;
        }
        Ok(())
    }

    fn store(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let is_readable = self.images.is_some() && self.mounts.is_some();
        out.gauge(
            "peerfs_store_readable",
            "1 if the store could be read just now",
            is_readable.into(),
        )?;
        let mut pulls: BTreeMap<&str, u64> = BTreeMap::new();
        for pull in &self.activity.pulls {
            let state = match pull.state {
                PullState::Converting => "converting",
                PullState::Fetching => "fetching",
                PullState::Waiting => "waiting",
                PullState::Mountable | PullState::Complete => "complete",
                PullState::Retried => "retried",
                PullState::Failed => "failed",
            };
            *pulls.entry(state).or_default() += 1;
        }
        let pulls: Vec<_> = pulls
            .into_iter()
            .map(|(state, count)| (vec![("state", state)], count))
            .collect();
        out.gauges(
            "peerfs_pulls",
            "Images of which all is being brought here",
            &pulls,
        )?;
        if let Some(images) = &self.images {
            out.gauge("peerfs_images", "Images of the store", images.len() as u64)?;
            let each = |bytes: fn(&ImageStatus) -> u64| -> Vec<_> {
                let labels = |image| vec![("image", label(image)), ("digest", &image.manifest)];
                let images = images.iter().take(EACH_MAX);
                images.map(|image| (labels(image), bytes(image))).collect()
            };
            out.gauges(
                "peerfs_image_bytes",
                "Bytes of an image's packs",
                &each(|image| image.total_bytes),
            )?;
            out.gauges(
                "peerfs_image_present_bytes",
                "Bytes of them that are here",
                &each(|image| image.present_bytes),
            )?;
        }
        if let Some(mounts) = &self.mounts {
            out.gauge(
                "peerfs_mounts",
                "Mounts over the store",
                mounts.len() as u64,
            )?;
            let missing = mounts.iter().take(EACH_MAX).filter_map(|mount| {
                let labels = vec![
                    ("mountpoint", mount.mountpoint.as_str()),
                    ("digest", mount.manifest.as_str()),
                ];
                Some((labels, mount.missing_bytes?))
            });
            // One may be mounted there twice, and no series may be.
            let missing: BTreeMap<_, _> = missing.collect();
            let missing: Vec<_> = missing.into_iter().collect();
            out.gauges(
                "peerfs_mount_missing_bytes",
                "Bytes of the mounted image that are not here",
                &missing,
            )?;
        }
        Ok(())
    }
}

/// What an image is called, for people.
fn label(image: &ImageStatus) -> &str {
    match image.tags.first() {
        Some(tag) => tag,
        None => &image.manifest,
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Families(encoder);
        let activity = &self.activity;
        let build = [(
            vec![
                ("version", activity.version.as_str()),
                ("node", activity.node_id.as_str()),
            ],
            1,
        )];
        out.gauges(
            "peerfs_build",
            "The daemon's version and the node's id",
            &build,
        )?;
        let started =
            self.now - Duration::from_millis(activity.uptime_ms).min(since_1970(self.now));
        out.gauge(
            "peerfs_start_time_seconds",
            "When the daemon started, since 1970",
            since_1970(started).as_secs(),
        )?;
        out.gauge(
            "peerfs_open_files",
            "Files that the daemon has open",
            activity.open_files,
        )?;
        out.gauge(
            "peerfs_open_files_limit",
            "How many it may have open",
            activity.open_files_max,
        )?;
        self.requests(&mut out)?;
        self.network(&mut out)?;
        self.replicas(&mut out)?;
        self.store(&mut out)?;
        for (name, value) in &self.kernel {
            let help = "What the kernel's filesystem counts under this name";
            let full = format!("peerfs_kernel_{name}");
            if KERNEL_GAUGES.contains(&name.as_str()) {
                out.gauge(&full, help, *value)?;
            } else {
                out.counter(&full, help, *value)?;
            }
        }
        Ok(())
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Labels and a value.
type Series<'a> = (Vec<(&'static str, &'a str)>, u64);

/// Writes families of numbers.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.gauges(name, help, &[(Vec::new(), value)])
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.counters(name, help, &[(Vec::new(), value)])
    }

    fn gauges(&mut self, name: &str, help: &str, series: &[Series<'_>]) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, series, |value| {
            ConstGauge::new(value)
        })
    }

    fn counters(&mut self, name: &str, help: &str, series: &[Series<'_>]) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, series, |value| {
            ConstCounter::new(value)
        })
    }

    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        series: &[Series<'_>],
        metric: impl Fn(u64) -> M,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        if let [(labels, value)] = series {
            if labels.is_empty() {
                return metric(*value).encode(family);
            }
        }
        for (labels, value) in series {
            metric(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use peerfs_control::{NetworkStatus, PeerStatus, PullStatus, RequestStatus};

    use super::*;

    fn snapshot() -> Snapshot {
        let kernel = [
            "requests",
            "failed",
            "timed_out",
            "waiting",
            "attached",
            "oldest_pending_milliseconds",
        ];
        Snapshot {
            now: UNIX_EPOCH + Duration::from_secs(1000),
            activity: Activity {
                version: "0.1.0".to_owned(),
                uptime_ms: 60_000,
                requests: RequestStatus {
                    chunks: 10,
                    chunks_here: 7,
                    ..RequestStatus::default()
                },
                bytes_by_source: [("a\"b\nc\\".to_owned(), 5)].into(),
                peers: vec![PeerStatus::default(), PeerStatus::default()],
                pulls: vec![PullStatus::default()],
                network: NetworkStatus {
                    neighbours: Some(1),
                    ..NetworkStatus::default()
                },
                ..Activity::default()
            },
            images: Some(vec![ImageStatus::default(); EACH_MAX + 5]),
            mounts: Some(vec![
                MountStatus {
                    missing_bytes: Some(9),
                    ..MountStatus::default()
                };
                2
            ]),
            kernel: kernel.map(|name| (name.to_owned(), 3)).into(),
        }
    }

    #[test]
    fn the_text_says_what_is_known() {
        let text = snapshot().into_text().unwrap();
        for line in [
            "peerfs_start_time_seconds 940",
            "peerfs_chunk_requests_total{found=\"store\"} 7",
            "peerfs_chunk_requests_total{found=\"elsewhere\"} 3",
            "peerfs_received_bytes_total{source=\"a\\\"b\\nc\\\\\"} 5",
            "peerfs_peers{class=\"unknown\",direction=\"inbound\"} 2",
            "peerfs_images 205",
            "peerfs_mount_missing_bytes{mountpoint=\"\",digest=\"\"} 9",
            "peerfs_kernel_requests_total 3",
            "peerfs_kernel_waiting 3",
        ] {
            assert!(
                text.lines().any(|one| one == line),
                "{line} is not in\n{text}"
            );
        }
        let images = text
            .lines()
            .filter(|line| line.starts_with("peerfs_image_bytes{"));
        assert_eq!(images.count(), EACH_MAX);
        // Two mounts at one place are one series.
        assert_eq!(text.matches("peerfs_mount_missing_bytes{").count(), 1);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn all_names_are_listed() {
        let text = snapshot().into_text().unwrap();
        let described = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let described: BTreeSet<&str> = described.collect();
        assert_eq!(described, NAMES.into_iter().collect());
    }

    #[test]
    fn a_store_that_cannot_be_read_is_told() {
        let mut snapshot = snapshot();
        snapshot.images = None;
        let text = snapshot.into_text().unwrap();
        assert!(text.contains("peerfs_store_readable 0\n") && !text.contains("peerfs_images "));
    }
}
