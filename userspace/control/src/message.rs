// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What goes over the control socket.

use serde::{Deserialize, Serialize};

use crate::{
    Activity, Collected, Event, ImageStatus, MountStatus, NameStatus, Peers, PullStatus,
    ReplicasStatus, Status,
};

/// The longest line that either side accepts, in bytes, newline included.
pub const LINE_MAX: u64 = 16 * 1024 * 1024;
/// The longest request that the daemon accepts, in bytes, newline included.
pub const REQUEST_MAX: u64 = 4096;
/// The names of all commands.
pub const COMMANDS: [&str; 19] = [
    "status", "activity", "images", "mounts", "peers", "unban", "pull", "warm", "pin", "unpin",
    "gc", "events", "fetch", "publish", "name", "names", "follow", "rollback", "replicas",
];

/// What a client asks: `{"command":"status"}`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// How the daemon is doing.
    Status,
    /// What the daemon is busy with.
    Activity,
    /// The images of its store.
    Images,
    /// The mounts over its store.
    Mounts,
    /// The nodes that it is connected to, and those that it has banned.
    Peers,
    /// To lift the ban of a peer, or of all.
    Unban {
        /// The hash of its public key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// Of all.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// To bring all of an image into the store. Closing the connection ends that.
    Pull {
        /// A reference to the image.
        image: String,
        /// The tag that it is given when all of it is here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// Seconds that nothing may come before the daemon gives up; by default [`Request::PATIENCE`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<u32>,
        /// To bring only what mounting it needs.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lazy: bool,
        /// The reference to an image of a registry that it is used as, by which the policy decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        used_as: Option<String>,
        /// To make an image of an ordinary one that has no conversion beside it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        convert: bool,
        /// What machines it is to be for, as `linux/arm64`, if the registry has several; by default for such as the daemon's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<String>,
    },
    /// To bring what was missed of an image when it was started before. Closing the connection ends that.
    Warm {
        /// A reference to the image.
        image: String,
        /// What its mount was for; by default nothing in particular.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workload: Option<String>,
    },
    /// To keep an image complete, from now on.
    Pin {
        /// A reference to the image.
        image: String,
    },
    /// Not to keep it complete any more.
    Unpin {
        /// A reference to the image.
        image: String,
    },
    /// To give up what no image needs.
    Gc {
        /// Only to say what that would be.
        #[serde(default)]
        dry_run: bool,
    },
    /// To be told what happens, until the client goes away.
    Events,
    /// To have fetched what the lines that follow name, each a [`FetchLine`], until the client goes away.
    Fetch,
    /// To tell everybody a record of a name.
    Publish {
        /// The record, in Base64.
        record: String,
    },
    /// What is known of a name.
    Name {
        /// The name, `KEY/NAME` or an alias.
        name: String,
        /// To ask peers and the DHT first.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        search: bool,
    },
    /// What is known of all names.
    Names,
    /// To be told what a name stands for, now and when that changes, until the client goes away.
    Follow {
        /// The name, `KEY/NAME` or an alias.
        name: String,
    },
    /// To have a name stand for what it stood for earlier, until there is something newer than now. Either `sequence` or
    /// `time` says what.
    Rollback {
        /// The name, `KEY/NAME` or an alias.
        name: String,
        /// The sequence of an earlier record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sequence: Option<u64>,
        /// The generation of that record's list of writers; without it the last one with the sequence is meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
        /// The hexadecimal digest of that record's image: which of two is meant, where the name is forked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
        /// The hexadecimal digest of the manifest that somebody has refused: if the name stands for something else by now,
        /// that stays.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
        /// What it stood for then, in seconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<u64>,
    },
    /// What is kept for others, and what others keep.
    Replicas,
}

/// What a client says after [`Request::Fetch`]: `{"cancel":{"id":7}}`, for example. Each but a cancelled one is answered
/// once, in any order, by a [`Reply::Fetched`] with its id, unless it only tells something.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchLine {
    /// A metadata blob is wanted in the store.
    Blob {
        /// Names the request; no other one of the connection that is not answered has it.
        id: u64,
        /// The image that it belongs to, by its manifest's digest.
        image: String,
        /// Its digest.
        blob: String,
        /// Nobody waits for it yet.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        readahead: bool,
    },
    /// A run of a pack's chunks is wanted in the store.
    Chunks {
        /// Names the request; no other one of the connection that is not answered has it.
        id: u64,
        /// The image that it belongs to, by its manifest's digest.
        image: String,
        /// The pack's digest.
        pack: String,
        /// That of its index.
        index: String,
        /// The first chunk.
        first: u32,
        /// How many, 1 to 64.
        count: u32,
        /// What the store has of them was read and is wrong.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
        /// Nobody waits for it yet.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        readahead: bool,
    },
    /// Nobody wants any more what the request with this id names.
    Cancel {
        /// The request's id.
        id: u64,
    },
    /// Chunks of a pack were read from the store. It is not answered.
    Used {
        /// The pack's digest.
        pack: String,
        /// That of its index.
        index: String,
        /// Runs of them, [`FetchLine::USED_RUNS_MAX`] at most: the first one of each, and how many.
        runs: Vec<(u32, u32)>,
    },
}

impl FetchLine {
    /// The most runs of one [`FetchLine::Used`]: with more it would not be less than [`REQUEST_MAX`] bytes.
    pub const USED_RUNS_MAX: usize = 128;
}

impl Request {
    /// Seconds that nothing may come of an image that is pulled, unless the client says otherwise.
    pub const PATIENCE: u32 = 120;

    /// Whether another daemon may be asked the same when the first one has ended before it has answered, and nobody could
    /// tell.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Request::Status
            | Request::Activity
            | Request::Images
            | Request::Mounts
            | Request::Peers
            | Request::Pull { .. }
            | Request::Warm { .. }
            | Request::Publish { .. }
            | Request::Name { .. }
            | Request::Names
            | Request::Follow { .. }
            | Request::Rollback { .. }
            | Request::Replicas
            | Request::Pin { .. } => true,
            Request::Unban { .. }
            | Request::Unpin { .. }
            | Request::Gc { .. }
            | Request::Events
            | Request::Fetch => false,
        }
    }
}

/// What the daemon answers: `{"status":{...}}` or `{"error":"..."}`, for example.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The answer to [`Request::Status`].
    Status(Status),
    /// The answer to [`Request::Activity`].
    Activity(Activity),
    /// The answer to [`Request::Images`].
    Images(Vec<ImageStatus>),
    /// The answer to [`Request::Mounts`].
    Mounts(Vec<MountStatus>),
    /// The answer to [`Request::Peers`].
    Peers(Peers),
    /// The peers whose bans were lifted.
    Unbanned(Vec<String>),
    /// How a pull is doing. More lines follow.
    Progress(PullStatus),
    /// All of the image is in the store. The last line of a pull.
    Done(PullStatus),
    /// What was missed of the image before is in the store, as far as it could be had. The answer to [`Request::Warm`].
    Warmed {
        /// The digest of its manifest.
        image: String,
        /// The parts that its trace names, in how many runs.
        steps: u64,
        /// Those of them that did not come.
        left_out: u64,
    },
    /// The image is pinned: the digest of its manifest.
    Pinned(String),
    /// The image is not pinned any more: the digest of its manifest.
    Unpinned(String),
    /// What was given up, or would be.
    Collected(Collected),
    /// What is known of a name. To [`Request::Follow`] more lines follow.
    Name(NameStatus),
    /// What is known of all names.
    Names(Vec<NameStatus>),
    /// The answer to [`Request::Replicas`].
    Replicas(ReplicasStatus),
    /// Something happened. More lines follow.
    Event(Event),
    /// What a [`FetchLine`] names is in the store, or can't be had.
    Fetched {
        /// The request's id.
        id: u64,
        /// Why not, as the kernel is told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<i32>,
    },
    /// The request was not understood or could not be done: why. The last line of whatever it answers.
    Error(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_the_documented_one() {
        let pull = Request::Pull {
            image: "debian".into(),
            tag: None,
            timeout: Some(5),
            lazy: false,
            used_as: None,
            convert: false,
            platform: None,
        };
        for (request, line) in [
            (Request::Status, r#"{"command":"status"}"#),
            (
                Request::Unban {
                    peer: Some("12D3".into()),
                    all: false,
                },
                r#"{"command":"unban","peer":"12D3"}"#,
            ),
            (pull, r#"{"command":"pull","image":"debian","timeout":5}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        let fetch = FetchLine::Chunks {
            id: 7,
            image: "a".into(),
            pack: "b".into(),
            index: "c".into(),
            first: 3,
            count: 1,
            again: false,
            readahead: true,
        };
        let line = r#"{"chunks":{"id":7,"image":"a","pack":"b","index":"c","first":3,"count":1,"readahead":true}}"#;
        assert_eq!(serde_json::to_string(&fetch).unwrap(), line);
        assert_eq!(serde_json::from_str::<FetchLine>(line).unwrap(), fetch);
        let reply: Reply = serde_json::from_str(r#"{"error":"no"}"#).unwrap();
        assert_eq!(reply, Reply::Error("no".into()));
        for command in COMMANDS {
            let line = format!(r#"{{"command":"{command}","image":"x","name":"x","record":"x"}}"#);
            assert!(serde_json::from_str::<Request>(&line).is_ok(), "{command}");
        }
    }
}
