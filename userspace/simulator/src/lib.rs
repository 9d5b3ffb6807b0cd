// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Thousands of nodes in one process, which decide as nodes do: each has the fetch scheduler of `peerfs-exchange`.
//! Links, latencies, serving and the graph of neighbours are models of their own; `Documentation/development.md` says
//! what they leave out. With the same seed all happens in the same order.
//!
//! | module | noun |
//! |---|---|
//! | [`scenario`] | what is simulated, and what came of it |
//! | [`replicas`] | nodes that keep images, and go |
//! | `world` | the nodes, the time, and what is on its way |
//! | `node` | a node's scheduler and what it has |
//! | `link` | a node's line, up and down |
//! | `graph` | who is whose neighbour, and how far away |

#![forbid(unsafe_code)]

mod graph;
mod link;
mod node;
pub mod replicas;
pub mod scenario;
mod world;
