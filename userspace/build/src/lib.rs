//! Builds an image from a directory tree.
