//! peerfsd: serves `/dev/peerfs` for a store and fetches what is missing.
