# SPDX-License-Identifier: GPL-2.0 OR MIT
#
# The metadata blobs of a peerfs image. One schema for the kernel and for userspace; the field
# numbers are the format and never change their meaning.
#
# The arrays that a read or a lookup searches are fixed-width little-endian tables in a Data field
# (record layouts: record.rs); everything that may grow new fields is Cap'n Proto.

@0x90d7bc0470a511b3;

struct Manifest {
  # The root of an image: its SHA-256 is what a mount is given.
  formatVersion @0 :UInt32;
  incompatibleFeatures @1 :UInt64;
  # A reader refuses the image if a bit is set here that it does not know.
  compatibleFeatures @2 :UInt64;
  # A reader may ignore bits here that it does not know.
  inodeCount @3 :UInt64;
  contentBytes @4 :UInt64;
  # Sum of the bytes that regular files hold (holes not counted), for statfs.
  storedBytes @5 :UInt64;
  # Sum of the packs' stored lengths, each shared pack counted once.
  root @6 :Data;
  # InodeRecord of the root directory, as its shard has it: a mount reads nothing else. Of an encrypted image its
  # initialization vector, and that encrypted.
  blobTable @7 :Data;
  # SHA-256 of the blob table.
  blobTableLength @8 :UInt32;
  # Bytes of the blob table.
  keyId @9 :Data;
  # Of an encrypted image: names the key of its realm. Otherwise absent, as the next one.
  envelope @10 :Data;
  # Of an encrypted image: SHA-256 of a blob with that key, encrypted for those who may have it, or absent.
  trace @11 :Data;
  # SHA-256 of a blob that says what is read first, or absent.
}

struct BlobTable {
  # Which blobs an image consists of.
  packs @0 :Data;
  # Table of PackRecord.
  shards @1 :Data;
  # Table of ShardRecord, ascending by first inode; the first one starts at inode 1.
}

struct PackIndex {
  # What is in a pack.
  chunks @0 :Data;
  # Table of ChunkRecord, ascending by logical and by stored offset, without gaps.
  ivs @1 :Data;
  # Of an encrypted image: the initialization vectors of the chunks. Otherwise absent.
}

struct InodeShard {
  # A run of inodes, and a run of directory entries.
  firstInode @0 :UInt64;
  inodes @1 :Data;
  # Table of InodeRecord: firstInode, firstInode + 1, ...
  extents @2 :Data;
  # Table of ExtentRecord: the regular files' data.
  spans @3 :Data;
  # Table of SpanRecord: where the directories' entries are.
  entries @4 :Data;
  # Table of EntryRecord.
  xattrSets @5 :Data;
  # Table of XattrSetRecord.
  xattrs @6 :Data;
  # Table of XattrRecord.
  digests @7 :Data;
  # Table of regular files' content digests (see Shard::content_digest).
  heap @8 :Data;
  # The bytes of names, symbolic link targets and xattr values.
}
