// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs export`.

use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueHint};
use peerfs_export::{write_oci, write_tar, LayerCompression, OciOptions, OciPlace};
use peerfs_store::{printable_bytes, Architecture, Image, Reference, Store, Tag};
use peerfs_sys::interrupt;

use crate::arguments::{parse_threads, StoreArguments};
use crate::error::{Error, Result};
use crate::extract::processors;
use crate::failure::PEERFS;
use crate::output::{tell, Output};
use crate::realm::ReadingKeys;

/// Bytes that are written at once.
const BUFFER: usize = 256 * 1024;

/// Write an image for other tools.
#[derive(Args)]
pub(crate) struct ExportArguments {
    #[command(subcommand)]
    form: Form,
}

#[derive(Subcommand)]
enum Form {
    Tar(TarArguments),
    Oci(OciArguments),
}

/// Write an image as a tar archive.
///
/// A pax archive with times to the nanosecond, extended attributes (what `tar --xattrs --xattrs-include='*'` reads), hard
/// links and devices. Files that are mostly holes are sparse ones, as GNU tar has them. Sockets are left out, since tar has
/// none. The same image makes the same bytes.
#[derive(Args)]
struct TarArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    keys: ReadingKeys,
    /// The file to write, "-" for the standard output. A regular file is there when it is whole.
    #[arg(short, long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    output: PathBuf,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
}

/// Write an image as an ordinary OCI image.
///
/// Its files are one layer, and it is run as the image says (environment, entrypoint, user). Prints the digest of the OCI image
/// manifest. The same image makes the same bytes, by whatever number of threads.
#[derive(Args)]
struct OciArguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    keys: ReadingKeys,
    /// How to compress the layer: gzip, gzip:LEVEL (1 to 9), zstd, zstd:LEVEL (1 to 22) or none.
    #[arg(long, value_name = "METHOD", default_value = "gzip")]
    compression: LayerCompression,
    /// Threads that compress, at most 1024; by default one for each processor.
    #[arg(long, value_name = "NUMBER", value_parser = parse_threads)]
    threads: Option<NonZeroUsize>,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// An image layout, which is made or gets a further image: DIR or DIR:TAG, perhaps with oci: before it as for skopeo; or
    /// oci-archive:FILE or oci-archive:FILE:TAG for a tar archive of one. By default the image has the tag that it was named by.
    #[arg(value_name = "PLACE", value_parser = parse_place)]
    place: (OciPlace, Option<Tag>),
}

/// Exports an image.
pub(crate) fn run(arguments: &ExportArguments) -> Result<()> {
    match &arguments.form {
        Form::Tar(arguments) => tar(arguments),
        Form::Oci(arguments) => oci(arguments),
    }
}

/// From now on signals are noted: without it half a file is left behind when it is interrupted. What is written to a pipe is
/// as good as it is, and waiting for those who read it ends at once.
fn watch_interrupts() {
    let _ = interrupt::watch();
}

fn open(
    store: &StoreArguments,
    keys: &ReadingKeys,
    reference: &Reference,
) -> Result<(Arc<Store>, Image)> {
    let store = Arc::new(Store::open(&store.root_dir)?);
    let manifest = store.resolve(reference)?;
    let keys = keys.read(&store, &[manifest])?;
    let image = Image::open_with(store.clone(), &manifest, &keys)?;
    Ok((store, image))
}

/// Tells of a file that an archive can't hold.
fn tell_left_out(path: &[u8]) {
    let path = printable_bytes(path);
    tell(&format!(
        "{}: warning: {path} is a socket, and left out",
        PEERFS.name
    ));
}

fn tar(arguments: &TarArguments) -> Result<()> {
    let path = arguments.output.as_path();
    let to_stdout = path == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Error::Terminal);
    }
    let (_, image) = open(&arguments.store, &arguments.keys, &arguments.image)?;
    let write = |file: &mut dyn Write| -> Result<()> {
        let mut file = io::BufWriter::with_capacity(BUFFER, file);
        write_tar(
            &image,
            &mut file,
            interrupt::is_requested,
            &mut tell_left_out,
        )?;
        file.flush().map_err(Error::Output)
    };
    if to_stdout {
        return write(&mut io::stdout().lock());
    }
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    // A device or a pipe is written to, a file replaced.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return write(&mut File::options().write(true).open(path).map_err(failed)?);
    }
    watch_interrupts();
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mut file = tempfile::Builder::new()
        .prefix(".peerfs-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    write(file.as_file_mut())?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn oci(arguments: &OciArguments) -> Result<()> {
    watch_interrupts();
    let (store, image) = open(&arguments.store, &arguments.keys, &arguments.image)?;
    let config = store.oci_config(&arguments.image, image.digest())?;
    let architecture = match config {
        Some(_) => Architecture::unknown(),
        None => image.architecture()?,
    };
    let (place, tag) = &arguments.place;
    let own_tag = match &arguments.image {
        Reference::Tag(tag) => Some(tag.clone()),
        _ => None,
    };
    let options = OciOptions {
        compression: arguments.compression,
        config,
        architecture,
        tag: tag.clone().or(own_tag),
        threads: arguments.threads.unwrap_or_else(processors),
        is_cancelled: interrupt::is_requested,
    };
    let manifest = write_oci(&image, place, &options, &mut tell_left_out)?;
    let mut output = Output::new();
    output.line(&format!("sha256:{manifest}"))?;
    output.finish()
}

/// `DIR`, `DIR:TAG`, `oci:DIR`, `oci:DIR:TAG`, `oci-archive:FILE` or `oci-archive:FILE:TAG`.
fn parse_place(text: &str) -> std::result::Result<(OciPlace, Option<Tag>), String> {
    let (is_archive, rest) = match text.split_once(':') {
        Some(("oci-archive", rest)) => (true, rest),
        Some(("oci", rest)) => (false, rest),
        _ => (false, text),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => {
            let tag = tag.parse::<Tag>().map_err(|error| error.to_string())?;
            (path, Some(tag))
        }
        None => (rest, None),
    };
    if path.is_empty() {
        return Err("the name of a directory or file is expected".to_owned());
    }
    let place = match is_archive {
        true => OciPlace::Archive(path.into()),
        false => OciPlace::Layout(path.into()),
    };
    Ok((place, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_tags() {
        let layout = |path: &str| OciPlace::Layout(path.into());
        let archive = |path: &str| OciPlace::Archive(path.into());
        let tag = |tag: &str| Some(tag.parse::<Tag>().unwrap());
        for (text, place) in [
            ("dir", (layout("dir"), None)),
            ("/a/dir:v1", (layout("/a/dir"), tag("v1"))),
            ("oci:dir", (layout("dir"), None)),
            ("oci:/a/dir:v1", (layout("/a/dir"), tag("v1"))),
            ("oci-archive:x.tar", (archive("x.tar"), None)),
            ("oci-archive:x.tar:v1", (archive("x.tar"), tag("v1"))),
        ] {
            assert_eq!(parse_place(text), Ok(place), "{text}");
        }
        for wrong in ["", ":v1", "oci-archive:", "oci:", "dir:", "oci:dir:a b"] {
            assert!(parse_place(wrong).is_err(), "{wrong}");
        }
    }
}
