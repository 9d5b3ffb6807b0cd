# SPDX-License-Identifier: GPL-2.0 OR MIT
"""The key of a realm, as Documentation/format.md has it. ChaCha20 itself is OpenSSL's."""

import ctypes
import hashlib
import hmac
import struct

IV_SIZE = 16
CHUNK, SHARD, ROOT_RECORD = 1, 2, 3

_crypto = ctypes.CDLL("libcrypto.so.3")
_crypto.EVP_CIPHER_CTX_new.restype = _crypto.EVP_chacha20.restype = ctypes.c_void_p
_crypto.EVP_CIPHER_CTX_free.argtypes = [ctypes.c_void_p]
_crypto.EVP_EncryptInit_ex.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
_crypto.EVP_EncryptUpdate.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.c_char_p,
                                      ctypes.c_int]


def _chacha20(key, data):
    """By a nonce and a first block of zeros."""
    context = _crypto.EVP_CIPHER_CTX_new()
    output, length = ctypes.create_string_buffer(len(data) + 64), ctypes.c_int()
    done = (_crypto.EVP_EncryptInit_ex(context, _crypto.EVP_chacha20(), None, key, bytes(16)) == 1
            and _crypto.EVP_EncryptUpdate(context, output, ctypes.byref(length), data, len(data)) == 1)
    _crypto.EVP_CIPHER_CTX_free(context)
    assert done and length.value == len(data)
    return output.raw[:len(data)]


def _hchacha20(key, nonce):
    x = list(struct.unpack("<4I8I4I", b"expand 32-byte k" + key + nonce))

    def turn(a, b, c, d):
        for to, by, other, bits in (a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7):
            x[to] = (x[to] + x[by]) & 0xffffffff
            x[other] ^= x[to]
            x[other] = (x[other] << bits | x[other] >> 32 - bits) & 0xffffffff

    for _ in range(10):
        for column in range(4):
            turn(column, column + 4, column + 8, column + 12)
        for column in range(4):
            turn(column, (column + 1) % 4 + 4, (column + 2) % 4 + 8, (column + 3) % 4 + 12)
    return struct.pack("<8I", *x[:4], *x[12:])


class Realm:
    """What a key is good for."""

    def __init__(self, key):
        def derive(label):
            return hmac.digest(key, b"peerfs realm 1 " + label + b"\x01", "sha256")
        self.encryption = derive(b"encryption")
        self.vectors = derive(b"initialization vector")
        self.contents = derive(b"content digest")
        self.id = derive(b"key id")[:16]

    @classmethod
    def of_file(cls, path):
        """The one of a file that `peerfs key realm` has made."""
        with open(path, encoding="ascii") as file:
            return cls(bytes.fromhex(file.read().splitlines()[1]))

    def apply(self, vector, data):
        """Encrypts, or decrypts."""
        return _chacha20(_hchacha20(self.encryption, vector), data)

    def vector(self, kind, codec, data):
        return hmac.digest(self.vectors, bytes([kind, codec]) + data, "sha256")[:IV_SIZE]

    def content(self, data):
        """What pack contents have for a chunk."""
        return hmac.digest(self.contents, hashlib.sha256(data).digest(), "sha256")
