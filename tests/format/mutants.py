# SPDX-License-Identifier: GPL-2.0 OR MIT
"""Images with one rule of Documentation/format.md broken, all digests right. A mutant is a function that changes
the draft of writer.Tree; FINE ones break no rule, and U ones one that nobody need enforce."""

import stat
import struct

from records import CHUNK_MAX, LZ4, LZ4_FEATURE, METADATA_MAX, PACK_MAX, ROOT, Entry, Inode, Shard, Span, Xattr, XattrSet
from writer import PackDraft, Raw, ShardDraft, compress, compress_lz4, sha256

FINE, R, V, U = "fine", "R", "V", "U"
MUTANTS = []
WRAP = (1 << 64) - 1


def mutant(letter, name, change):
    MUTANTS.append((letter, name, change))


def fields(letter, title, change, /, **values):
    """One mutant for each value of a field."""
    for field, choices in values.items():
        for value in choices if isinstance(choices, list) else [choices]:
            shown = "f" if callable(value) else value if len(repr(value)) < 30 else f"{repr(value)[:20]}..."
            mutant(letter, f"{title}: {field} {shown}",
                   lambda draft, field=field, value=value: change(draft, **{field: value}))


def manifest(draft, **values):
    draft.manifest.update(values)


def pack(draft, **values):
    draft.pack_records[0] = values


def shard(number):
    return lambda draft, **values: draft.shard_records.__setitem__(number, values)


def blob(letter, name, kind, change):
    mutant(letter, name, lambda draft: draft.blobs.__setitem__(kind, change))


def inode(number):
    return lambda draft, **values: draft.change_inode(number, **values)


def record(which, table, number):
    return lambda draft, **values: draft.shards[which].change(table, number, **values)


def chunk(number):
    return lambda draft, **values: draft.packs[0].change(number, **values)


def heap(which, table, number, offset, length, data):
    """Gives a record another string."""
    def change(draft):
        place = dict(zip((offset, length), draft.shards[which].add_to_heap(data)))
        draft.shards[which].change(table, number, **place)
    return change


def more(value):
    return lambda old: old + value


def image():
    """Blobs as a whole, manifest, blob table."""
    blob(R, "a manifest of more than 16 MiB", "manifest", lambda data: data.ljust(METADATA_MAX + 8, b"\0"))
    for kind in "table", ("shard", 0), ("index", 0):
        blob(R, f"a cut message: {kind}", kind, lambda data: data[:-8])
        blob(R, f"no message: {kind}", kind, lambda data: b"\xff" * len(data))
        blob(R, f"a pointer out of its segment: {kind}", kind,
             lambda data: data[:8] + struct.pack("<I", 0x7ffffffc) + data[12:])
        blob(U, f"bytes behind the message: {kind}", kind, lambda data: data + bytes(8))
    fields(R, "manifest", manifest, version=[0, 2], incompatible=[1, 4, 1 << 63], inodes=[0, 13, 15],
           length=[0, 17 << 20], key_id=b"k", envelope=b"e", trace=[b"t", bytes(31), bytes(33)])
    fields(FINE, "manifest", manifest, incompatible=LZ4_FEATURE, key_id=b"", envelope=b"",
           trace=[b"", bytes(32)])
    fields(R, "manifest", manifest, root=[bytes(64), bytes(63), b""], digest=[b"", bytes(31)])
    fields(U, "manifest", manifest, compatible=1)
    fields(V, "manifest", manifest, content=1, stored=1)
    for name, values in {"link": {"link": 2}, "type": {"mode": stat.S_IFLNK | 0o777}, "nlink": {"nlink": 0},
                         "mode": {"mode": 1 << 16 | stat.S_IFDIR}, "xattrs": {"xattrs": 9}}.items():
        mutant(R, f"root: {name}", lambda draft, values=values: draft.change_inode(ROOT, **values))
    mutant(V, "the root is another in its shard", lambda draft: draft.manifest.update(
        root=draft.shards[0].inodes[0]._replace(uid=7).encode()))
    mutant(R, "the blob table is longer than the manifest says", lambda draft: draft.manifest.update(length=300))
    mutant(R, "the blob table is shorter than the manifest says", lambda draft: draft.manifest.update(length=4000))
    fields(R, "pack record", pack, stored=[0, 1, PACK_MAX + 1, WRAP], logical=[0, 1, 55001, PACK_MAX + 1, WRAP],
           chunks=[0, 3, 5, 1 << 31], index_length=[0, 100, 4000, METADATA_MAX + 1])
    mutant(V, "a pack is longer than its record says", lambda draft: (
        pack(draft, stored=len(draft.packs[0].stored)), draft.blobs.update({("pack", 0): lambda data: data + b"x"})))
    mutant(R, "a pack is shorter than its record says", lambda draft: (
        pack(draft, stored=len(draft.packs[0].stored)), draft.blobs.update({("pack", 0): lambda data: data[:-1]})))
    fields(R, "first shard's record", shard(0), first=[0, 2, WRAP], inodes=[0, 5, 7], length=[0, 8, METADATA_MAX + 1])
    fields(R, "last shard's record", shard(2), first=[1, 11, 13, WRAP], inodes=[0, 2, 4, 0xffffffff],
           length=[0, 8, 4000, METADATA_MAX + 1])
    mutant(R, "a shard has fewer inodes, the next one begins earlier", lambda draft: (
        shard(0)(draft, inodes=5), shard(1)(draft, first=6, inodes=6)))
    mutant(R, "inode numbers that wrap", lambda draft: draft.shard_records.update(
        more=[Shard(sha256(b""), 15, 0xffffffff, 100)]))
    mutant(R, "the first shard has entries only", lambda draft: draft.shards.insert(0, ShardDraft()))
    mutant(R, "no shards", lambda draft: (draft.shards.clear(), draft.manifest.update(root=bytes(64), inodes=14)))
    mutant(FINE, "a shard with entries only", lambda draft: draft.shards.append(ShardDraft()))
    mutant(FINE, "a shard that is named twice", name_twice)
    mutant(V, "a pack that no extent names", lambda draft: (
        draft.packs.append(PackDraft()), draft.packs[2].add(b"unused")))
    mutant(V, "a pack that is named twice", lambda draft: (
        draft.packs.append(draft.packs[1]), draft.shards[2].change("extents", 0, pack=2)))


def name_twice(draft):
    """Adds a shard with entries only, which are those of two directories."""
    twice, (_, second, third) = ShardDraft(), draft.shards
    twice.entries.append(Entry(14, *twice.add_to_heap(b"twin"), stat.S_IFREG >> 12, 0))
    second.spans.append(Span(0, 3, 0, 1, *second.add_to_heap(b"twin"), 0))
    third.spans.append(Span(1, 4, 0, 1, *third.add_to_heap(b"twin"), 0))
    draft.change_inode(11, count=1, size=20)
    draft.change_inode(12, count=2, size=40)
    draft.change_inode(14, nlink=3)
    draft.shards += [twice, twice]


def packs():
    """Pack indexes and chunks."""
    fields(R, "first chunk", chunk(0), logical=1, stored=1, logical_length=[0, 4999, 5001, CHUNK_MAX + 1],
           stored_length=[0, 4999], codec=[1, 2, 3, 128, 129, 255], digest=bytes(32))
    fields(R, "second chunk", chunk(1), logical=[0, 4999, 5001], stored=[0, 4999, 5001],
           logical_length=[0, 1, 22499, 22501, 1 << 31], stored_length=[0, 1, 0xffffffff], codec=0)
    fields(V, "chunk", chunk(1), reserved=b"\0\0\1")
    mutant(R, "initialization vectors", lambda draft: setattr(draft.packs[0], "ivs", bytes(16)))
    mutant(FINE, "no initialization vectors", lambda draft: setattr(draft.packs[0], "ivs", b""))
    mutant(R, "a chunk that ends at 2^32", lambda draft: draft.packs[0].change(3, logical=0xffffffff, logical_length=1))
    for name, change in {
            "two frames": lambda old: compress(b"a" * 22400) + compress(b"b" * 100),
            "a skippable frame first": lambda old: b"\x50\x2a\x4d\x18\x01\0\0\0x" + old,
            "a skippable frame behind": lambda old: old + b"\x50\x2a\x4d\x18\x01\0\0\0x",
            "a byte behind the frame": lambda old: old + b"\0",
            "a cut frame": lambda old: old[:-1],
            "no frame": lambda old: b"x" * len(old),
            "a shorter frame": lambda old: compress(b"a" * 22499),
            "a longer frame": lambda old: compress(b"a" * 22501),
            "a dictionary": lambda old: old[:4] + bytes([old[4] | 1]) + old[5:6] + b"\7" + old[6:]}.items():
        mutant(R, f"zstd: {name}", lambda draft, change=change: store(draft, change))
    mutant(FINE, "zstd: a window of 2^27", lambda draft: store(
        draft, lambda old: b"\x28\xb5\x2f\xfd\0\x88" + (22500 << 3 | 3).to_bytes(3, "little") + b"w"))
    for name, change in {
            "two blocks": lambda old: compress_lz4(b"a" * 22400) + compress_lz4(b"b" * 100),
            "a byte behind the block": lambda old: compress_lz4(b"w" * 22500) + b"\0",
            "a cut block": lambda old: compress_lz4(b"w" * 22500)[:-1],
            "a shorter block": lambda old: compress_lz4(b"a" * 22499),
            "a longer block": lambda old: compress_lz4(b"a" * 22501),
            "a match before the beginning": lambda old: b"\x1fw\x02\0" + compress_lz4(b"w" * 22500)[4:],
            "a frame": lambda old: old}.items():
        mutant(R, f"LZ4: {name}", lambda draft, change=change: store_lz4(draft, change))
    mutant(FINE, "LZ4", lambda draft: store_lz4(draft, lambda old: compress_lz4(b"w" * 22500)))
    mutant(FINE, "LZ4 that the manifest does not tell of", lambda draft: store_lz4(
        draft, lambda old: compress_lz4(b"w" * 22500), features=0))
    for name, change in {"one is missing": lambda old: old[:-32], "wrong": lambda old: bytes(len(old)),
                         "one too many": lambda old: old + bytes(32), "none": lambda old: b"",
                         "half a digest": lambda old: old[:-16]}.items():
        blob(V, f"pack contents: {name}", ("contents", 0), change)
    fields(FINE, "pack contents that are not there", pack, contents_digest=bytes(32))


def store(draft, change):
    """Gives the second chunk of the first pack other stored bytes, and the content that they have."""
    old = draft.packs[0].chunks[1]
    draft.packs[0].store(1, change(draft.packs[0].stored[old.stored:old.stored + old.stored_length]))
    digest = sha256(b"w" * 22500)
    draft.packs[0].contents = draft.packs[0].contents[:32] + digest + draft.packs[0].contents[64:]


def store_lz4(draft, change, features=LZ4_FEATURE):
    """As store(), with LZ4."""
    store(draft, change)
    draft.packs[0].change(1, codec=LZ4)
    draft.manifest.update(incompatible=features)


def inodes():
    """Inode records, link targets, extents."""
    for number, name in (3, "file"), (2, "directory"), (7, "link"), (8, "device"), (10, "FIFO"):
        fields(R, name, inode(number), nlink=0, size=1 << 63, nanoseconds=[10**9, 0xffffffff],
               xattrs=[2, 3, 0xfffffffe], mode=[more(1 << 16), 0o644, 0o130644, more(1 << 31)])
        fields(V, name, inode(number), nlink=[more(1), 0xffffffff], allocated=[more(1), WRAP])
    fields(V, "directory", inode(12), size=[0, 21, (1 << 63) - 1])
    fields(V, "link", inode(7), link=1)
    for number, name in (8, "device"), (10, "FIFO"):
        fields(V, name, inode(number), size=1, link=1, count=1)
    fields(V, "FIFO", inode(10), first=1)
    fields(V, "file", inode(3), link=[1, 99, WRAP])
    fields(FINE, "file", inode(9), seconds=[-1 << 63, (1 << 63) - 1], nanoseconds=999_999_999,
           uid=0xfffffffe, mode=0o107777)
    fields(U, "file", inode(9), uid=0xffffffff, gid=0xffffffff)
    fields(FINE, "file of nothing but a hole", inode(9), size=[1, 70_000, (1 << 63) - 1])
    fields(FINE, "empty directory", inode(11), first=0)
    fields(R, "empty run behind its table", inode(9), first=[1, 0xffffffff])
    fields(R, "empty run behind its table", inode(11), first=1)
    fields(R, "run that leaves its table", inode(4), count=[5, 0xffffffff], first=[5, 0xffffffff])
    fields(R, "run that leaves its table", inode(2), count=[2, 0xffffffff], first=[3, 0xffffffff])
    fields(R, "link", inode(7), first=0xffffffff, count=[0, 11, 0xffffffff], size=[0, 11, 13])
    for name, target, letter in (("empty", b"", R), ("with a NUL", b"a\0b", R), ("of 4096 bytes", b"x" * 4096, R),
                                 ("of 4095 bytes", b"x" * 4095, FINE), ("that is odd", b"\x1b[31m\xff\n//..", FINE)):
        mutant(letter, f"a target {name}", lambda draft, target=target: (
            draft.change_inode(7, size=len(target)),
            heap(1, "inodes", 0, "first", "count", target)(draft)))
    first, second = record(0, "extents", 2), record(0, "extents", 3)
    fields(R, "first extent", first, offset=[131073, WRAP], length=[0, 131073, 0xffffffff], pack=[2, 0xffffffff],
           pack_offset=[1 << 30, 0xffffffff])
    fields(R, "second extent", second, offset=[0, 8191, 300000, WRAP, WRAP - 100], length=[0, 300001, 0xffffffff],
           pack=[2, 0xffffffff], pack_offset=[300000, 0xffffffff])
    fields(V, "extent", first, reserved=1)
    mutant(FINE, "an extent that ends with its file", lambda draft: second(draft, offset=240001))
    fields(R, "an extent behind the end", inode(5), size=[0, 191071])
    mutant(R, "extents that run backwards", lambda draft: draft.shards[0].extents.__setitem__(
        slice(2, 4), draft.shards[0].extents[3:1:-1]))
    mutant(V, "extents of two files", lambda draft: draft.change_inode(4, first=0, size=5000, allocated=5000))
    mutant(R, "more extents than there are", lambda draft: (
        draft.shards[2].extents.pop(), draft.change_inode(14, first=0, size=100, allocated=100)))
    mutant(V, "an extent that no file has", lambda draft: draft.shards[2].extents.append(draft.shards[2].extents[0]))
    mutant(V, "a digest that no file has", lambda draft: draft.shards[2].digests.append(draft.shards[2].digests[0]))
    mutant(U, "another content digest", lambda draft: draft.shards[2].digests.__setitem__(
        0, draft.shards[2].digests[0]._replace(digest=b"x" * 32)))
    mutant(R, "a shard's number", lambda draft: draft.blobs.update({("first", 1): 8}))
    for number in range(3):
        mutant(R, f"half a record: shard {number}", lambda draft, number=number: setattr(
            draft.shards[number], "entries", [*draft.shards[number].entries, Raw(bytes(8))]))


def directories():
    """Spans and entries."""
    span, second = record(0, "spans", 0), record(0, "spans", 1)
    fields(R, "first span", span, before=[1, 5], shard=[1, 3, 0xffffffff], first=[1, 0xffffffff],
           count=[0, 4, 6, 0xffffffff], name=[0, 0xffffffff], name_length=[0, 4, 6, 0xffffffff])
    fields(R, "second span", second, before=[0, 4, 6, WRAP], shard=[0, 3], first=1, count=[0, 6])
    fields(V, "span", span, reserved=1)
    fields(V, "second span", second, count=4)
    mutant(R, "an empty span behind the last one", lambda draft: (
        draft.shards[2].spans.append(Span(1, 2, 0, 0, 0, 0, 0)), draft.change_inode(12, count=2)))
    mutant(R, "a span's name is not its first entry's", heap(0, "spans", 1, "name", "name_length", b"f"))
    for name, data, letter in (("empty", b"", R), (".", b".", R), ("..", b"..", R), ("with a slash", b"e/two", R),
                               ("with a NUL", b"e\0two", R), ("not sorted", b"c", R), ("twice", b"d-sparse", R),
                               ("behind the next span's", b"g", R), ("the next span's", b"f-link", R),
                               ("odd", b"e\x1b\xff \n", FINE), ("of 255 bytes", b"e" * 255, FINE)):
        mutant(letter, f"a name {name}", lambda draft, data=data: (
            heap(0, "entries", 4, "name", "name_length", data)(draft),
            draft.change_inode(ROOT, size=more(len(data) - 5))))
    entry = record(0, "entries", 4)
    fields(R, "entry", entry, inode=[0, 1, 15, WRAP], type=[0, 4, 10, 255], name=0xffffffff)
    fields(V, "entry", entry, reserved=1)
    mutant(V, "an entry names another file", lambda draft: entry(draft, inode=4))
    mutant(R, "a directory's entry has the root's number", lambda draft: entry(draft, inode=1, type=4))
    mutant(R, "a directory twice in one directory", lambda draft: entry(draft, inode=11, type=4))
    mutant(R, "a directory in two directories", lambda draft: record(2, "entries", 2)(draft, inode=11, type=4))
    mutant(R, "a directory in itself", lambda draft: record(2, "entries", 3)(draft, inode=12, type=4))
    mutant(R, "a directory in one below it", lambda draft: record(2, "entries", 3)(draft, inode=2, type=4))
    fields(R, "directory", inode(2), link=[0, 2, 7, 12, 15, WRAP])
    fields(R, "directory", inode(12), link=[1, 3, 12])
    mutant(V, "entries that no directory has", lambda draft: draft.shards[2].entries.append(
        Entry(14, *draft.shards[2].add_to_heap(b"more"), 8, 0)))
    mutant(V, "a span that no directory has", lambda draft: draft.shards[0].spans.append(draft.shards[0].spans[0]))
    mutant(V, "two directories with the same entries", lambda draft: (
        draft.shards[1].spans.append(Span(0, 2, 3, 1, *draft.shards[1].add_to_heap(b"deep"), 0)),
        draft.change_inode(11, count=1, size=20), draft.change_inode(14, nlink=2)))
    mutant(V, "an inode without a name", lambda draft: draft.shards[2].inodes.append(
        Inode(stat.S_IFIFO, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xffffffff, 0)))
    mutant(V, "directories that are in each other, and nowhere else", detach)
    mutant(V, "a directory whose spans jump between shards", scatter)


def scatter(draft):
    """Makes the last directory one whose entries are in turn in more shards than a reader keeps, all over again."""
    shards, rounds, last = 70, 150, draft.shards[2]
    last.spans.pop()
    last.entries.pop()
    draft.change_inode(12, count=shards * rounds, size=20 * shards * rounds)
    more_shards = [ShardDraft() for _ in range(shards)]
    for number in range(shards * rounds):
        name, shard = b"%04x" % number, more_shards[number % shards]
        shard.entries.append(Entry(14, *shard.add_to_heap(name), stat.S_IFREG >> 12, 0))
        last.spans.append(Span(number, 3 + number % shards, number // shards, 1, *last.add_to_heap(name), 0))
    draft.change_inode(14, nlink=shards * rounds)
    draft.shards += more_shards


def detach(draft):
    """Adds two directories that are each in the other."""
    last = draft.shards[2]
    for inode_number, other, name in (15, 16, b"one"), (16, 15, b"two"):
        last.inodes.append(Inode(stat.S_IFDIR | 0o755, 0, 0, 3, 19, 0, 0, 0, len(last.spans), 1, 0xffffffff, other))
        last.spans.append(Span(0, 2, len(last.entries), 1, *last.add_to_heap(name), 0))
        last.entries.append(Entry(other, *last.add_to_heap(name), 4, 0))


def xattrs():
    """Extended attributes."""
    for name, data, letter in (("no name", b"", R), ("no prefix", b"capability", R), ("another prefix", b"os2.x", R),
                               ("nothing behind the prefix", b"user.", R), ("another ACL", b"system.posix_acl", R),
                               ("more than an ACL", b"system.posix_acl_access.", R), ("a NUL", b"trusted.a\0b", R),
                               ("a name of 256 bytes", b"trusted." + b"x" * 248, R),
                               ("a name of 255 bytes", b"trusted." + b"x" * 247, FINE),
                               ("an odd name", b"trusted.\xff\n", FINE), ("a trusted one", b"trusted.a", FINE),
                               ("the default ACL", b"system.posix_acl_default", FINE),
                               ("not sorted", b"security.a", R), ("there twice", b"security.capability", R),
                               ("behind the next", b"user.f", R)):
        mutant(letter, f"xattr: {name}", heap(0, "xattrs", 1, "name", "name_length", data))
    mutant(R, "xattr: a value of more than 64 KiB", heap(0, "xattrs", 2, "value", "value_length", bytes(65537)))
    mutant(FINE, "xattr: a value of 64 KiB", heap(0, "xattrs", 2, "value", "value_length", bytes(65536)))
    for count, letter in (256, FINE), (257, R):
        mutant(letter, f"xattr: {count} names of 255 bytes", lambda draft, count=count: long_names(draft, count))
    fields(R, "xattr", record(0, "xattrs", 3), name=0xffffffff, name_length=0xffffffff, value=0xffffffff,
           value_length=0xffffffff)
    fields(R, "xattr set", record(0, "xattr_sets", 1), first=[4, 0xffffffff], count=[2, 0xffffffff])
    mutant(V, "xattr sets that overlap", lambda draft: record(0, "xattr_sets", 1)(draft, first=2))
    mutant(V, "a set that no inode has", lambda draft: draft.shards[0].xattr_sets.append(XattrSet(4, 0)))
    mutant(V, "an xattr that no set has", lambda draft: draft.shards[0].xattrs.append(draft.shards[0].xattrs[0]))


def long_names(draft, count):
    """Gives the second set so many xattrs with the longest names."""
    shard = draft.shards[0]
    shard.xattrs.pop()
    shard.xattr_sets[1] = XattrSet(len(shard.xattrs), count)
    shard.xattrs += [Xattr(*shard.add_to_heap(b"user.%0250d" % number), 0, 0) for number in range(count)]


for part in image, packs, inodes, directories, xattrs:
    part()
