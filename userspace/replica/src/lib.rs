// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which willing nodes keep which images of publishers, and what each node does about it. Parsing and decisions alone:
//! nothing here reads a file, asks anybody or looks at a clock.
//!
//! | module | noun |
//! |---|---|
//! | [`willing`] | a node's signed word that it keeps images for others |
//! | [`account`] | a publisher's list of the images that are to be kept |
//! | [`roster`] | what is known of both, and who is to keep what |
//! | [`keeper`] | what one node checks, pulls and gives up |

#![forbid(unsafe_code)]

pub mod account;
pub mod keeper;
pub mod roster;
pub mod willing;
