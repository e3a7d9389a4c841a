// SPDX-License-Identifier: Apache-2.0
// Verifies the events of Postern units. The contract is tests/vectors/README.md, and tests/vectors/run.mjs checks it.
'use strict';
const crypto = require('node:crypto');
const canonicalize = require('canonicalize'); // RFC 8785
const { Refusal, ensure, refuse, isObject, isEvent, isHeader, isList, KINDS, decode, sha256, moment, parse,
  readKey } = require('./postern-forms.js');

const [MAX_EVENT, MAX_HEADER, MAX_LIST] = [4096, 512, 2 ** 20]; // bytes
const [FRESH_S, SKEW_S, CLOCKS_S, YEAR_S] = [60, 10, 300, 366 * 86400]; // fresh; two clocks apart; set apart; an age
const [KNOWN, RANGES, LOSSES, JUMP] = [64, 64, 16, 50000]; // what is remembered of a chain; numbers that may be skipped

/** Header of a JWS from its first part. */
const readHeader = (segment) => [parse(ensure(decode(segment)), MAX_HEADER)].find(isHeader) ?? refuse('malformed');
function checkHeader({ alg, typ }, purpose) {
  ensure(alg !== 'none', 'unsecured');
  ensure(alg === 'ES256', 'wrong_algorithm');
  ensure(typ === `postern-${purpose}+jws`, 'wrong_type');
}
function checkSignature(key, segment, payload, signature) {
  const signed = Buffer.from(`${segment}.${payload.toString('base64url')}`), rs = decode(signature);
  ensure(rs?.length === 64 && crypto.verify('sha256', signed, { key, dsaEncoding: 'ieee-p1363' }, rs), 'bad_signature');
}

/** What is remembered of one unit under one key: digests by number, missing ranges, admitted losses. */
class Chain {
  last = 0; known = new Map(); expected = new Map(); missing = []; admitted = [];
  isMissing(seq) { return this.missing.some(([first, last]) => first <= seq && seq <= last); }
  /** Takes an event, or refuses it; says what was skipped before it and whether it came late. Times are in seconds. */
  take({ seq, prev, boot, lost: loss }, digest, signed, now, fresh) {
    ensure(!this.quarantined, 'quarantined');
    const other = (digests, at, value) => digests.has(at) && digests.get(at) !== value;
    const hold = (held, reason) => held || refuse(this.quarantined = reason), here = Math.min(signed ?? now, now + CLOCKS_S * (signed !== null));
    hold(!other(this.known, seq, digest) && !other(this.expected, seq, digest), 'fork');
    ensure(!this.known.has(seq), 'duplicate');
    const late = this.isMissing(seq), gap = this.last && seq > this.last + 1 ? [this.last + 1, seq - 1] : null;
    const afterwards = signed >= (fresh && this.boot && boot !== this.boot ? this.here : this.here + SKEW_S + 1);
    hold(seq > this.last || this.expected.has(seq) || !afterwards, 'overtaken');
    ensure(late || seq > this.last, 'replayed');
    hold(!other(this.known, seq - 1, prev), 'fork');
    hold(!gap || seq - gap[0] <= JUMP + Math.max(0, here - (this.here ?? here)), 'jump');
    if (late) this.strike(seq, seq);
    if (gap) this.missing = [...this.missing, gap].slice(-RANGES);
    if (seq > this.last) Object.assign(this, { last: seq, here, boot });
    if (this.known.set(seq, digest).size > KNOWN) this.known.delete(Math.min(...this.known.keys()));
    this.expected.set(seq - 1, prev);
    this.settle();
    if (loss) this.admit(loss.first, loss.last, loss.count);
    return { late, gap };
  }
  strike(first, last) {
    const cut = ([from, to]) => [[from, Math.min(to, first - 1)], [Math.max(from, last + 1), to]];
    this.missing = this.missing.flatMap(cut).filter(([from, to]) => from <= to).slice(-RANGES);
  }
  admit(first, last, count) {
    const apart = this.admitted.filter(([from, to, more]) => {
      if (to < first || last < from) return true;
      [first, last, count] = [Math.min(first, from), Math.max(last, to), count + more];
      return false;
    });
    this.admitted = [...apart, [first, last, count]].slice(-LOSSES);
    this.settle();
  }
  settle() {
    this.admitted = this.admitted.filter(([first, last, count]) => {
      const open = this.missing.map(([from, to]) => Math.max(0, Math.min(to, last) - Math.max(from, first) + 1));
      return open.reduce((sum, part) => sum + part, 0) > count || this.strike(first, last);
    });
    for (const seq of this.expected.keys()) if (!this.isMissing(seq)) this.expected.delete(seq);
  }
}

/** Checks events of one site; every refusal is a Refusal, and changes nothing but that a second unit is quarantined. */
class Verifier {
  /**
   * From the site's public JWK (site.jwk) and its signed list of units (trust.jws).
   * `timeStep`: seconds that units round times down to; `fresh`, `skew`: age and lead when fresh; `state`: an `export`.
   */
  constructor(siteKey, list, { timeStep = 1, fresh = FRESH_S, skew = SKEW_S, state = '[]' } = {}) {
    Object.assign(this, { siteKey: readKey(siteKey), oldest: fresh + skew + timeStep, skew, serial: 0 });
    this.trust(list);
    this.chains = new Map(JSON.parse(state).map(([name, known, expected, rest]) => [name,
      Object.assign(new Chain(), rest, { known: new Map(known), expected: new Map(expected) })]));
  }
  /** Everything remembered of the units, as text. */
  export() {
    const kept = ([name, { known, expected, ...rest }]) => [name, [...known], [...expected], rest];
    return JSON.stringify([...this.chains].map(kept));
  }
  /** Takes a newer list of units; the one in use stays when this one is refused. */
  trust(list) {
    const parts = list.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, '').split('.'), [segment, content, signature] = parts;
    const payload = ensure(list.length <= MAX_LIST && parts.length === 3 && decode(content)), keys = new Map();
    const header = readHeader(segment);
    checkHeader(header, 'trust');
    ensure(header.kid === this.siteKey.kid, 'wrong_key');
    checkSignature(this.siteKey.key, segment, payload, signature || refuse('unsigned'));
    const { site, serial, expires_at: end, units } = [parse(payload, MAX_LIST)].find(isList) ?? refuse('malformed');
    for (const [unit, entries] of Object.entries(units)) for (const { jwk, ...one } of entries) {
      const { key, kid } = readKey(jwk), { status, until = null, last_seq = null } = one;
      const end = until ? moment(until) : Infinity;
      ensure(!keys.has(kid) && keys.set(kid, { unit, key, status, until, last_seq, end }));
    }
    const ends = end ? moment(end) : Infinity;
    ensure(site === (this.site ?? site), 'wrong_site');
    ensure(serial >= this.serial, 'replayed');
    Object.assign(this, { site, serial, expires_at: end ?? null, ends, keys });
  }
  /** Checks and remembers one message: its topic, its payload (a Buffer) and the Date now; returns its facts. */
  check(topic, payload, now = new Date()) {
    ensure(payload.length <= MAX_EVENT, 'too_large');
    const event = ensure([parse(payload, MAX_EVENT)].find(isObject)), { sig, ...unsigned } = event, { data } = event;
    ensure((sig ?? '') !== '', 'unsigned');
    const kind = isObject(data) && data.event_type, leaf = topic.split('/').slice(3).join('/');
    ensure(KINDS.has(kind) && event.type === `io.postern.${kind}.v1`, 'wrong_type');
    ensure(isEvent(event) && KINDS.get(kind)(data) && event.id === `${data.boot}-${data.seq}`);
    ensure((data.condition === 'loss') === Boolean(data.lost));
    const time = moment(event.time), [segment, , signature] = sig.split('.'), header = readHeader(segment);
    checkHeader(header, 'event');
    const { unit, key, status, until, last_seq, end } = this.keys.get(header.kid) ?? refuse('unknown_unit');
    ensure(event.source === `/postern/${this.site}/${unit}`, 'wrong_key');
    const leaves = [`event/${kind}`, `backlog/${kind}`], backlog = leaf === leaves[1];
    ensure(leaves.includes(leaf), 'wrong_topic');
    ensure(`/${topic}` === `${event.source}/${leaf}`, 'wrong_unit');
    const signed = Buffer.from(canonicalize(unsigned)), digest = `sha256:${sha256(signed).toString('hex')}`;
    checkSignature(key, segment, signed, signature);
    ensure(+now <= this.ends, 'expired');
    const maySay = (backlog || !(until || last_seq)) && data.seq <= (last_seq ?? data.seq);
    ensure(status === 'active' && +now <= end && maySay, 'revoked');
    const age = data.clock === 'synced' ? (now - time) / 1000 : null, at = Math.floor(now / 1000);
    const fresh = age !== null && !backlog && age >= -this.skew && age <= this.oldest;
    const name = `${event.source} ${header.kid}`, chain = this.chains.get(name) ?? new Chain();
    const { late, gap } = chain.take(data, digest, age === null ? null : time / 1000, at, fresh);
    this.chains.set(name, chain);
    const age_s = age === null ? null : Math.max(-YEAR_S, Math.min(Math.floor(age), YEAR_S));
    return { unit, kind, seq: data.seq, backlog, fresh, age_s, late, gap, digest, event };
  }
  /** Numbers of a unit that never came and that it did not own up to, as [first, last] pairs. */
  missing(unit) {
    const own = [...this.chains].filter(([name]) => name.startsWith(`/postern/${this.site}/${unit} `));
    return own.flatMap(([, chain]) => [...chain.missing].sort(([a], [b]) => a - b));
  }
}
module.exports = { Verifier, Refusal, readHeader, checkHeader, checkSignature };
