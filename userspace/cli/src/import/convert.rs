// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs convert`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use peerfs_build::Compression;
use peerfs_oci::{media_type_of, BlobInfo, Platform, DOCUMENT_TYPES};
use peerfs_registry::{Remote, RemoteImage};
use peerfs_store::{Reference, RegistryReference, Tag};

use super::source::{parse_size, Format, Source};
use super::ImportArguments;
use crate::arguments::{
    parse_threads, MakeArguments, Profile, PushArguments, RegistryArguments, StoreArguments,
};
use crate::error::{Error, Result};
use crate::{import, push};

/// What an image is called in a store of its own that goes beside another one.
const CONVERSION: &str = "conversion";

/// Put an image for containers into a registry in the form of peerfs.
///
/// Without a destination it is put beside the image, by its digest and without a tag: who pulls that by its name finds it
/// there. What `peerfs import` and `peerfs push` do, one after the other: for a pipeline that has just built an image. The same source
/// makes the same image wherever it is converted, and of a later version only what has changed is sent. Prints the digest of the
/// manifest, and then the reference by the digest of what the tag leads to.
#[derive(Args)]
pub(crate) struct ConvertArguments {
    /// An image of a registry (REGISTRY/NAME:TAG, with or without docker://), or whatever else `peerfs import` takes.
    #[arg(value_hint = ValueHint::AnyPath)]
    source: String,
    /// Where to put it: REGISTRY/NAME:TAG; by default beside the image that it is made of.
    #[arg(value_name = "DESTINATION")]
    destination: Option<Reference>,
    /// The store to make it in, which keeps it, so that less is to be done for its next version. By default one that is removed
    /// afterwards.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    root_dir: Option<PathBuf>,
    /// What machines the image is to be for, if there are several; by default for such as this one.
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<Platform>,
    /// How many bytes archives may take when they are decompressed, with k, M, G or T for powers of 1024.
    #[arg(long, value_name = "SIZE", default_value = "256G", value_parser = parse_size)]
    max_size: u64,
    /// What the image is to be good at: to be read fast (default), or small.
    #[arg(long, value_name = "PROFILE", value_enum, default_value_t)]
    profile: Profile,
    /// How to compress: none, zstd or zstd:LEVEL (1 to 22), lz4 or lz4:LEVEL (1 to 12).
    #[arg(long, value_name = "METHOD")]
    compression: Option<Compression>,
    /// Threads to use, at most 1024; by default one for each processor.
    #[arg(long, value_name = "NUMBER", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    registry: RegistryArguments,
}

/// Makes an image of what others made, and puts it into a registry.
pub(crate) fn run(arguments: &ConvertArguments) -> Result<()> {
    let mut source = source(&arguments.source);
    // Before all the work is done.
    let original = match &arguments.destination {
        Some(destination) => {
            push::check_destination(destination)?;
            None
        }
        None => {
            let original = Original::find(&source, arguments)?;
            // Its tag may come to mean another one meanwhile.
            source.path = PathBuf::from(original.image.to_string());
            Some(original)
        }
    };
    let tag: Tag = match &arguments.destination {
        Some(destination) => destination.to_string().parse()?,
        None => CONVERSION.parse()?,
    };
    let temporary = match &arguments.root_dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|source| Error::Write {
            path: std::env::temp_dir(),
            source,
        })?),
    };
    let root_dir = match (&arguments.root_dir, &temporary) {
        (Some(root_dir), _) => root_dir.clone(),
        (None, Some(temporary)) => temporary.path().join("store"),
        (None, None) => PathBuf::from("store"),
    };
    let store = || StoreArguments {
        root_dir: root_dir.clone(),
    };
    import::run(&ImportArguments {
        source,
        format: Format::Auto,
        image: None,
        platform: arguments.platform.clone(),
        max_size: arguments.max_size,
        registry: arguments.registry.clone(),
        make: MakeArguments {
            store: store(),
            tag: tag.clone(),
            base: Vec::new(),
            profile: arguments.profile,
            compression: arguments.compression,
            architecture: None,
            encrypt: None,
            whole: false,
            threads: arguments.threads,
            json: false,
        },
    })?;
    let push = PushArguments {
        store: store(),
        registry: arguments.registry.clone(),
        json: false,
        image: Reference::Tag(tag),
        destination: arguments.destination.clone(),
    };
    match original {
        None => push::run(&push),
        Some(original) => push::beside(&push, &original.image, &original.manifest),
    }
}

/// An image of a registry that its conversion is to be put beside.
struct Original {
    /// It, by its digest.
    image: RegistryReference,
    /// Its OCI image manifest.
    manifest: BlobInfo,
}

impl Original {
    fn find(source: &Source, arguments: &ConvertArguments) -> Result<Self> {
        let refused = |problem| Error::Import {
            path: source.path.clone(),
            problem,
        };
        let image = match source.path.to_string_lossy().parse() {
            Ok(Reference::Registry(image)) if source.format == Format::Registry => image,
            _ => return Err(refused("it is no image of a registry, beside which its conversion could be put; say where to put that")),
        };
        let wanted = arguments.platform.clone().unwrap_or_else(Platform::host);
        let remote = Remote::repository(&image, &push::options(&arguments.registry))?;
        let RemoteImage::Ordinary(found) = push::block_on(remote.image(&image, &wanted))? else {
            return Err(refused("it is an image of peerfs already"));
        };
        let bytes = &found.manifest.bytes;
        let media_type = media_type_of(bytes).unwrap_or_else(|| DOCUMENT_TYPES[1].to_owned());
        Ok(Original {
            image: RegistryReference {
                tag: None,
                digest: Some(found.manifest.digest),
                ..image
            },
            manifest: BlobInfo {
                digest: found.manifest.digest,
                length: bytes.len() as u64,
                media_type,
            },
        })
    }
}

/// What is meant: a file, unless it is none and can be an image of a registry.
pub(super) fn source(text: &str) -> Source {
    let Ok(source) = text.parse::<Source>();
    let is_file = source.format != Format::Auto || source.path.exists();
    match text.parse::<Reference>() {
        Ok(Reference::Registry(_)) if !is_file => Source {
            format: Format::Registry,
            ..source
        },
        _ => source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_may_be_an_image_of_a_registry() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("archive.tar");
        std::fs::write(&file, "").unwrap();
        for (text, format) in [
            ("registry.example/team/a:1", Format::Registry),
            ("docker://registry.example/team/a:1", Format::Registry),
            ("oci:layout:a", Format::Oci),
            (file.to_str().unwrap(), Format::Auto),
            ("missing.tar", Format::Auto),
        ] {
            assert_eq!(source(text).format, format, "{text}");
        }
    }
}
