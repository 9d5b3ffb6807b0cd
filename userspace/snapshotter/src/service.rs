// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What containerd asks, as gRPC has it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use peerfs_text::Causes;
use prost_types::Timestamp;
use tokio_stream::{iter, Iter};
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::messages::snapshots_server::Snapshots;
use crate::messages::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind as KindNumber, ListSnapshotsRequest,
    ListSnapshotsResponse, Mount as MountMessage, MountsRequest, MountsResponse,
    PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest,
    StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use crate::overlay::Mount;
use crate::record::{Kind, Record};
use crate::snapshotter::{Labels, Snapshotter};

/// The most snapshots in one message of a list.
const LIST_MAX: usize = 100;

/// A snapshotter as containerd reaches it.
pub struct Service(pub Arc<Snapshotter>);

type Answer<T> = Result<Response<T>, Status>;
type Pages = Iter<std::vec::IntoIter<Result<ListSnapshotsResponse, Status>>>;

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = Pin<Box<Pages>>;

    async fn prepare(
        &self,
        asked: Request<PrepareSnapshotRequest>,
    ) -> Answer<PrepareSnapshotResponse> {
        let asked = asked.into_inner();
        let (parent, labels) = (parent(&asked.parent), asked.labels.into_iter().collect());
        let made = self
            .0
            .prepare(Kind::Active, &asked.key, parent, labels)
            .await;
        let mounts = messages(made.map_err(status)?);
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(&self, asked: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let asked = asked.into_inner();
        let (parent, labels) = (parent(&asked.parent), asked.labels.into_iter().collect());
        let made = self.0.prepare(Kind::View, &asked.key, parent, labels).await;
        let mounts = messages(made.map_err(status)?);
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, asked: Request<MountsRequest>) -> Answer<MountsResponse> {
        let mounts = self.0.mounts(&asked.into_inner().key).await;
        let mounts = messages(mounts.map_err(status)?);
        Ok(Response::new(MountsResponse { mounts }))
    }

    async fn commit(&self, asked: Request<CommitSnapshotRequest>) -> Answer<()> {
        let asked = asked.into_inner();
        let labels = asked.labels.into_iter().collect();
        let done = self.0.commit(&asked.name, &asked.key, labels).await;
        done.map(Response::new).map_err(status)
    }

    async fn remove(&self, asked: Request<RemoveSnapshotRequest>) -> Answer<()> {
        let done = self.0.remove(&asked.into_inner().key).await;
        done.map(Response::new).map_err(status)
    }

    async fn stat(&self, asked: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let record = self.0.stat(&asked.into_inner().key).await.map_err(status)?;
        let info = Some(info(record));
        Ok(Response::new(StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        asked: Request<UpdateSnapshotRequest>,
    ) -> Answer<UpdateSnapshotResponse> {
        let asked = asked.into_inner();
        let wanted = asked.info.unwrap_or_default();
        let paths = asked.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let labels: Labels = wanted.labels.into_iter().collect();
        let record = self
            .0
            .update(&wanted.name, labels, paths)
            .await
            .map_err(status)?;
        let info = Some(info(record));
        Ok(Response::new(UpdateSnapshotResponse { info }))
    }

    async fn list(&self, asked: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let records = self
            .0
            .list(&asked.into_inner().filters)
            .await
            .map_err(status)?;
        let infos: Vec<Info> = records.into_iter().map(info).collect();
        let pages = infos.chunks(LIST_MAX).map(|page| {
            let info = page.to_vec();
            Ok(ListSnapshotsResponse { info })
        });
        let pages: Vec<_> = pages.collect();
        Ok(Response::new(Box::pin(iter(pages))))
    }

    async fn usage(&self, asked: Request<UsageRequest>) -> Answer<UsageResponse> {
        let usage = self
            .0
            .usage(&asked.into_inner().key)
            .await
            .map_err(status)?;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Response::new(UsageResponse {
            size: number(usage.size),
            inodes: number(usage.inodes),
        }))
    }

    async fn cleanup(&self, _asked: Request<CleanupRequest>) -> Answer<()> {
        self.0.cleanup().await.map(Response::new).map_err(status)
    }
}

/// gRPC has no optional texts here.
fn parent(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn messages(mounts: Vec<Mount>) -> Vec<MountMessage> {
    let mounts = mounts.into_iter().map(|mount| MountMessage {
        r#type: mount.kind.to_owned(),
        source: mount.source,
        target: String::new(),
        options: mount.options,
    });
    mounts.collect()
}

fn info(record: Record) -> Info {
    let kind = match record.kind {
        Kind::View => KindNumber::View,
        Kind::Active => KindNumber::Active,
        Kind::Committed => KindNumber::Committed,
    };
    Info {
        name: record.key,
        parent: record.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(timestamp(record.created)),
        updated_at: Some(timestamp(record.updated)),
        labels: record.labels.into_iter().collect::<HashMap<_, _>>(),
    }
}

fn timestamp(since_1970: Duration) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        // Below a billion.
        nanos: i32::try_from(since_1970.subsec_nanos()).unwrap_or_default(),
    }
}

/// An error in the words of gRPC; containerd goes by the code.
fn status(error: Error) -> Status {
    let text = Causes(&error).to_string();
    match error {
        Error::NotFound(_) => Status::not_found(text),
        Error::AlreadyExists(_) => Status::already_exists(text),
        Error::WrongKind { .. } | Error::HasChildren(_) => Status::failed_precondition(text),
        Error::Invalid(_) => Status::invalid_argument(text),
        Error::Image { .. } | Error::Ending => Status::unavailable(text),
        Error::InUse(_) | Error::Folder { .. } | Error::Mount { .. } => {
            tracing::error!(error = text, "a request of containerd has failed");
            Status::internal(text)
        }
    }
}
