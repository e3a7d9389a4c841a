# SPDX-License-Identifier: Apache-2.0
"""A reference at rest: mean of the captures, rotated by a key of its own, sealed to its place.

Rotation. The unit vector is multiplied by H·D1·H·D2·H·D3, H the normalised Hadamard matrix and D the
diagonals of signs from HKDF-Expand-SHA-256(gallery secret, subject). The product is exactly orthogonal, so
nothing is lost, and with one key *per subject* two galleries cannot be aligned with each other, as they
can under one rotation per site (inner products between subjects would survive). It makes references
renewable and unlinkable in the sense of ISO/IEC 24745:2022. It does not make them irreversible: whoever
holds the secret turns them back. Structure: Yu et al., "Orthogonal Random Features", NeurIPS 2016.

Seal. AES-256-GCM (NIST SP 800-38D) under a random key per subject. The associated data bind subject,
model, format and unit, so that a row which is altered, swapped or moved elsewhere does not open.

Protection at rest rests on the seal and on where the keys lie; see ``keyring``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from agent.embed.records import EMBEDDING_DIM
from agent.errors import CaptureRefusedError
from agent.protocol.subject import SubjectId

Random = Callable[[int], bytes]
Vector = NDArray[np.float32]

MIN_CAPTURES = 3  # fewer do not average out a single bad capture
MAX_CAPTURES = 5  # more bring little and keep a person standing
KEY_BYTES = 32  # AES-256
NONCE_BYTES = 12  # SP 800-38D sec. 5.2.1.1; each key seals two messages, so random nonces do not collide
VECTOR_BYTES = EMBEDDING_DIM * 4  # float32, little endian
ROUNDS = 3
UNROTATE_ROWS = 512  # rows turned back at once, so that a large gallery needs little memory beside itself
PACKED_MOST = 127  # of a signed byte
MIN_MEAN_LENGTH = 0.2  # captures that cancel out are not of one face


def mean_reference(vectors: Sequence[Vector]) -> Vector:
    """Unit-length float32 (128,) mean of 3 to 5 unit vectors; CaptureRefusedError when they do not make one."""
    if not MIN_CAPTURES <= len(vectors) <= MAX_CAPTURES:
        raise CaptureRefusedError(
            f"{len(vectors)} captures were given: take {MIN_CAPTURES} to {MAX_CAPTURES}", reason="too_few_captures"
        )
    for vector in vectors:
        if vector.shape != (EMBEDDING_DIM,) or not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
            raise CaptureRefusedError(
                "a capture is not an embedding of this version: take the captures again", reason="bad_capture"
            )
    mean = np.mean(np.stack(vectors).astype(np.float64), axis=0)
    length = float(np.linalg.norm(mean))
    if length < MIN_MEAN_LENGTH:
        raise CaptureRefusedError(
            "the captures are not of one face: take them again with one person in view", reason="not_one_face"
        )
    reference: Vector = (mean / length).astype(np.float32)
    return reference


def pack(reference: Vector) -> bytes:
    """128 signed bytes of a unit vector: scores move by 0.0006 (standard deviation)."""
    return bytes(np.rint(reference / np.abs(reference).max() * PACKED_MOST).astype(np.int8).tobytes())


def unpack(packed: bytes) -> Vector:
    """Unit-length float32 (128,) of what ``pack`` made; ValueError when it is no direction."""
    vector = np.frombuffer(packed, np.int8).astype(np.float32)
    length = float(np.linalg.norm(vector))
    if vector.shape != (EMBEDDING_DIM,) or length == 0:
        raise ValueError("this is no reference")
    return vector / np.float32(length)


def rotation_signs(secret: bytes, subject: SubjectId) -> NDArray[np.float32]:
    """Diagonals D1, D2, D3 of one subject, float32 (3, 128) of -1 and 1."""
    info = b"postern/template-rotation/v1" + subject
    # Expand alone: the secret is 32 uniformly random bytes already (RFC 5869 sec. 3.3).
    bits = HKDFExpand(algorithm=hashes.SHA256(), length=ROUNDS * EMBEDDING_DIM // 8, info=info).derive(secret)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(np.float32) * np.float32(2) - np.float32(1)
    diagonals: NDArray[np.float32] = signs.reshape(ROUNDS, EMBEDDING_DIM)
    return diagonals


def rotate(vector: Vector, secret: bytes, subject: SubjectId) -> Vector:
    """Apply H·D1·H·D2·H·D3 to a float32 (128,) vector."""
    turned = vector[np.newaxis]
    for diagonal in rotation_signs(secret, subject)[::-1]:
        turned = _hadamard(turned * diagonal)
    rotated: Vector = turned[0]
    return rotated


def unrotate(rows: NDArray[np.float32], secret: bytes, subjects: Sequence[SubjectId]) -> None:
    """Turn the rotated rows of a float32 (n, 128) matrix back, in place; row i belongs to ``subjects[i]``."""
    for start in range(0, len(subjects), UNROTATE_ROWS):
        part = slice(start, start + UNROTATE_ROWS)
        signs = np.stack([rotation_signs(secret, subject) for subject in subjects[part]])
        turned = rows[part]
        for round_ in range(ROUNDS):
            turned = _hadamard(turned) * signs[:, round_]
        rows[part] = turned


def seal(content: bytes, *, key: bytes, place: bytes, random: Random) -> bytes:
    """Nonce, ciphertext and tag of ``content``, bound to ``place``."""
    nonce = random(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, place)


def unseal(sealed: bytes, *, key: bytes, place: bytes) -> bytes | None:
    """Content of a seal, or None if it, its key or its place is not the one it was made with."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
    except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
        return None


def place(kind: bytes, *parts: bytes) -> bytes:
    """Associated data of a seal: what it holds and where it belongs; length-prefixed, so parts cannot run together."""
    return b"postern/gallery/v1" + b"".join(len(part).to_bytes(4, "big") + part for part in (kind, *parts))


def _hadamard(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalised Walsh-Hadamard transform of each row (fast form: 7 passes for 128 columns)."""
    turned = rows
    width = 1
    while width < EMBEDDING_DIM:
        pairs = turned.reshape(len(rows), -1, 2, width)
        turned = np.concatenate([pairs[:, :, :1] + pairs[:, :, 1:], pairs[:, :, :1] - pairs[:, :, 1:]], axis=2)
        width *= 2
    return (turned.reshape(len(rows), EMBEDDING_DIM) / np.float32(np.sqrt(EMBEDDING_DIM))).astype(np.float32)
