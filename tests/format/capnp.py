# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The little of Cap'n Proto that the metadata blobs need: one struct of integers and Data fields."""

import struct

SEGMENTS_MAX = 512


class Malformed(Exception):
    """The bytes are no message, or not such a struct."""


class Struct:
    """The root struct of a message in the standard stream framing."""

    def __init__(self, blob):
        self.segments = _segments(blob)
        self.data, self.pointers = self._root()

    def unsigned(self, offset, size):
        """The integer of so many bytes at this byte of the data section; 0 if the section is shorter."""
        return int.from_bytes(self.data[offset:offset + size].ljust(size, b"\0"), "little")

    def bytes(self, number):
        """The Data field with this pointer number; empty if it is not there."""
        if number >= len(self.pointers):
            return b""
        segment, place = self.pointers[number]
        segment, place, word = self._follow(segment, place)
        if word == 0:
            return b""
        if word & 3 != 1 or word >> 32 & 7 != 2:
            raise Malformed("a field is no list of bytes")
        return self._slice(segment, place, word >> 35)

    def _root(self):
        segment, place, word = self._follow(0, 0)
        if word == 0:
            return b"", []
        if word & 3 != 0:
            raise Malformed("the root is no struct")
        words, pointers = word >> 32 & 0xffff, word >> 48
        self._slice(segment, place, (words + pointers) * 8)
        after = place + words
        return (self._slice(segment, place, words * 8),
                [(segment, after + number) for number in range(pointers)])

    def _word(self, segment, place):
        return int.from_bytes(self._slice(segment, place, 8), "little")

    def _slice(self, segment, place, length):
        """Bytes of a segment that begin at a word of it."""
        if not 0 <= segment < len(self.segments):
            raise Malformed("there is no such segment")
        data = self.segments[segment]
        if not 0 <= place * 8 <= len(data) or length > len(data) - place * 8:
            raise Malformed("a pointer leaves its segment")
        return data[place * 8:place * 8 + length]

    def _follow(self, segment, place):
        """The place that the pointer at `place` points to, and a word with its type and size."""
        word = self._word(segment, place)
        if word & 3 != 2:
            return segment, place + 1 + _offset(word), word
        pad_segment, pad = word >> 32, word >> 3 & 0x1fffffff
        if word & 4 == 0:
            word = self._word(pad_segment, pad)
            if word & 3 == 2:
                raise Malformed("a far pointer leads to another")
            return pad_segment, pad + 1 + _offset(word), word
        far, tag = self._word(pad_segment, pad), self._word(pad_segment, pad + 1)
        if far & 7 != 2:
            raise Malformed("a double far pointer leads to no far pointer")
        return far >> 32, far >> 3 & 0x1fffffff, tag


def _offset(word):
    offset = word >> 2 & 0x3fffffff
    return offset - (1 << 30) if offset >= 1 << 29 else offset


def _segments(blob):
    if len(blob) < 8:
        raise Malformed("shorter than a segment table")
    count = int.from_bytes(blob[:4], "little") + 1
    start = (4 + 4 * count + 7) // 8 * 8
    if count > SEGMENTS_MAX or start > len(blob):
        raise Malformed("too many segments")
    segments = []
    for length, in struct.iter_unpack("<I", blob[4:4 + 4 * count]):
        if length * 8 > len(blob) - start:
            raise Malformed("a segment is cut off")
        segments.append(blob[start:start + length * 8])
        start += length * 8
    return segments
