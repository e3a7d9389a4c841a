# SPDX-License-Identifier: Apache-2.0
"""The probe of a visit: the mean of a few crops of one track, spread over it.

One crop misses an enrolled person far more often than the mean of three (at FMR 1e-4 against one capture 0.167 to
0.042), and a crop whose mirror image embeds elsewhere is one that the network does not understand (without the worst
tenth 0.127 and 0.028). So a track gathers up to ``most`` crops,
``spacing_ms`` apart, uses those whose mirror image agrees, and keeps the sum of their unit vectors: never the crops,
never the single vectors. Where one crop after the other is refused, as in the dark, they are used after all: what
strangers reach does not depend on it (0.446 and 0.449 at FMR 1e-4 with and without the worst tenth of pictures).

A crop that contradicts the mean so far is another face (two people on one track, a face that was swapped): the sum is
overwritten, the track starts anew with that crop, and whatever it was decided to be is void.

How long a sum lives, whoever it is of: until its track dies, recognition pauses, an enrolment begins, somebody is
erased or the unit stops (``forget``, ``forget_all``); of somebody who matched nobody at most ``MAX_AGE_NS``, and no
longer than until the last comparison of the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from agent.detect.track import MAX_TRACKS
from agent.embed.records import EMBEDDING_DIM, Crop, Embedding
from agent.match.pace import Pace
from agent.match.policy import Probing

MAX_PROBES = 2 * MAX_TRACKS  # the living tracks, and those whose end was not yet told
MAX_AGE_NS = 10_000_000_000  # 10 s: who has not come to a decision by then turned away, or is seen too badly
RECHECK_NS = 1_000_000_000  # a decided track is looked at once a second, for presence
# Pauses after an attempt that decided nothing: 1, 2, 4, then 8 s. Trying faces against the gallery is slowed down, and
# somebody who takes off a mask is not kept waiting for long.
FIRST_REST_NS, LONGEST_REST_NS = 1_000_000_000, 8_000_000_000
SMALLEST_LENGTH = 1e-6  # of a vector that is scaled: zeros stay zeros
# Cosine to the mean of a decided track from which a crop needs no mirror image to confirm it: of one person's photos of
# different days two thirds reach it, of two people's none of two million (0.57 at most).
SURE = 0.7
MAX_REFUSED = 4  # crops in a row, under a second: then it is not a bad moment but bad light, and waiting brings nothing
MAX_TRIES = 10  # crops per attempt, refused ones included: every other one may be refused before it is given up


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Seen:
    """One crop as the network sees it, and the cosine of its vector to its mirror image's."""

    embedding: Embedding
    mirror: float


def both_ways(
    embed: Callable[[Crop], Embedding], crop: Crop, *, enough: Callable[[Embedding], bool] = lambda _: False
) -> Seen:
    """Embed a crop, uint8 (112, 112, 3), and its mirror image, which is overwritten with its vector.

    The mirror image is left out, and taken to agree, where ``enough`` says so of the crop's own embedding.

    That vector does not join the mean: it lowers the misses of single pictures (FNMR at FMR 1e-4 from 0.128 to 0.119),
    but not those of means of three, whose threshold it raises by as much as it raises their scores.
    """
    embedding = embed(crop)
    if enough(embedding):
        return Seen(embedding, 1.0)
    mirrored = np.empty_like(crop)
    for channel in range(crop.shape[2]):  # numpy copies pixels of three bytes in four times the time
        mirrored[..., channel] = crop[:, ::-1, channel]
    other = embed(mirrored)
    mirrored.fill(0)
    agreement = float(embedding.vector @ other.vector)
    other.wipe()
    return Seen(embedding, agreement)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Probe:
    """The sum of a track's unit vectors, float32 (128,), and how it came about; times are sensor times in ns.

    ``crops`` of ``tries`` were used in this attempt, the last ``refused`` were unclear; ``compared`` of those that were
    used were in the last comparison. ``rest_ns`` is
    the pause after the attempt before, ``resting_ns`` until when it lasts. ``settled``: the track is decided;
    ``named``: it was once, so that this face is none that was tried in vain.
    """

    model: str
    total: np.ndarray[tuple[int], np.dtype[np.float32]]
    began_ns: int
    tried_ns: int
    crops: int = 0
    tries: int = 0
    refused: int = 0
    compared: int = 0
    rest_ns: int = 0
    resting_ns: int | None = None
    settled: bool = False
    named: bool = False

    def mean(self) -> Embedding:
        """The probe, for one comparison."""
        return Embedding(unit(self.total), self.model)

    def wipe(self) -> None:
        """Overwrite the sum."""
        self.total.fill(0)


def unit(
    total: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A float32 (128,) vector scaled to length 1; zeros stay zeros, and match nobody."""
    return total / np.float32(max(float(np.linalg.norm(total)), SMALLEST_LENGTH))


def begun(model: str, now_ns: int, *, rest_ns: int) -> Probe:
    """An empty probe."""
    return Probe(model, np.zeros(EMBEDDING_DIM, np.float32), now_ns, now_ns, rest_ns=rest_ns)


def contradicts(probe: Probe, seen: Seen, rules: Probing) -> bool:
    """Whether the crop shows another face than the crops before it; also when it is not made of finite numbers."""
    return probe.crops > 0 and not float(unit(probe.total) @ seen.embedding.vector) >= rules.agreement


def is_used(probe: Probe, seen: Seen, rules: Probing) -> bool:
    """Whether the crop is clear enough, after those before it."""
    return seen.mirror >= rules.mirror or probe.refused >= MAX_REFUSED


def gathered(probe: Probe, seen: Seen, rules: Probing, now_ns: int) -> Probe:
    """``probe`` with one crop more. Beyond ``most`` crops the older ones fade: a long visit follows the face."""
    refused = 0 if seen.mirror >= rules.mirror else probe.refused + 1
    tried = replace(probe, tried_ns=now_ns, tries=probe.tries + 1, refused=refused)
    if not is_used(probe, seen, rules):
        return tried
    if probe.crops >= rules.most:
        probe.total.__imul__(np.float32((rules.most - 1) / rules.most))
    probe.total.__iadd__(seen.embedding.vector)
    return replace(tried, crops=min(probe.crops + 1, rules.most), compared=0 if probe.settled else probe.compared)


def is_due(probe: Probe, rules: Probing) -> bool:
    """Whether the probe holds as many crops as one of its comparisons wants, and was not compared with them."""
    if probe.settled:
        return probe.compared == 0
    return probe.crops in (rules.first, rules.most) and probe.compared < probe.crops


def is_over(probe: Probe, rules: Probing) -> bool:
    """Whether an attempt that decided nothing has nothing more to gather."""
    return not probe.settled and (probe.compared >= rules.most or probe.tries >= MAX_TRIES)


class Probes:
    """The running probes of one camera's tracks. Single-threaded, as the pipeline that owns it."""

    def __init__(self, rules: Probing) -> None:
        self.rules = rules
        self._held: dict[int, Probe] = {}
        self._pace = Pace()

    def __len__(self) -> int:
        return sum(probe.crops > 0 for probe in self._held.values())

    def wants(self, track_id: int, now_ns: int) -> bool:
        """Whether another crop of this track could change anything now."""
        probe = self._held.get(track_id)
        if probe is None:
            return not self._pace.holds(now_ns)
        since = now_ns - probe.tried_ns
        if probe.resting_ns is not None:
            return not 0 <= probe.resting_ns - now_ns <= LONGEST_REST_NS
        return not 0 <= since < (RECHECK_NS if probe.settled else self.rules.spacing_ms * 1_000_000)

    def add(self, track_id: int, seen: Seen, now_ns: int) -> bool:
        """Take a crop of a track, whose vector is then overwritten; False when it contradicts the track so far."""
        probe = self._held.get(track_id)
        if probe is None or probe.resting_ns is not None or probe.model != seen.embedding.model:
            probe = self._begin(track_id, seen, now_ns, rest_ns=0 if probe is None else probe.rest_ns)
        same = not (is_used(probe, seen, self.rules) and contradicts(probe, seen, self.rules))
        if not same:
            before, probe = probe, self._begin(track_id, seen, now_ns, rest_ns=0)
            if not before.settled:  # an attempt that never agrees with itself ends as any other
                probe = replace(probe, tries=before.tries, rest_ns=before.rest_ns)
        self._held[track_id] = gathered(probe, seen, self.rules, now_ns)
        seen.embedding.wipe()
        return same

    def due(self, now_ns: int) -> dict[int, Embedding]:
        """The probes that are to be compared now, by track; the caller overwrites them."""
        ready = {
            track_id: probe
            for track_id, probe in self._held.items()
            if probe.tried_ns == now_ns and is_due(probe, self.rules)
        }
        self._held.update((track_id, replace(probe, compared=probe.crops)) for track_id, probe in ready.items())
        return {track_id: probe.mean() for track_id, probe in ready.items()}

    def is_sure(self, track_id: int, embedding: Embedding) -> bool:
        """Whether the track is decided, and a crop of this embedding agrees so well that it confirms it in any case."""
        probe = self._held.get(track_id)
        if probe is None or not probe.settled or probe.model != embedding.model:
            return False
        return float(unit(probe.total) @ embedding.vector) >= SURE

    def rests(self, track_id: int) -> bool:
        """Whether the track was decided, or its last attempt was given up."""
        probe = self._held.get(track_id)
        return probe is not None and (probe.settled or probe.resting_ns is not None)

    def give_up(self, track_id: int) -> None:
        """More crops would bring nothing: what was gathered of a track that was not decided is the whole attempt."""
        probe = self._held.get(track_id)
        if probe is not None and not probe.settled:
            self._held[track_id] = replace(probe, compared=self.rules.most)

    def crops(self, track_id: int) -> int:
        """Of how many crops the track's probe is the mean; 0 when it has none."""
        probe = self._held.get(track_id)
        return probe.crops if probe is not None else 0

    def settle(self, decided: Iterable[int], now_ns: int) -> None:
        """After a frame's decisions: ``decided`` tracks are kept for presence, hopeless and old probes overwritten."""
        known = frozenset(decided)
        for track_id, held in list(self._held.items()):
            settled, probe = track_id in known, held
            if held.settled != settled:
                probe = replace(held, settled=settled, named=True, compared=held.crops, began_ns=now_ns)
                self._held[track_id] = probe
            unseen = not 0 <= now_ns - probe.tried_ns < MAX_AGE_NS
            if unseen or (not settled and not 0 <= now_ns - probe.began_ns < MAX_AGE_NS and probe.resting_ns is None):
                self.forget([track_id])
            elif is_over(probe, self.rules) and probe.resting_ns is None:
                self._end(probe)
                rest_ns = min(max(2 * probe.rest_ns, FIRST_REST_NS), LONGEST_REST_NS)
                empty = begun(probe.model, now_ns, rest_ns=rest_ns)
                self._held[track_id] = replace(empty, resting_ns=now_ns + rest_ns)

    def forget(self, track_ids: Iterable[int]) -> None:
        """Overwrite the probes of tracks that died."""
        for track_id in track_ids:
            if (probe := self._held.pop(track_id, None)) is not None:
                self._end(probe)

    def forget_all(self) -> None:
        """Overwrite every probe."""
        self.forget(list(self._held))

    def _end(self, probe: Probe) -> None:
        """Overwrite a sum. A face that was compared and named nobody slows the next one down, once for each track."""
        if probe.compared and not probe.named and not probe.rest_ns:
            self._pace.failed(probe.tried_ns)
        probe.wipe()

    def _begin(self, track_id: int, seen: Seen, now_ns: int, *, rest_ns: int) -> Probe:
        self.forget([track_id])
        while len(self._held) >= MAX_PROBES:
            self.forget([next(iter(self._held))])
        self._held[track_id] = probe = begun(seen.embedding.model, now_ns, rest_ns=rest_ns)
        return probe
