// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The numbers that the format fixes. Sizes are in bytes.

/// The format version that this reader and writer know.
pub const FORMAT_VERSION: u32 = 1;

/// The incompatible feature of images whose chunks, shards and root record are encrypted.
pub const FEATURE_ENCRYPTION: u64 = 1 << 0;

/// The incompatible feature of images that have chunks compressed with LZ4.
pub const FEATURE_LZ4: u64 = 1 << 1;

/// The incompatible features that this reader knows.
pub const KNOWN_INCOMPATIBLE_FEATURES: u64 = FEATURE_ENCRYPTION | FEATURE_LZ4;

/// The longest chunk, before compression; a stored chunk is never longer.
pub const CHUNK_MAX: u32 = 256 * 1024;

/// What every zstd frame begins with (RFC 8878, 3.1.1).
pub const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The longest pack, in its uncompressed address space and as stored.
pub const PACK_MAX: u64 = 1024 * 1024 * 1024;

/// The largest manifest, blob table, pack index or inode shard.
pub const METADATA_MAX: u64 = 16 * 1024 * 1024;

/// The root directory's inode number.
pub const ROOT_INODE: u64 = 1;
/// The longest name in a directory.
pub const NAME_MAX: usize = 255;
/// The longest target of a symbolic link (PATH_MAX without its NUL).
pub const SYMLINK_MAX: usize = 4095;
/// The longest xattr name, prefix included.
pub const XATTR_NAME_MAX: usize = 255;
/// The most bytes of all names of an inode's xattrs, each with a NUL: the longest list that listxattr(2) returns.
pub const XATTR_NAMES_MAX: usize = 64 * 1024;
/// The longest xattr value.
pub const XATTR_VALUE_MAX: usize = 64 * 1024;
