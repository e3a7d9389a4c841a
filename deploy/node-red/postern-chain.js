// SPDX-License-Identifier: Apache-2.0
// What is remembered of one unit under one key, and where its next event belongs: "Chains" in tests/vectors/README.md.
'use strict';
const [KNOWN, RANGES, LOSSES, JUMP] = [64, 64, 16, 50000]; // what is remembered; numbers that may be skipped
const [SKEW_S, CLOCKS_S] = [10, 300]; // between two clocks that are synchronised; between any two

/** Digests by number; ranges that never came, as [first, last]; losses, as [first, last, how many of them]. */
const newChain = () => ({ last: 0, known: {}, expected: {}, missing: [], admitted: [] });
const shared = ([from, to], [first, last]) => Math.max(0, Math.min(to, last) - Math.max(from, first) + 1);
const merge = (a, b) => (shared(a, b) ? [Math.min(a[0], b[0]), Math.max(a[1], b[1]), a[2] + b[2]] : a);
const isMissing = (chain, seq) => chain.missing.some((range) => shared(range, [seq, seq]));
function strike(chain, first, last) {
  const cut = ([from, to]) => [[from, Math.min(to, first - 1)], [Math.max(from, last + 1), to]];
  chain.missing = chain.missing.flatMap(cut).filter(([from, to]) => from <= to).slice(-RANGES);
}
/** Closes each loss that owns up to all that is missing of it. */
function settle(chain) {
  chain.admitted = chain.admitted.filter(([first, last, count]) => {
    const open = chain.missing.reduce((sum, range) => sum + shared(range, [first, last]), 0);
    return open > count || strike(chain, first, last);
  });
  for (const seq of Object.keys(chain.expected)) if (!isMissing(chain, +seq)) delete chain.expected[seq];
}
/** Remembers the event of this `data`; says what was skipped before it and whether it came late, or why it is refused;
 *  then nothing but a quarantine is remembered. `signed` (null without a true time) and `now` are in seconds. */
function place(chain, { seq, prev, boot, lost }, digest, { signed, now, fresh }) {
  const { last, known, expected } = chain, differs = (digests, at, one) => (digests[at] ?? one) !== one;
  const late = isMissing(chain, seq), gap = last && seq > last + 1 ? [last + 1, seq - 1] : null;
  const here = signed === null ? now : Math.min(signed, now + CLOCKS_S), restarted = fresh && boot !== chain.boot;
  const afterwards = signed !== null && (signed > chain.here + SKEW_S || (restarted && signed >= chain.here));
  const [, refused] = [
    [chain.quarantined, 'quarantined'],
    [differs(known, seq, digest) || differs(expected, seq, digest), 'fork'],
    [known[seq], 'duplicate'],
    [seq < last && !expected[seq] && afterwards, 'overtaken'],
    [seq <= last && !late, 'replayed'],
    [differs(known, seq - 1, prev), 'fork'],
    [gap && seq - gap[0] > JUMP + Math.max(0, here - chain.here), 'jump'],
  ].find(([fault]) => fault) ?? [];
  if (['fork', 'overtaken', 'jump'].includes(refused)) chain.quarantined = refused;
  if (refused) return { refused };
  if (late) strike(chain, seq, seq);
  if (gap) chain.missing = [...chain.missing, gap].slice(-RANGES);
  if (seq > last) Object.assign(chain, { last: seq, here, boot });
  [known[seq], expected[seq - 1]] = [digest, prev];
  if (Object.keys(known).length > KNOWN) delete known[Math.min(...Object.keys(known))];
  settle(chain);
  if (lost) {
    const loss = chain.admitted.reduce(merge, [lost.first, lost.last, lost.count]);
    chain.admitted = [...chain.admitted.filter((one) => !shared(one, loss)), loss].slice(-LOSSES);
    settle(chain);
  }
  return { late, gap };
}
module.exports = { newChain, place };
