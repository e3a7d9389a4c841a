# SPDX-License-Identifier: Apache-2.0
"""When a decision is sure enough: the threshold follows from the gallery's size and from what was averaged.

A decision compares the mean of ``probes`` crops of one track with references that are means of ``captures`` captures.
Averaging narrows a person's own scores, and raises those of some pairs of strangers, so each kind of decision has its
own table (``agent.match.tail``). Comparing a stranger with N references gives N chances of a false match: FPIR is about
N times FMR (ISO/IEC 19795-1:2021 terms). A track is compared up to ``Probing.looks`` times per attempt, and each look
gets its share of the target FPIR, so that the attempt keeps it however alike its looks are (Bonferroni).

The site chooses one of three target FPIRs; for each the policy says which FNIR was measured in galleries of which size.

A policy comes as a compact JWS (RFC 7515) by the site's key with the type ``postern-policy+jws``. An unsigned one,
another key's, one signed for another use, one for another model and one of an older version are refused.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
import rfc8785
from msgspec import Meta

from agent.errors import PolicyError, VerificationError, printable
from agent.keys import PublicKey, SigningKey
from agent.match.tail import Tail, Threshold
from agent.parse.strict_json import StrictJsonError, decode
from agent.protocol.names import Digest

POLICY_TYPE = "postern-policy+jws"
# How faces are cut counts into every score, and no digest of a model tells it: whoever changes what
# tests/unit/test_crops.py holds raises this number, and calibrates the shipped policy anew.
CROPS = 1
MAX_POLICY_BYTES = 8 * 1024  # with its signature it has to fit into a command of 16 KiB, twice in base64; 5 are needed

OLD_VERSIONS: dict[int | None, str] = {
    1: "version 1, which was measured on single pictures",
    2: "version 2, which bound the weights of the embedder and nothing else",
    3: "version 3, which did not say how the crops were cut on which it was measured",
}
SIGN_THIS_ONE = (
    "have the site sign the policy that comes with this version (postern site policy models/policy.json)"
    " and install that"
)
TARGETS = (1e-2, 1e-3, 1e-4)  # FPIRs per attempt that a site may choose from
SAME_FACE_FMR = 1e-3  # at which two single captures of an enrolment count as one face's: they are seconds apart
MILLION = 1_000_000

Ppm = Annotated[int, Meta(ge=0, le=MILLION, description="parts per million")]
Cosine = Annotated[float, Meta(ge=-1, le=1)]


class Probing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a track's crops become a probe: compared once ``first`` of them were gathered, again at ``most``.

    They are ``spacing_ms`` apart at least. A crop whose mirror image embeds with a cosine below ``mirror`` is not used;
    one whose cosine to the mean so far is below ``agreement`` is another face.
    """

    first: Annotated[int, Meta(ge=1, le=16)]
    most: Annotated[int, Meta(ge=1, le=16)]
    spacing_ms: Annotated[int, Meta(ge=20, le=2000)]
    mirror: Cosine
    agreement: Cosine

    @property
    def looks(self) -> int:
        """Comparisons per attempt at most."""
        return 1 if self.first == self.most else 2


class Misses(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """FNIR of a decision in galleries of ``gallery`` people at ``target`` FPIR, with its 95 % interval over people."""

    target: Annotated[float, Meta(gt=0, lt=0.1)]
    gallery: Annotated[int, Meta(ge=1, le=MILLION)]
    fnir_ppm: Ppm
    low_ppm: Ppm
    high_ppm: Ppm


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured of means of ``probes`` crops against means of ``captures``; ``people`` were searched for."""

    probes: Annotated[int, Meta(ge=1, le=16)]
    captures: Annotated[int, Meta(ge=1, le=16)]
    impostors: Tail
    people: Annotated[int, Meta(ge=0)]
    misses: Annotated[tuple[Misses, ...], Meta(max_length=32)]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How sure a match must be, for one embedder behind one of ``detectors``: whole entries, not weights alone.

    It was measured on crops that were cut as ``crops`` says; another number than ``CROPS`` is refused when it is read.
    References of ``formerly`` are of the same embedder, named as releases up to 0.1 named it: by its weights.

    Among ``decisions`` is that of one capture against one, by which an enrolment tells faces apart. Those with
    ``captures`` captures are the unit's: the fewest that a reference has. Captures of one session are more alike than
    the pictures of different days that were measured: five of them are no more than that.
    """

    version: Literal[4]
    crops: Annotated[int, Meta(ge=1)]
    model: Digest
    detectors: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=8)]
    target_fpir: Annotated[float, Meta(gt=0, lt=0.1)]
    margin: Annotated[float, Meta(ge=0, le=1)]
    probe: Probing
    captures: Annotated[int, Meta(ge=1, le=16)]
    decisions: Annotated[tuple[Decision, ...], Meta(min_length=1, max_length=16)]
    formerly: Digest | None = None

    def __post_init__(self) -> None:
        if self.target_fpir not in TARGETS:
            raise ValueError(f"target_fpir must be one of {', '.join(f'{t:g}' for t in TARGETS)}")
        if self.probe.first > self.probe.most:
            raise ValueError("probe.first is larger than probe.most")
        if not any(one.captures == self.captures and one.probes <= self.probe.first for one in self.decisions):
            raise ValueError("decisions say nothing about so few probes as probe.first against so many captures")
        if not any((one.probes, one.captures) == (1, 1) for one in self.decisions):
            raise ValueError("decisions say nothing about one probe against one capture")

    @property
    def digest(self) -> str:
        """``sha256:…`` over the canonical JSON (RFC 8785), as it stands in every event."""
        return "sha256:" + hashlib.sha256(self.canonical()).hexdigest()

    @property
    def same_face(self) -> float:
        """Comparison score from which two single captures are of one face."""
        return self.single.threshold(SAME_FACE_FMR).value

    @property
    def single(self) -> Tail:
        """The impostor tail of one crop against one capture."""
        return next(one.impostors for one in self.decisions if (one.probes, one.captures) == (1, 1))

    @property
    def measured_references(self) -> int:
        """Up to how many references the threshold was measured, and not extrapolated; 0: it never was."""
        return self._most(self.decision(self.probe.first).impostors.measured_to)

    @property
    def covered_references(self) -> int:
        """Up to how many references there is a threshold that keeps the target FPIR, measured or extrapolated."""
        return self._most(self.decision(self.probe.first).impostors.points[-1].fmr)

    def canonical(self) -> bytes:
        """Bytes that are signed: canonical JSON (RFC 8785)."""
        return rfc8785.dumps(msgspec.to_builtins(self))

    def threshold(self, gallery_size: int, probes: int) -> Threshold:
        """Threshold at which a gallery of ``gallery_size`` keeps the target FPIR for a mean of ``probes`` crops.

        ``rate`` is the FPIR of the whole attempt.
        """
        looks, size = self.probe.looks, max(gallery_size, 1)
        found = self.decision(probes).impostors.threshold(self.target_fpir / looks / size)
        return Threshold(found.value, min(found.rate * size * looks, 1.0), found.state)

    def misses(self, gallery_size: int) -> Misses | None:
        """The FNIR that was measured for the first look in the next larger gallery; None beyond the largest one."""
        fitting = [
            one
            for one in self.decision(self.probe.first).misses
            if one.gallery >= gallery_size and one.target == self.target_fpir
        ]
        return min(fitting, key=lambda one: one.gallery, default=None)

    def decision(self, probes: int) -> Decision:
        """What was measured of means of ``probes`` crops, or of the next fewer; at worst of the fewest."""
        known = sorted((one for one in self.decisions if one.captures == self.captures), key=lambda one: one.probes)
        return next((one for one in reversed(known) if one.probes <= probes), known[0])

    def _most(self, fmr: float) -> int:
        """Largest gallery that needs no smaller FMR than ``fmr``; the same arithmetic as ``threshold``."""
        most = round(self.target_fpir / self.probe.looks / fmr)
        return most if most < 1 or self.target_fpir / self.probe.looks / most >= fmr else most - 1


def parse_policy(content: bytes) -> Policy:
    """Read an unsigned policy, as the calibration writes it; PolicyError says what is wrong with it."""
    if len(content) > MAX_POLICY_BYTES:
        raise PolicyError(f"the policy is longer than {MAX_POLICY_BYTES} bytes: this is not a matching policy")
    try:
        policy = decode(content, Policy, MAX_POLICY_BYTES, floats=True)
    except StrictJsonError as error:
        if (lacks := OLD_VERSIONS.get(_version(content))) is not None:
            raise PolicyError(f"the policy is of {lacks}: {SIGN_THIS_ONE}") from error
        raise PolicyError(
            f"the policy is not acceptable: {printable(str(error))}; calibrate it again for this version"
        ) from error
    if policy.crops != CROPS:
        raise PolicyError(f"the policy was measured on faces that were cut in another way: {SIGN_THIS_ONE}")
    return policy


def _version(content: bytes) -> int | None:
    try:
        found = decode(content, dict[str, Any], MAX_POLICY_BYTES, floats=True).get("version")
    except StrictJsonError:
        return None
    return found if isinstance(found, int) else None


def sign_policy(policy: Policy, key: SigningKey) -> str:
    """Compact JWS of ``policy`` by the site's key."""
    return key.sign(policy.canonical(), typ=POLICY_TYPE)


def verify_policy(token: str, site_key: PublicKey, *, model: str, detector: str | None = None) -> Policy:
    """Return the policy inside ``token`` if the site signed it for the model with digest ``model``.

    With ``detector`` (see ``detector_digest``) also that must be one that it was signed for.

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
    if detector is not None and detector not in policy.detectors:
        raise PolicyError(
            "the policy was signed for other detectors: restore the manifest, or have the site sign the policy that"
            " belongs to this detector and its landmark model"
        )
    return policy
