//! peerfs: the command.
