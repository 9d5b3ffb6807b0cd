# SPDX-License-Identifier: GPL-2.0 OR MIT
#
# The hot arrays of the image format as lists of Cap'n Proto's, for comparison with tables in a Data field.

@0xd3b1c6a05f7e9a42;

struct Index {
  chunks @0 :List(Chunk);
}

struct Chunk {
  digest0 @0 :UInt64;
  digest1 @1 :UInt64;
  digest2 @2 :UInt64;
  digest3 @3 :UInt64;
  logicalOffset @4 :UInt32;
  storedOffset @5 :UInt32;
  logicalLength @6 :UInt32;
  storedLength @7 :UInt32;
  codec @8 :UInt8;
}

struct Directory {
  entries @0 :List(Entry);
}

struct Entry {
  inode @0 :UInt64;
  type @1 :UInt8;
  name @2 :Data;
}
