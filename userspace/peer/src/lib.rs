//! The peer node: finds other nodes, asks them for blobs and chunks, and serves its own.
