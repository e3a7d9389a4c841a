# SPDX-License-Identifier: Apache-2.0
"""From candidates to matches: votes over a track, one identity per frame, one match per visit.

A single comparison is never a match. What has to come together:

1. The candidate's score reaches the threshold for this gallery, and its lead reaches the policy's margin.
   Anything else is a vote for nobody.
2. In one frame a subject belongs to one face. If two tracks claim it, only the better keeps its vote; at
   equal scores neither does.
3. ``needed`` of the last ``of`` votes of the track name the subject, within the policy's time.
4. No vote in that window names another subject: a track that claims two people is neither of them.
5. The subject was not matched a moment ago: while somebody stays in view, that is the same visit.

Votes are kept per track and die with it. A vote for nobody has no content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.detect.track import MAX_TRACKS
from agent.match.policy import Policy, Threshold
from agent.match.records import Candidate, Match
from agent.subject import SubjectId

MAX_VOTERS = 2 * MAX_TRACKS  # tracks with votes: the living ones, and those whose end was not yet told
VISIT_NS = 10_000_000_000  # after so long out of view a new match is a new visit, 10 s
RECHECK_NS = 1_000_000_000  # a decided or hopeless track is probed once a second instead of on every frame
PATIENCE = 30  # probes without a match after which a track counts as hopeless: 1 to 2 s of facing the camera


@dataclass(frozen=True, slots=True)
class Decision:
    """``matches`` become events; ``seen`` are all subjects confirmed in this frame, also those matched before."""

    matches: tuple[Match, ...]
    seen: tuple[Match, ...]


@dataclass(slots=True)
class _Ballot:
    votes: deque[tuple[int, SubjectId | None]]
    probes: int = 0
    decided: SubjectId | None = None
    last_probe_ns: int = field(default=0)


class Voter:
    """Counts votes per track. One per camera; call ``forget`` with the tracker's ``gone`` before each ``update``."""

    def __init__(self, policy: Policy, *, visit_ns: int = VISIT_NS) -> None:
        self._policy = policy
        self._visit_ns = visit_ns
        self._ballots: dict[int, _Ballot] = {}
        self._visits: dict[SubjectId, int] = {}
        self._threshold: tuple[int, Threshold] = (0, policy.threshold(0))

    def forget(self, track_ids: Iterable[int]) -> None:
        """Drop the votes of tracks that died."""
        for track_id in track_ids:
            self._ballots.pop(track_id, None)

    def forget_subject(self, subject: SubjectId) -> None:
        """Drop every vote for a subject whose reference was erased."""
        self._visits.pop(subject, None)
        self._ballots = {i: b for i, b in self._ballots.items() if all(s != subject for _, s in b.votes)}

    def wants(self, track_id: int, timestamp_ns: int) -> bool:
        """Whether another embedding of this track could change anything now.

        A track that was just confirmed, or that failed ``PATIENCE`` times, is probed once per second only: an
        embedding that decides nothing need not be made, and trying faces against the gallery is slowed down.
        """
        ballot = self._ballots.get(track_id)
        if ballot is None or timestamp_ns - ballot.last_probe_ns >= RECHECK_NS:
            return True
        if ballot.votes[-1][1] != ballot.decided:
            return True  # the last vote surprised: look again at once
        return ballot.decided is None and ballot.probes < PATIENCE

    def update(
        self, claims: Mapping[int, Candidate | None], *, gallery_size: int, zone: str, timestamp_ns: int
    ) -> Decision:
        """Count one vote for each probed track of this frame and decide.

        ``claims`` maps the id of each track that was embedded in this frame to its candidate. It takes the whole
        frame at once, because rule 2 cannot be kept by looking at one track after the other.
        """
        winners = self._winners(claims, self._threshold_for(gallery_size))
        confirmed: dict[SubjectId, bool] = {}
        for track_id in claims:
            subject = winners.get(track_id)
            decided = self._vote(track_id, subject, timestamp_ns)
            if decided is not None and decided == subject:
                confirmed[decided] = self._is_new_visit(decided, timestamp_ns)
        self._visits = {s: at for s, at in self._visits.items() if 0 <= timestamp_ns - at < self._visit_ns}
        seen = tuple(Match(subject=s, zone=zone, timestamp_ns=timestamp_ns) for s in confirmed)
        return Decision(matches=tuple(m for m in seen if confirmed[m.subject]), seen=seen)

    def _threshold_for(self, gallery_size: int) -> Threshold:
        if self._threshold[0] != gallery_size:
            self._threshold = (gallery_size, self._policy.threshold(gallery_size))
        return self._threshold[1]

    def _winners(self, claims: Mapping[int, Candidate | None], threshold: Threshold) -> dict[int, SubjectId]:
        """Track id to subject for the claims that pass rules 1 and 2."""
        by_subject: dict[SubjectId, list[tuple[float, int]]] = {}
        for track_id, candidate in claims.items():
            if candidate is not None and candidate.score >= threshold.value and candidate.margin >= self._policy.margin:
                by_subject.setdefault(candidate.subject, []).append((candidate.score, track_id))
        winners = {}
        for subject, scores in by_subject.items():
            scores.sort(reverse=True)
            if len(scores) == 1 or scores[0][0] > scores[1][0]:
                winners[scores[0][1]] = subject
        return winners

    def _vote(self, track_id: int, subject: SubjectId | None, timestamp_ns: int) -> SubjectId | None:
        """Count a vote; the subject that rules 3 and 4 give the track, if any."""
        ballot = self._ballots.get(track_id)
        if ballot is None:
            while len(self._ballots) >= MAX_VOTERS:
                del self._ballots[next(iter(self._ballots))]
            ballot = self._ballots[track_id] = _Ballot(deque(maxlen=self._policy.votes.of))
        votes = ballot.votes
        votes.append((timestamp_ns, subject))
        while not 0 <= timestamp_ns - votes[0][0] <= self._policy.votes.within_ms * 1_000_000:
            votes.popleft()
        ballot.last_probe_ns = timestamp_ns
        ballot.probes += 1
        named = [s for _, s in votes if s is not None]
        if len(set(named)) > 1:
            ballot.decided = None
        elif len(named) >= self._policy.votes.needed:
            ballot.decided = named[0]
        elif ballot.decided is not None and ballot.decided not in named:
            ballot.decided = None  # nobody has confirmed it for a whole window
        return ballot.decided

    def _is_new_visit(self, subject: SubjectId, timestamp_ns: int) -> bool:
        last = self._visits.get(subject)
        self._visits[subject] = timestamp_ns
        return last is None or not 0 <= timestamp_ns - last < self._visit_ns
