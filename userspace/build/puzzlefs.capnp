# SPDX-License-Identifier: GPL-2.0 OR MIT
#
# The metadata of an image of PuzzleFS, as its version 0.2 writes it (manifestVersion 3). Numbers and types are that
# format's; nothing here is peerfs's own.

@0x84ae5e6e88b7cbb7;

struct Rootfs @0xbb2389201cfec7c5 {
  metadatas @0 :List(InodeVector);
  # The topmost layer first.
  fsVerityData @1 :List(VerityData);
  manifestVersion @2 :UInt64;
}

struct InodeVector @0xa263e33af03b1423 {
  inodes @0 :List(Inode);
  # Sorted by their numbers.
}

struct Inode @0xb975cead028072a1 {
  ino @0 :UInt64;
  mode :union {
    unknown @1 :Void;
    fifo @2 :Void;
    chr @3 :Chr;
    dir @4 :Dir;
    blk @5 :Blk;
    file @6 :List(FileChunk);
    lnk @7 :Void;
    sock @8 :Void;
    wht @9 :Void;
    # Removed: the entry that leads to it stays where it is.
  }
  uid @10 :UInt32;
  gid @11 :UInt32;
  permissions @12 :UInt16;
  additional @13 :InodeAdditional;
}

struct InodeAdditional @0x99afa62a567d90d3 {
  xattrs @0 :List(Xattr);
  symlinkTarget @1 :Data;
}

struct Xattr @0xd92b4bc2079fcd40 {
  key @0 :Data;
  val @1 :Data;
}

struct Dir @0xa33ac5f983279604 {
  entries @0 :List(DirEntry);
  lookBelow @1 :Bool;
}

struct DirEntry @0x99e3afb0455dece5 {
  ino @0 :UInt64;
  name @1 :Data;
}

struct FileChunk @0x8ced9cffe6d215d2 {
  blob @0 :BlobRef;
  len @1 :UInt64;
}

struct BlobRef @0xafde2ba061264046 {
  digest @0 :Data;
  # SHA-256 of the bytes as they are stored.
  offset @1 :UInt64;
  # In the chunk, once it is decompressed.
  compressed @2 :Bool;
}

struct Chr @0xa2fee4ceccb35a70 {
  major @0 :UInt64;
  minor @1 :UInt64;
}

struct Blk @0xf2d11b2b81958969 {
  major @0 :UInt64;
  minor @1 :UInt64;
}

struct VerityData @0xe740f5fba5768dd0 {
  digest @0 :Data;
  verity @1 :Data;
}
