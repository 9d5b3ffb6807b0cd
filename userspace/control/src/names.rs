// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a daemon knows of names.

use serde::{Deserialize, Serialize};

/// What is known of a name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct NameStatus {
    /// The name: `KEY/NAME`.
    pub name: String,
    /// The hexadecimal digest of the manifest that it stands for now; none if it stands for nothing.
    pub image: Option<String>,
    /// The sequence of the record that says so.
    pub sequence: Option<u64>,
    /// The generation of that record's list of writers; 0 without one.
    #[serde(default)]
    pub generation: Option<u64>,
    /// The key that has signed that record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Whether somebody has chosen that record in the place of a newer one.
    #[serde(default)]
    pub chosen: bool,
    /// Why it stands for nothing, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The records that are remembered, the newest one last.
    #[serde(default)]
    pub history: Vec<NameRecord>,
}

/// A record of a name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct NameRecord {
    /// Its sequence.
    pub sequence: u64,
    /// The generation of its list of writers; 0 without one.
    pub generation: u64,
    /// The hexadecimal digest of the image's manifest.
    pub image: String,
    /// The key that has signed it.
    pub signer: String,
    /// The keys that may sign records beside the publisher's.
    #[serde(default)]
    pub writers: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub issued: u64,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
    /// When it was accepted here, in seconds since 1970.
    pub accepted: u64,
    /// The hexadecimal digest of a trace that goes with the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// How many copies the publisher wishes for; 0 if it does not say.
    #[serde(default)]
    pub replicas: u8,
    /// The image of another record for the same place: the name is forked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<String>,
    /// The key that has signed that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival_signer: Option<String>,
    /// All of it in Base64, as it is signed (Documentation/names.md).
    pub record: String,
}
