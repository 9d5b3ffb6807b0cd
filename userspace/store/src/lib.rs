//! The store: `root_dir`, an OCI image layout plus the partial packs.
