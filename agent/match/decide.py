# SPDX-License-Identifier: Apache-2.0
"""From crops to matches: the probe of each track, one identity per face, one match per visit.

A single crop is never a match. What has to come together:

1. The track's probe (``agent.match.probe``), a mean of crops that agree with each other, reaches the threshold for
   this gallery and so many crops, and its lead over the second-best subject reaches the policy's margin. Anything else
   names nobody.
2. A subject belongs to one face. If two living tracks claim it, only the one with the better score keeps its claim; at
   equal scores neither does.
3. A track that names one person and then another is neither: its probe and its claim are dropped.
4. The subject was not matched a moment ago: while somebody stays in view, that is the same visit.
5. Liveness vouches for the track (``Vouch``); until it does the claim stands, and announces nobody.

Votes over single crops are gone: at FMR 1e-4 against one capture, two votes in three miss 0.110 of people, the mean of
the same three 0.042 (102 people of LFW with four pictures), and a swapped face is found by contradiction rather than by
a vote for somebody else.

Claims are kept per track and die with it. A track that named nobody has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec.structs import replace

from agent.embed.records import Embedding
from agent.match.policy import Policy
from agent.match.probe import RECHECK_NS, Probes, Seen
from agent.match.records import Candidate, Liveness, Match, Method
from agent.protocol.subject import SubjectId

VISIT_NS = 10_000_000_000  # after so long out of view a new match is a new visit, 10 s
# Below the threshold by so much at the first comparison, an attempt is over: two crops more have never made up for more
# than 0.032 (8 800 decisions drawn of 22 people's photos of different days), and 0.98 of strangers are below by more.
HOPELESS = 0.15
STANDING_NS = 3 * RECHECK_NS  # a claim that was not confirmed for so long is void: two rechecks were missed


Vouch = Callable[[int, SubjectId], Liveness]  # of a track that names a subject; ``failed`` may not be announced


class Decision(msgspec.Struct, frozen=True):
    """``matches`` become events; ``seen`` are all subjects confirmed in this frame, also those matched before.

    ``named`` says whom which track was compared as in this frame, whether liveness vouches for it or not.
    """

    matches: tuple[Match, ...]
    seen: tuple[Match, ...]
    named: Mapping[int, SubjectId]


class Claim(msgspec.Struct, frozen=True):
    """A track named ``subject``; ``held`` unless another track's better claim, or an equal one, took it."""

    subject: SubjectId
    score: float
    timestamp_ns: int
    held: bool = True


def unchecked(track_id: int, subject: SubjectId) -> Liveness:  # noqa: ARG001 - the same for everybody
    """Vouch for everybody where liveness is not checked."""
    return "not_checked"


class Decider:
    """Decides who each track is. One per camera; call ``forget`` with the tracker's ``gone`` before each frame."""

    def __init__(self, policy: Policy, *, visit_ns: int = VISIT_NS) -> None:
        self._policy = policy
        self._visit_ns = visit_ns
        self._probes = Probes(policy.probe)
        self._claims: dict[int, Claim] = {}
        self._named: dict[int, SubjectId] = {}  # whom the running probe of a track named first
        self._visits: dict[SubjectId, int] = {}
        self._thresholds: tuple[int, dict[int, float]] = (0, {})

    def forget(self, track_ids: Iterable[int]) -> None:
        """Overwrite the probes and drop the claims of tracks that died."""
        gone = tuple(track_ids)
        self._probes.forget(gone)
        for track_id in gone:
            self._drop(track_id)

    def forget_all(self) -> None:
        """Overwrite every probe: recognition pauses, an enrolment begins, no frames come, or the unit stops."""
        self._probes.forget_all()
        self._claims.clear()
        self._named.clear()

    def begin_act(self) -> None:
        """Somebody acts anew: what was seen before is void, and whoever comes is a new visit."""
        self.forget_all()
        self._visits.clear()

    def forget_subject(self, subject: SubjectId) -> None:
        """Forget a subject whose reference was erased; of no track is known whose it is, so every probe goes."""
        self.forget_all()
        self._visits.pop(subject, None)

    def wants(self, track_id: int, timestamp_ns: int) -> bool:
        """Whether another crop of this track could change anything now."""
        return self._probes.wants(track_id, timestamp_ns)

    def is_sure(self, track_id: int, embedding: Embedding) -> bool:
        """Whether a crop of this embedding confirms what the track was decided to be, whatever its mirror image is."""
        return self._probes.is_sure(track_id, embedding)

    def rests(self, track_id: int) -> bool:
        """Whether nothing is to be decided about this track for some time: it matched, or its attempt was given up."""
        return self._probes.rests(track_id)

    def take(self, track_id: int, seen: Seen, timestamp_ns: int) -> bool:
        """Add a crop to its track's probe; False when it contradicts it, which ends what the track was."""
        same = self._probes.add(track_id, seen, timestamp_ns)
        if not same:
            self._drop(track_id)
        return same

    def compare(
        self, compare: Callable[[Embedding], Candidate | None], timestamp_ns: int
    ) -> dict[int, Candidate | None]:
        """Compare every probe that is due; each is overwritten at once."""
        candidates = {}
        for track_id, probe in self._probes.due(timestamp_ns).items():
            candidates[track_id] = compare(probe)
            probe.wipe()
        return candidates

    def update(
        self,
        candidates: Mapping[int, Candidate | None],
        *,
        gallery_size: int,
        zone: str,
        timestamp_ns: int,
        vouch: Vouch = unchecked,
        method: Method = "face",
    ) -> Decision:
        """Decide about the tracks that were compared in this frame: ``candidates`` as ``compare`` gave them.

        It takes the whole frame at once, because rule 2 cannot be kept by looking at one track after the other.
        """
        self._claims = {i: c for i, c in self._claims.items() if 0 <= timestamp_ns - c.timestamp_ns < STANDING_NS}
        for track_id, candidate in candidates.items():
            if self._is_hopeless(track_id, candidate, gallery_size):
                self._probes.give_up(track_id)
            self._name(track_id, self._passed(track_id, candidate, gallery_size), timestamp_ns)
        named: dict[int, SubjectId] = {}
        confirmed: dict[SubjectId, tuple[Liveness, bool]] = {}
        for track_id in candidates:
            claim = self._claims.get(track_id)
            if claim is None or not self._is_best(track_id, claim):
                continue
            named[track_id] = claim.subject
            if (word := vouch(track_id, claim.subject)) != "failed":
                confirmed[claim.subject] = (word, self._is_new_visit(claim.subject, timestamp_ns))
        self._yield_claims()
        self._probes.settle([i for i, claim in self._claims.items() if claim.held], timestamp_ns)
        self._named = {i: s for i, s in self._named.items() if self._probes.crops(i)}
        self._visits = {s: at for s, at in self._visits.items() if 0 <= timestamp_ns - at < self._visit_ns}
        seen = tuple(Match(s, zone, timestamp_ns, liveness=w, method=method) for s, (w, _) in confirmed.items())
        return Decision(matches=tuple(m for m in seen if confirmed[m.subject][1]), seen=seen, named=named)

    def _passed(self, track_id: int, candidate: Candidate | None, gallery_size: int) -> Candidate | None:
        """The candidate if it keeps rule 1."""
        if candidate is None or candidate.margin < self._policy.margin:
            return None
        return candidate if candidate.score >= self._threshold(gallery_size, self._probes.crops(track_id)) else None

    def _is_hopeless(self, track_id: int, candidate: Candidate | None, gallery_size: int) -> bool:
        """Whether nobody is so near that more crops could change it."""
        needed = self._threshold(gallery_size, self._probes.crops(track_id)) - HOPELESS
        return candidate is None or not candidate.score >= needed

    def _threshold(self, gallery_size: int, crops: int) -> float:
        if self._thresholds[0] != gallery_size:
            self._thresholds = (gallery_size, {})
        known = self._thresholds[1]
        if crops not in known:
            known[crops] = self._policy.threshold(gallery_size, crops).value
        return known[crops]

    def _name(self, track_id: int, named: Candidate | None, timestamp_ns: int) -> None:
        """Note whom the track's probe named; rule 3."""
        self._claims.pop(track_id, None)
        if named is None:
            return
        if self._named.setdefault(track_id, named.subject) != named.subject:
            self.forget([track_id])
        else:
            self._claims[track_id] = Claim(named.subject, named.score, timestamp_ns)

    def _drop(self, track_id: int) -> None:
        self._claims.pop(track_id, None)
        self._named.pop(track_id, None)

    def _is_best(self, track_id: int, claim: Claim) -> bool:
        """Rule 2: whether every other claim to the subject is worse."""
        others = (c for i, c in self._claims.items() if i != track_id and c.subject == claim.subject)
        return all(claim.score > other.score for other in others)

    def _yield_claims(self) -> None:
        """Mark the claims that rule 2 takes away: their tracks are nobody, and stay in the way of equal ones."""
        self._claims = {i: replace(c, held=self._is_best(i, c)) for i, c in self._claims.items()}

    def _is_new_visit(self, subject: SubjectId, timestamp_ns: int) -> bool:
        last = self._visits.get(subject)
        self._visits[subject] = timestamp_ns
        return last is None or not 0 <= timestamp_ns - last < self._visit_ns
