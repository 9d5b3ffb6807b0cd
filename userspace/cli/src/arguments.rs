// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The command line.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use peerfs_build::{Compression, Options, Owner};
use peerfs_oci::Platform;
use peerfs_store::{Architecture, Reference, Tag};

use crate::cat::CatArguments;
use crate::import::ImportArguments;
use crate::list::ListArguments;
use crate::realm::ReadingKeys;

/// Mount filesystem images that this machine does not have yet.
///
/// An image is built from a directory tree into a store, and mounted by the digest of its manifest.
/// What is read and not in the store is fetched from peers by peerfsd; every byte is verified by the
/// kernel.
#[derive(Parser)]
#[command(name = "peerfs", version, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit status: 0 if all went well, 1 if not, 2 if the command line is wrong, 130 after Ctrl-C. Of diff, 1 says that
the images differ, and 2 that they could not be compared.

Example:
  peerfs build ./tree --root-dir /var/lib/peerfs --tag mine
  peerfs mount mine /mnt";

#[derive(Subcommand)]
pub(crate) enum Command {
    Build(BuildArguments),
    Import(ImportArguments),
    Convert(crate::import::convert::ConvertArguments),
    Mount(MountArguments),
    Umount(UmountArguments),
    Ls(ListArguments),
    Cat(CatArguments),
    Diff(crate::diff::DiffArguments),
    Extract(crate::extract::ExtractArguments),
    Export(crate::export::ExportArguments),
    Images(ImagesArguments),
    Inspect(InspectArguments),
    Tag(TagArguments),
    Untag(UntagArguments),
    Rm(RemoveArguments),
    Du(crate::du::UsageArguments),
    Gc(CollectArguments),
    Verify(VerifyArguments),
    Pull(PullArguments),
    Push(PushArguments),
    Key(crate::names::key::KeyArguments),
    Member(crate::names::member::MemberArguments),
    Publish(crate::names::publish::PublishArguments),
    PublishLayers(crate::names::layers::PublishLayersArguments),
    Names(crate::names::history::NamesArguments),
    History(crate::names::history::HistoryArguments),
    Rollback(crate::names::history::RollbackArguments),
    Follow(crate::names::follow::FollowArguments),
    Replicas(crate::names::replicas::ReplicasArguments),
    Sign(crate::signatures::SignArguments),
    VerifySignature(crate::signatures::VerifyArguments),
    /// Keep an image complete from now on.
    ///
    /// peerfsd fetches it in the background, and remembers that over restarts. A tag stands for what it stands for now.
    /// Prints the digest of its manifest. `peerfs status` shows what is pinned.
    Pin(crate::pins::PinArguments),
    /// Do not keep an image complete any more.
    ///
    /// What is here of it stays. What the configuration of peerfsd pins is not for this command.
    Unpin(crate::pins::PinArguments),
    Warm(crate::trace::WarmArguments),
    Trace(crate::trace::TraceArguments),
    Run(crate::container::RunArguments),
    Commit(crate::container::CommitArguments),
    Containers(crate::container::ContainersArguments),
    Podman(crate::podman::PodmanArguments),
    Mounts(MountsArguments),
    Peers(crate::peers::PeersArguments),
    Unban(crate::peers::UnbanArguments),
    Top(crate::top::TopArguments),
    Doctor(crate::doctor::DoctorArguments),
    Events(EventsArguments),
    Status(StatusArguments),
    /// Print completions for a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages to a directory.
    #[command(hide = true)]
    Man {
        /// The directory.
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// The store's place.
#[derive(Args)]
pub(crate) struct StoreArguments {
    /// The store: a directory that holds images.
    #[arg(
        long,
        value_name = "DIR",
        env = "PEERFS_ROOT_DIR",
        default_value = peerfs_store::DEFAULT_ROOT_DIR,
        value_hint = ValueHint::DirPath
    )]
    pub(crate) root_dir: PathBuf,
}

/// Build an image from a directory tree.
///
/// Prints the digest to mount. The same tree makes the same digest on every machine, unless --update or --base is given.
/// If SOURCE_DATE_EPOCH is set, in seconds since 1970, later times of files become that one.
#[derive(Args)]
pub(crate) struct BuildArguments {
    /// The directory tree; read as it is, other file systems mounted in it included. Of extended attributes
    /// it takes user.*, trusted.*, security.* and access control lists.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) tree: PathBuf,
    #[command(flatten)]
    pub(crate) make: MakeArguments,
    /// Take directories that other file systems are mounted on as empty.
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
    /// Leave out what matches, and all below it: a glob, compared with names, or if it has a slash with paths from the root
    /// of the tree, where only ** goes over slashes. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Make everything belong to this owner and group, as numbers; the group is as the owner if it is not given.
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_owner)]
    pub(crate) owner: Option<Owner>,
    /// Which extended attributes to take.
    #[arg(long, value_name = "WHICH", default_value = "all")]
    pub(crate) xattrs: XattrChoice,
    /// An earlier image of this tree: files whose size, times and inode are as they were when it was built by this user on
    /// this machine are not read, and keep their place in its packs. The digest then depends on it, as with --base, unless
    /// nothing has changed. If there is no such image yet, all is read.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) update: Option<Reference>,
    /// With --update, read all files, whatever their times say.
    #[arg(long, requires = "update")]
    pub(crate) paranoid: bool,
}

/// What all that makes images takes.
#[derive(Args)]
pub(crate) struct MakeArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// What to call the image; an image that is called so already loses the name.
    #[arg(long, value_name = "NAME")]
    pub(crate) tag: Tag,
    /// An image of the store that the tree has much in common with, such as its previous version:
    /// only what is not in its packs is stored anew, and what is missing or damaged there. The digest then
    /// depends on it. May be repeated.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Vec<Reference>,
    /// What the image is to be good at: to be read fast (default), or small, for which it takes many times as long to build
    /// and several times as long to read at random. Images of different profiles have nothing in common.
    #[arg(long, value_name = "PROFILE", value_enum, default_value_t)]
    pub(crate) profile: Profile,
    /// How to compress: none, zstd or zstd:LEVEL (1 to 22), lz4 or lz4:LEVEL (1 to 12). Of zstd's levels those up to 9 are
    /// made to be read fast, those above to be small; lz4 is larger, and decoded faster still. By default zstd:3, and of a
    /// small image zstd:19.
    #[arg(long, value_name = "METHOD")]
    pub(crate) compression: Option<Compression>,
    /// What processors the image is for, as OCI names them (amd64, arm64): the image's OCI configuration says so.
    /// By default what an imported image says of itself, or else that which most programs of the tree are for; "unknown"
    /// if there are none.
    #[arg(long, value_name = "NAME")]
    pub(crate) architecture: Option<Architecture>,
    /// Encrypt the image with the key in this file (`peerfs key realm`): whoever has the key can read it, and nobody else
    /// what is in it. Images of one key share what they have in common, and nothing with others. "-" is the standard input.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) encrypt: Option<PathBuf>,
    /// Make all packs files of their own, also those of which the store has chunks already, so that other tools can copy
    /// the image from the store.
    #[arg(long)]
    pub(crate) whole: bool,
    /// Threads to use, at most 1024; by default one for each processor.
    #[arg(long, value_name = "NUMBER", value_parser = parse_threads)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Print a summary as JSON in place of the digest.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What an image is to be good at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Profile {
    /// To be read fast
    #[default]
    Default,
    /// To be small
    Small,
}

impl Profile {
    /// The options of a build that is made so.
    pub(crate) fn options(self) -> Options {
        match self {
            Profile::Default => Options::default(),
            Profile::Small => Options::small(),
        }
    }
}

/// Mount an image.
///
/// Which images need whose signature is in /etc/peerfs/policy.toml, if there is one (Documentation/names.md); $PEERFS_POLICY names
/// another file.
#[derive(Args)]
pub(crate) struct MountArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// How long a reader waits for content that is not here, before it gets an error.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Mount options as for mount(8), separated by commas; a comma of a path is written \, there. Beside those of the kernel's
    /// filesystem there are fuse, as --fuse, and for FUSE socket= and allow_other.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<OsString>,
    /// Mount it through FUSE, by a process that stays. So it is done also where the kernel has no peerfs.
    #[arg(long)]
    pub(crate) fuse: bool,
    /// With --fuse, be that process: end when it is unmounted, or unmount it after Ctrl-C.
    #[arg(short, long, requires = "fuse")]
    pub(crate) foreground: bool,
    /// As --foreground, for who has started this and waits.
    #[arg(long, requires = "fuse", hide = true)]
    pub(crate) announce: bool,
    /// The control socket of the peerfsd that fills the store, for FUSE
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md). With -o
    /// manifest= it is what is shown as the source of the mount.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// The directory to mount it on.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) mountpoint: PathBuf,
}

/// Unmount an image.
#[derive(Args)]
pub(crate) struct UmountArguments {
    /// Detach it now, and let go of it when nobody uses it any more.
    #[arg(short, long)]
    pub(crate) lazy: bool,
    /// Where it is mounted.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) mountpoint: PathBuf,
}

/// List the images of a store.
///
/// A line for each tag, and for each image that has none: how many bytes its files hold, how much of what is stored of
/// it is here, and the digest of its manifest. What is here is not verified.
#[derive(Args)]
pub(crate) struct ImagesArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// Print all that is known of each image, as a line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the digests of the manifests only, each once.
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

/// Show what an image consists of, and what of it is in the store.
///
/// Nothing is verified but the manifest and the blob table; `peerfs verify` does that.
#[derive(Args)]
pub(crate) struct InspectArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// Print it as JSON, with all blobs.
    #[arg(long)]
    pub(crate) json: bool,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
}

/// Give an image a tag.
///
/// An image that is called so already loses the name, and stays.
#[derive(Args)]
pub(crate) struct TagArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
    /// What to call it.
    #[arg(value_name = "NAME")]
    pub(crate) name: Tag,
    /// Make all packs of the image files of their own, so that other tools can copy it from the store.
    #[arg(long)]
    pub(crate) whole: bool,
}

/// Take a tag away.
///
/// The image stays, and its digest names it.
#[derive(Args)]
pub(crate) struct UntagArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// The tag; also one that could not be given, but that another tool has.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Remove images from a store.
///
/// By a tag that tag, and the image with its last one. The room that only these images took is given back by
/// `peerfs gc`.
#[derive(Args)]
pub(crate) struct RemoveArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    /// The images: tags of the store, or digests of images without one.
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<Reference>,
}

/// Give back the room of what no image of a store needs.
///
/// Images that have a tag or are listed without one, that are mounted, pinned, being pulled or being built keep all that they
/// need. A chunk that others share stays, and so does a file only as far as it is needed. If peerfsd fills the store, it does
/// it.
#[derive(Args)]
pub(crate) struct CollectArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
    /// Only say what would be given back.
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check a whole store.
///
/// Reads every blob and every chunk, and walks every image. The exit status is 1 if anything is
/// damaged.
#[derive(Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
    #[command(flatten)]
    pub(crate) keys: ReadingKeys,
    /// Count images that are not all there as damaged.
    #[arg(long)]
    pub(crate) complete: bool,
    /// Have the running peerfsd that fills the store fetch what is damaged again, and what is missing of the images it is in; then
    /// check again.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The daemon's place.
#[derive(Args)]
pub(crate) struct DaemonArguments {
    /// The control socket of peerfsd.
    #[arg(
        long,
        value_name = "PATH",
        default_value = peerfs_control::DEFAULT_SOCKET,
        value_hint = ValueHint::FilePath
    )]
    pub(crate) socket: PathBuf,
}

/// Bring an image into a store, from its registry or from peers.
///
/// An image of a registry, REGISTRY/NAME:TAG, is asked for there, and called so in the store. A running peerfsd does it, or
/// with --root-dir this command itself. Prints the digest of its manifest when all of it is here, and was read and verified. When the command ends
/// earlier, what has come stays, and another one goes on with it. An ordinary image without a conversion beside it is converted
/// while it comes, as a whole, and not again as long as the registry has the same. Which images need whose signature is in /etc/peerfs/policy.toml,
/// if there is one (Documentation/names.md); with --root-dir $PEERFS_POLICY names another file.
#[derive(Args)]
pub(crate) struct PullArguments {
    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
    /// The store to bring it into, which no daemon fills; by default that of peerfsd, which does it.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    /// Bring only what mounting it needs; peerfsd fetches the rest when it is read. Of an ordinary image all is brought.
    #[arg(long)]
    pub(crate) lazy: bool,
    /// What machines the image is to be for, if the registry has it for several; by default for such as this one.
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// What to call the image when it is here; an image that is called so already loses the name.
    #[arg(long, value_name = "NAME")]
    pub(crate) tag: Option<Tag>,
    /// How long nothing may come before it fails; by default two minutes.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// Do it on other machines, each by its own peerfsd, with what --rsh says running `peerfs pull` there. May be repeated.
    #[arg(long, value_name = "NODE,...", value_delimiter = ',', value_parser = parse_node,
        conflicts_with_all = ["root_dir", "socket", "plain_http", "platform"])]
    pub(crate) on: Vec<String>,
    /// What runs a command on another machine: a program with its options, which is then given the machine and the command.
    #[arg(
        long,
        value_name = "COMMAND",
        env = "PEERFS_RSH",
        default_value = "ssh -o BatchMode=yes"
    )]
    pub(crate) rsh: String,
    /// Print how it goes as lines of JSON, as peerfsd says it (Documentation/control.md).
    #[arg(long)]
    pub(crate) json: bool,
    /// The image: one of a registry, a digest, or a tag of the store for what is missing of it
    /// (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
}

/// How registries are asked.
#[derive(Args, Clone)]
pub(crate) struct RegistryArguments {
    /// The file with credentials; by default those of podman and Docker are looked at.
    #[arg(long, value_name = "PATH", env = "REGISTRY_AUTH_FILE", value_hint = ValueHint::FilePath)]
    pub(crate) authfile: Option<PathBuf>,
    /// Whether to require a certificate that is trusted; without it any certificate is taken, and plain HTTP too.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) tls_verify: bool,
    /// Use HTTP without TLS.
    #[arg(long)]
    pub(crate) plain_http: bool,
}

/// Put an image into a registry.
///
/// As an OCI index: an image that container runtimes take, and an artifact with all that peerfs needs, packs and all. What
/// the registry has is not sent again, so that an interrupted push goes on. Prints the reference by the index's digest.
#[derive(Args)]
pub(crate) struct PushArguments {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    /// Print what was sent as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The image: a tag of the store, a digest, or another reference (Documentation/references.md).
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
    /// Where to push it: REGISTRY/NAME:TAG. By default that which IMAGE says.
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: Option<Reference>,
}

/// List the mounts over the store of a running peerfsd.
///
/// A line for each that peerfsd sees: where it is, the tags and the manifest of its image, and how many bytes of that
/// are not in the store.
#[derive(Args)]
pub(crate) struct MountsArguments {
    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
    /// Print all that is known of each mount, as a line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what happens in a running peerfsd, as it happens.
///
/// Images that come and how their pulls go, peers that come and go, and how many misses of the kernel were filled or
/// failed. Whoever does not read fast enough loses some, and is told how many.
#[derive(Args)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
    /// Print each as a line of JSON (Documentation/control.md).
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show how a running peerfsd is doing.
#[derive(Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) daemon: DaemonArguments,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The extended attributes that are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum XattrChoice {
    /// All that an image can hold.
    All,
    /// security.* and access control lists only.
    Security,
    /// None.
    None,
}

fn parse_owner(text: &str) -> Result<Owner, String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| {
        let number = text.parse().ok();
        // The largest one means "none" to the kernel.
        number.filter(|&number: &u32| number != u32::MAX)
    };
    match (number(uid), number(gid)) {
        (Some(uid), Some(gid)) => Ok(Owner { uid, gid }),
        _ => Err("numbers are expected, such as 0 or 1000:100".to_owned()),
    }
}

pub(crate) fn parse_threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok();
    number
        .filter(|&number: &NonZeroUsize| number.get() <= Options::THREADS_MAX)
        .ok_or_else(|| format!("a number from 1 to {} is expected", Options::THREADS_MAX))
}

/// A machine, which must not be an option of what is told it.
fn parse_node(text: &str) -> Result<String, String> {
    let is_node = text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|letter| letter.is_ascii_graphic());
    let problem = || "the name of a machine is expected, such as node or user@node".to_owned();
    is_node.then(|| text.to_owned()).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
