# SPDX-License-Identifier: Apache-2.0
"""When a comparison score is high enough: the threshold follows from the size of the gallery.

Comparing a stranger with N references gives N chances of a false match, so FPIR is about N times FMR
(ISO/IEC 19795-1:2021 terms). The policy carries the tail of the impostor scores that was measured for one
model, as pairs of FMR and threshold, and the target FPIR; the threshold for a gallery is read off that
table. Beyond the table nothing was measured, so nothing is made up: the strictest measured threshold is
used and the result says which FPIR that can be relied on for.

A policy comes as a compact JWS (RFC 7515) by the site's key with the type ``postern-policy+jws``. An
unsigned one, another key's, one signed for another use and one for another model are refused.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
import rfc8785
from msgspec import Meta

from agent.errors import PolicyError, VerificationError, printable
from agent.keys import PublicKey, SigningKey
from agent.protocol.names import Digest
from agent.strict_json import StrictJsonError, decode

POLICY_TYPE = "postern-policy+jws"
MAX_POLICY_BYTES = 32 * 1024  # a table of 64 rows needs about 4 KiB

# Rule of three: with no error in n independent trials, the rate is below 3/n at 95 % (Hanley and
# Lippman-Hand, JAMA 1983). A smaller FMR than that is not measured but hoped for.
RULE_OF_THREE = 3.0


class TailPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share ``fmr`` of the measured impostor scores reached ``threshold``."""

    fmr: Annotated[float, Meta(gt=0, lt=1)]
    threshold: Annotated[float, Meta(gt=-1, le=1)]


class Votes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``needed`` of the last ``of`` probes of a track must name the same subject, all within ``within_ms``."""

    needed: Annotated[int, Meta(ge=1, le=32)]
    of: Annotated[int, Meta(ge=1, le=32)]
    within_ms: Annotated[int, Meta(ge=100, le=10_000)]


@dataclass(frozen=True, slots=True)
class Threshold:
    """The smallest comparison score that counts, and the FPIR that the measurement supports at it.

    ``measured`` is false when the gallery needs a smaller FMR than was ever measured: ``value`` is then the
    strictest one of the table and ``fpir`` is above the target.
    """

    value: float
    fpir: float
    measured: bool


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sure a match must be, for one model. ``impostor_pairs`` is how many comparisons the table rests on."""

    version: Literal[1]
    model: Digest
    target_fpir: Annotated[float, Meta(gt=0, lt=0.1)]
    impostor_pairs: Annotated[int, Meta(ge=1)]
    impostor_tail: Annotated[tuple[TailPoint, ...], Meta(min_length=2, max_length=64)]
    margin: Annotated[float, Meta(ge=0, le=1)]
    votes: Votes

    def __post_init__(self) -> None:
        for a, b in pairwise(self.impostor_tail):
            if not (a.fmr > b.fmr and a.threshold < b.threshold):
                raise ValueError("impostor_tail must run from a large fmr and low threshold to a small and high one")
        if self.impostor_tail[-1].fmr * self.impostor_pairs < RULE_OF_THREE:
            raise ValueError("impostor_tail claims a smaller fmr than impostor_pairs can support (rule of three)")
        if self.votes.needed > self.votes.of:
            raise ValueError("votes.needed is larger than votes.of")

    @property
    def digest(self) -> str:
        """``sha256:…`` over the canonical JSON (RFC 8785), as it stands in every event."""
        return "sha256:" + hashlib.sha256(self.canonical()).hexdigest()

    @property
    def measured_references(self) -> int:
        """How many references the measurement covers: in a larger gallery the target FPIR cannot be relied on."""
        most = round(self.target_fpir / self.impostor_tail[-1].fmr)
        return most if most < 1 or self.threshold(most).measured else most - 1

    def canonical(self) -> bytes:
        """Bytes that are signed: canonical JSON (RFC 8785)."""
        return rfc8785.dumps(msgspec.to_builtins(self))

    def threshold(self, gallery_size: int) -> Threshold:
        """Threshold at which a gallery of ``gallery_size`` references keeps the target FPIR.

        Between two measured points the threshold is taken linear in log FMR, as the tail of a cosine
        distribution nearly is. A target laxer than the first point uses the first point.
        """
        size = max(gallery_size, 1)
        wanted = self.target_fpir / size
        first, last = self.impostor_tail[0], self.impostor_tail[-1]
        if wanted >= first.fmr:
            return Threshold(first.threshold, size * first.fmr, measured=True)
        if wanted < last.fmr:
            return Threshold(last.threshold, min(size * last.fmr, 1.0), measured=False)
        a, b = next(pair for pair in pairwise(self.impostor_tail) if wanted >= pair[1].fmr)
        share = math.log(a.fmr / wanted) / math.log(a.fmr / b.fmr)
        return Threshold(a.threshold + share * (b.threshold - a.threshold), self.target_fpir, measured=True)


def parse_policy(content: bytes) -> Policy:
    """Read an unsigned policy, as the calibration writes it; PolicyError says what is wrong with it."""
    if len(content) > MAX_POLICY_BYTES:
        raise PolicyError(f"the policy is longer than {MAX_POLICY_BYTES} bytes: this is not a matching policy")
    try:
        return decode(content, Policy, MAX_POLICY_BYTES, floats=True)
    except StrictJsonError as error:
        raise PolicyError(
            f"the policy is not acceptable: {printable(str(error))}; calibrate it again for this version"
        ) from error


def sign_policy(policy: Policy, key: SigningKey) -> str:
    """Compact JWS of ``policy`` by the site's key."""
    return key.sign(policy.canonical(), typ=POLICY_TYPE)


def verify_policy(token: str, site_key: PublicKey, *, model: str) -> Policy:
    """Return the policy inside ``token`` if the site signed it for the model with digest ``model``.

    Raises PolicyError otherwise; the message says what to do.
    """
    if len(token) > 2 * MAX_POLICY_BYTES:  # base64url adds a third
        raise PolicyError("the policy file is too long: this is not a matching policy")
    try:
        content = site_key.verify(token.strip(), typ=POLICY_TYPE)
    except VerificationError as error:
        raise PolicyError(f"the policy is refused: {error}; have it signed anew by the site's key") from error
    policy = parse_policy(content)
    if policy.model != model:
        raise PolicyError("the policy was measured for another model: install the policy that belongs to this embedder")
    return policy
