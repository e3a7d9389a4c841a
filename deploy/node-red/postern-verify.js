// SPDX-License-Identifier: Apache-2.0
// Verifies the events of Postern units. The contract is tests/vectors/README.md, and tests/vectors/run.mjs checks it.
'use strict';
const crypto = require('node:crypto');
const canonicalize = require('canonicalize'); // RFC 8785
const forms = require('./postern-forms.js');
const { Refusal, ensure, refuse, isObject, isEvent, isHeader, isList, KINDS, moment, parse } = forms;

const [MAX_EVENT, MAX_HEADER, MAX_LIST] = [4096, 512, 2 ** 20]; // bytes
const [LIVE_S, SKEW_S] = [60, 10]; // how long an event is live, and how far apart two clocks may be
const [KNOWN, RANGES, LOSSES] = [64, 64, 16]; // what is remembered of a chain

/** Bytes of base64url without padding in its one spelling; undefined for anything else. */
const decode = (text) => [Buffer.from(text, 'base64url')].find((bytes) => bytes.toString('base64url') === text);
const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest();
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
/** The P-256 key of a public JWK, and its RFC 7638 thumbprint. */
function readKey({ kty, crv, x, y }) {
  const isCoordinate = (part) => typeof part === 'string' && decode(part)?.length === 32;
  ensure(kty === 'EC' && crv === 'P-256' && isCoordinate(x) && isCoordinate(y));
  try { // createPublicKey refuses what is no point of the curve
    const key = crypto.createPublicKey({ key: { kty, crv, x, y }, format: 'jwk' });
    return { key, kid: sha256(canonicalize({ kty, crv, x, y })).toString('base64url') };
  } catch { return refuse('malformed'); }
}

/** What is remembered of one unit under one key: digests by number, missing ranges, admitted losses. */
class Chain {
  last = 0; known = new Map(); expected = new Map(); missing = []; admitted = [];
  isMissing(seq) { return this.missing.some(([first, last]) => first <= seq && seq <= last); }
  /** Takes an event, or refuses it and changes nothing; says what was skipped before it and whether it came late. */
  take({ seq, prev, lost: loss }, digest) {
    const other = (digests, at, value) => digests.has(at) && digests.get(at) !== value;
    ensure(!other(this.known, seq, digest) && !other(this.expected, seq, digest), 'fork');
    const late = this.isMissing(seq), gap = this.last && seq > this.last + 1 ? [this.last + 1, seq - 1] : null;
    ensure(late || seq > this.last, this.known.has(seq) ? 'duplicate' : 'replayed');
    ensure(!other(this.known, seq - 1, prev), 'fork');
    if (late) this.strike(seq, seq);
    if (gap) this.missing = [...this.missing, gap].slice(-RANGES);
    this.last = Math.max(this.last, seq);
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

/** Checks events of one site; every refusal is a Refusal, and changes nothing. */
class Verifier {
  /**
   * From the site's public JWK (site.jwk) and its signed list of units (trust.jws).
   * `timeStep`: seconds that units round their times down to; `state`: what `export` gave before a restart.
   */
  constructor(siteKey, list, { timeStep = 1, state = '[]' } = {}) {
    Object.assign(this, { siteKey: readKey(siteKey), oldest: (LIVE_S + SKEW_S + timeStep) * 1000, serial: 0 });
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
    const { site, serial, units } = [parse(payload, MAX_LIST)].find(isList) ?? refuse('malformed');
    for (const [unit, entries] of Object.entries(units)) for (const { jwk, status, until = null } of entries) {
      const { key, kid } = readKey(jwk);
      ensure(!keys.has(kid) && keys.set(kid, { unit, key, status, until, end: until ? moment(until) : Infinity }));
    }
    ensure(serial >= this.serial, 'replayed');
    ensure(site === (this.site ?? site), 'wrong_site');
    Object.assign(this, { site, serial, keys });
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
    const { unit, key, status, end } = this.keys.get(header.kid) ?? refuse('unknown_unit');
    ensure(event.source === `/postern/${this.site}/${unit}`, 'wrong_key');
    const leaves = [`event/${kind}`, `backlog/${kind}`], backlog = leaf === leaves[1];
    ensure(leaves.includes(leaf), 'wrong_topic');
    ensure(`/${topic}` === `${event.source}/${leaf}`, 'wrong_unit');
    const signed = Buffer.from(canonicalize(unsigned)), digest = `sha256:${sha256(signed).toString('hex')}`;
    checkSignature(key, segment, signed, signature);
    ensure(status === 'active' && +now <= end, 'revoked');
    const synced = data.clock === 'synced', age = now - time, name = `${event.source} ${header.kid}`;
    ensure(!synced || age >= -SKEW_S * 1000, 'future');
    ensure(!synced || backlog || age <= this.oldest, 'expired');
    const chain = this.chains.get(name) ?? new Chain(), { late, gap } = chain.take(data, digest);
    this.chains.set(name, chain);
    return { unit, kind, seq: data.seq, backlog, fresh: synced && !backlog, late, gap, digest, event };
  }
  /** Numbers of a unit that never came and that it did not own up to, as [first, last] pairs. */
  missing(unit) {
    const own = [...this.chains].filter(([name]) => name.startsWith(`/postern/${this.site}/${unit} `));
    return own.flatMap(([, chain]) => [...chain.missing].sort(([a], [b]) => a - b));
  }
}
module.exports = { Verifier, Refusal, readHeader, checkHeader, checkSignature };
