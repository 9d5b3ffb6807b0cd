// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs import`.

mod container;
pub(crate) mod convert;
mod filesystem;
pub(crate) mod layers;
mod remote;
pub(crate) mod source;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueHint};
use indicatif::ProgressBar;
use peerfs_build::{
    ArchiveTree, Blob, DirectorySource, Layer, LayersSource, Limits, Promise, ReadProgress,
    Result as BuildResult,
};
use peerfs_oci::{Platform, Reference};
use peerfs_sys::interrupt;

use crate::arguments::{MakeArguments, RegistryArguments};
use crate::build::{Maker, Origin};
use crate::error::{Error, Result};
use crate::progress::show_while;
use container::{Container, Folder, LayoutImage};
use filesystem::Mounted;
use source::{Format, Source};

/// Make an image of an archive, of an image for containers or of a filesystem image.
///
/// Of a tar archive the image is that of `peerfs build` of what tar unpacks; of a filesystem image that of what is in it; of
/// an image for containers that of its unpacked layers, and it keeps the configuration (environment, command, user and so
/// on). Prints the digest to mount.
#[derive(Args)]
pub(crate) struct ImportArguments {
    /// A tar archive, or - for one on the standard input, plain or compressed by gzip or zstd; an OCI image layout, as a
    /// directory or in an archive, with an image for containers or of PuzzleFS; what docker save writes; or a squashfs or
    /// EROFS image, of which the latter needs root. As for skopeo, oci:DIRECTORY[:NAME], oci-archive:FILE[:NAME]
    /// and docker-archive:FILE[:NAME] say what it is and which image of it is meant, and docker://REGISTRY/NAME[:TAG|@DIGEST]
    /// is an image of a registry, which needs no room but for what is made of it.
    #[arg(value_hint = ValueHint::AnyPath)]
    source: Source,
    /// What SOURCE is; by default that is found out.
    #[arg(long, value_enum, default_value_t, hide_default_value = true)]
    format: Format,
    /// Which image of SOURCE is meant, if it has several.
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// What machines the image is to be for, as linux/arm64 or linux/arm/v7, if there are several; by default for such as
    /// this one.
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<Platform>,
    /// How many bytes archives may take when they are decompressed, with k, M, G or T for powers of 1024.
    #[arg(long, value_name = "SIZE", default_value = "256G", value_parser = source::parse_size)]
    max_size: u64,
    #[command(flatten)]
    registry: RegistryArguments,
    #[command(flatten)]
    make: MakeArguments,
}

/// Makes an image of what others made, and tags it.
pub(crate) fn run(arguments: &ImportArguments) -> Result<()> {
    // Signals are only noted from then on: who waits for a pipe that nobody writes to can end that.
    let opened = Opened::new(&arguments.source)?;
    let maker = Maker::new(&arguments.make)?;
    let import = Import {
        arguments,
        progress: Arc::default(),
        limits: Limits {
            unpacked: arguments.max_size,
            ..Limits::default()
        },
    };
    import.run(&maker, opened)
}

/// A source that is there.
enum Opened {
    Registry,
    Directory,
    File(File),
}

impl Opened {
    fn new(source: &Source) -> Result<Self> {
        let path = source.path.as_path();
        if source.format == Format::Registry {
            return Ok(Opened::Registry);
        }
        if path != Path::new("-") && path.is_dir() {
            return Ok(Opened::Directory);
        }
        Ok(Opened::File(open(path)?))
    }
}

struct Import<'a> {
    arguments: &'a ImportArguments,
    progress: Arc<ReadProgress>,
    limits: Limits,
}

impl Import<'_> {
    fn run(&self, maker: &Maker<'_>, opened: Opened) -> Result<()> {
        let source = &self.arguments.source;
        let format = match self.arguments.format {
            Format::Auto => source.format,
            format => format,
        };
        let path = source.path.as_path();
        let file = match (opened, format) {
            (Opened::Registry, _) => return self.of_registry(maker),
            (Opened::Directory, Format::Auto) if !path.join("oci-layout").exists() => {
                return Err(Error::Import {
                    path: path.to_owned(),
                    problem: "it is a directory, and no OCI image layout; `peerfs build` makes images of directories",
                })
            }
            (Opened::Directory, Format::Auto | Format::Oci) => {
                let folder = Folder::Directory(path.to_owned());
                return self.container(maker, folder, Format::Oci);
            }
            (Opened::Directory, _) => {
                return Err(Error::Import {
                    path: path.to_owned(),
                    problem: "it is a directory",
                })
            }
            (Opened::File(file), _) => file,
        };
        let format = match format {
            Format::Auto => filesystem::format_of(&file).unwrap_or_default(),
            format => format,
        };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let check = || -> BuildResult<()> {
            match interrupt::is_requested() {
                true => Err(peerfs_build::Error::Cancelled),
                false => Ok(()),
            }
        };
        let show = |bar: &ProgressBar| self.show(bar, length);
        let read = |archive: Layer| {
            show_while(show, || {
                ArchiveTree::read(archive, &maker.store, self.limits, &self.progress, &check)
            })
        };
        if matches!(format, Format::Squashfs | Format::Erofs) {
            self.refuse_choice(path)?;
        }
        match format {
            Format::Squashfs => {
                let tree = filesystem::squashfs(file, path, read)?;
                return maker.make(tree, &Origin::default(), |_| ()).map(|_| ());
            }
            Format::Erofs => {
                let mounted = Mounted::erofs(&file, path)?;
                let tree = DirectorySource::new(mounted.root(), &maker.store).named(path);
                return maker.make(tree, &Origin::default(), |_| ()).map(|_| ());
            }
            _ => (),
        }
        let tree = read(Layer {
            path: path.to_owned(),
            blob: Blob::File(file),
            promise: Promise::default(),
        })?;
        let format = match format {
            Format::Auto => container::format_of(&tree),
            format => format,
        };
        if format == Format::Tar {
            self.refuse_choice(path)?;
            maker.make(tree, &Origin::default(), |_| ())?;
            return Ok(());
        }
        self.container(maker, Folder::Archive(Box::new(tree)), format)
    }

    fn container(&self, maker: &Maker<'_>, folder: Folder, format: Format) -> Result<()> {
        let source = &self.arguments.source;
        let name = self.arguments.image.as_deref().or(source.image.as_deref());
        let platform = self.arguments.platform.as_ref();
        let path = source.path.as_path();
        if format == Format::DockerArchive {
            let container = container::docker(&folder, path, name, platform)?;
            return self.make(maker, container);
        }
        match container::oci(&Arc::new(folder), path, name, platform)? {
            LayoutImage::Container(container) => self.make(maker, *container),
            LayoutImage::PuzzleFs(image) => {
                let image = image.limits(self.limits);
                maker.make(image, &Origin::default(), |_| ()).map(|_| ())
            }
        }
    }

    fn of_registry(&self, maker: &Maker<'_>) -> Result<()> {
        let text = self.arguments.source.path.to_string_lossy();
        let Reference::Registry(reference) = text.parse()? else {
            return Err(Error::Import {
                path: self.arguments.source.path.clone(),
                problem: "behind docker:// the image of a registry is expected, such as registry.example/team/name:tag",
            });
        };
        let platform = self.arguments.platform.as_ref();
        let (container, runtime) =
            remote::container(&reference, &self.arguments.registry, platform)?;
        let made = self.make(maker, container);
        runtime.shutdown_background();
        match made {
            // What was waited for was given up.
            Err(_) if interrupt::is_requested() => Err(Error::Cancelled),
            made => made,
        }
    }

    fn make(&self, maker: &Maker<'_>, container: Container) -> Result<()> {
        let source = &self.arguments.source;
        let Container { layers, config } = container;
        let total = layers.iter().filter_map(|layer| layer.promise.size).sum();
        let progress = Arc::new(ReadProgress::default());
        let layers = LayersSource::new(&source.path, layers, &maker.store)
            .limits(self.limits)
            .progress(&progress);
        let origin = Origin {
            architecture: Some(config.platform.architecture),
            config: config.runtime,
        };
        maker.make(layers, &origin, |bar| show(bar, &progress, total))?;
        Ok(())
    }

    /// Of an archive of files there are no images to choose from.
    fn refuse_choice(&self, path: &Path) -> Result<()> {
        let ImportArguments {
            image, platform, ..
        } = self.arguments;
        if image.is_none() && platform.is_none() {
            return Ok(());
        }
        Err(Error::Import {
            path: path.to_owned(),
            problem: "it has files, of which --image and --platform choose nothing",
        })
    }

    fn show(&self, bar: &ProgressBar, length: u64) {
        show(bar, &self.progress, length);
    }
}

/// Shows how much of so many bytes was read; 0 if nobody knows.
fn show(bar: &ProgressBar, progress: &ReadProgress, total: u64) {
    bar.set_length(total.max(progress.bytes()));
    bar.set_position(progress.bytes());
    bar.set_message("reading");
}

/// Opens a file, or the standard input.
fn open(path: &Path) -> Result<File> {
    let opened = match path == Path::new("-") {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(path),
    };
    opened.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
