// SPDX-License-Identifier: Apache-2.0
// Verifies the events of Postern units. The contract is tests/vectors/README.md, and tests/vectors/run.mjs checks it.
'use strict';
const crypto = require('node:crypto');
const Ajv = require('ajv/dist/2020');
const canonicalize = require('canonicalize'); // RFC 8785

const [MAX_EVENT, MAX_HEADER, MAX_LIST, MAX_GRANT] = [4096, 512, 2 ** 20, 2048]; // bytes
const [FRESH_S, SKEW_S, CLOCKS_S, YEAR_S] = [60, 10, 300, 366 * 86400]; // fresh; two clocks apart; set apart; an age
const [KNOWN, RANGES, LOSSES, JUMP] = [64, 64, 16, 50000]; // what is remembered of a chain; numbers that may be skipped
const RECEIPT = { type: 'io.postern.erasure.v1', statement: 'reference, its key and the key over it were destroyed' };
// Forms as 'postern schema event' and 'postern schema trust' print them.
const form = (name) => new Ajv({ strict: true }).compile(require(`./${name}.schema.json`));
const isEvent = form('event'), isList = form('trust');

/** Thrown for whatever is not believed; `reason` is a stable code of the contract. */
class Refusal extends Error { constructor(reason) { super(reason); this.reason = reason; } }
function ensure(held, reason = 'malformed') { if (!held) throw new Refusal(reason); }
function attempt(work) { try { return work(); } catch { throw new Refusal('malformed'); } }
const areTexts = (members, ...names) => names.every((name) => typeof members?.[name] === 'string');
const sha256 = (content, encoding = 'hex') => crypto.createHash('sha256').update(content).digest(encoding);
/** Bytes of base64url without padding; it has one spelling. */
function decode(text, reason) {
  const bytes = Buffer.from(String(text), 'base64url');
  ensure(bytes.toString('base64url') === text, reason);
  return bytes;
}
/** A JSON object with one reading; JSON.parse alone hides a key that stands twice, and takes 1.0 and 1e0 for 1. */
const parse = (bytes, limit) => attempt(() => {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes), value = JSON.parse(text);
  const withoutTexts = (json) => json.replace(/"(?:[^"\\]|\\.)*"/g, ''), bare = withoutTexts(text);
  const keys = (json) => json.split(':').length; // one colon is left for each
  ensure(bytes.length <= limit && /^\s*\{/.test(text));
  ensure(keys(bare) === keys(withoutTexts(JSON.stringify(value))));
  ensure(!/\d[.e]/i.test(bare) && (bare.match(/\d+/g) ?? []).every((number) => Number.isSafeInteger(+number)));
  return value;
});
/** Milliseconds since 1970; refuses a moment that does not exist. */
const moment = (text) => attempt(() => {
  ensure(new Date(text).toISOString() === text.replace('Z', '.000Z') && !text.startsWith('0000'));
  return Date.parse(text);
});
/** The P-256 key of a public JWK, and its RFC 7638 thumbprint; what is no point of the curve is refused. */
const readKey = ({ kty, crv, x, y }) => attempt(() => {
  const key = crypto.createPublicKey({ key: { kty, crv, x, y }, format: 'jwk' });
  const spelled = key.export({ format: 'jwk' });
  ensure(crv === 'P-256' && spelled.x === x && spelled.y === y);
  return { key, kid: sha256(canonicalize({ kty, crv, x, y }), 'base64url') };
});
/** Header of a JWS from its first part. */
function readHeader(segment) {
  const header = parse(decode(segment), MAX_HEADER);
  ensure(areTexts(header, 'alg', 'kid', 'typ') && Object.keys(header).length === 3);
  return header;
}
function checkHeader({ alg, typ }, purpose) {
  ensure(alg !== 'none', 'unsecured');
  ensure(alg === 'ES256', 'wrong_algorithm');
  ensure(typ === `postern-${purpose}+jws`, 'wrong_type');
}
function checkSignature(key, segment, payload, signature) {
  ensure(signature, 'unsigned');
  const signed = Buffer.from(`${segment}.${payload.toString('base64url')}`), rs = decode(signature, 'bad_signature');
  ensure(crypto.verify('sha256', signed, { key, dsaEncoding: 'ieee-p1363' }, rs), 'bad_signature');
}

/** Content of a compact JWS by a key. */
function contentOf(token, purpose, { key, kid }) {
  const [segment, content, signature, ...more] = token.split('.');
  ensure(signature !== undefined && more.length === 0);
  const payload = decode(content), header = readHeader(segment);
  checkHeader(header, purpose);
  ensure(header.kid === kid, 'wrong_key');
  checkSignature(key, segment, payload, signature);
  return payload;
}

// What is remembered of one unit under one key: digests by number, missing ranges, admitted losses.
const newChain = () => ({ last: 0, known: {}, expected: {}, missing: [], admitted: [] });
const overlap = (first, last) => ([from, to]) => Math.max(0, Math.min(to, last) - Math.max(from, first) + 1);
const isMissing = (chain, seq) => chain.missing.some(overlap(seq, seq));
/** Takes an event, or refuses it; says what was skipped before it and whether it came late. Times are in seconds. */
function take(chain, { seq, prev, boot, lost }, digest, signed, now, fresh) {
  const hold = (held, reason) => { if (!held) ensure(false, chain.quarantined = reason); };
  const agree = (digests, at, one) => (digests[at] ?? one) === one, { last, known, expected } = chain;
  const late = isMissing(chain, seq), gap = last && seq > last + 1 ? [last + 1, seq - 1] : null;
  const here = signed === null ? now : Math.min(signed, now + CLOCKS_S), restarted = fresh && boot !== chain.boot;
  const afterwards = signed !== null && (signed > chain.here + SKEW_S || (restarted && signed >= chain.here));
  ensure(!chain.quarantined, 'quarantined');
  hold(agree(known, seq, digest) && agree(expected, seq, digest), 'fork');
  ensure(!known[seq], 'duplicate');
  hold(seq > last || expected[seq] || !afterwards, 'overtaken');
  ensure(late || seq > last, 'replayed');
  hold(agree(known, seq - 1, prev), 'fork');
  hold(!gap || seq - gap[0] <= JUMP + Math.max(0, here - chain.here), 'jump');
  if (late) strike(chain, seq, seq);
  if (gap) chain.missing = [...chain.missing, gap].slice(-RANGES);
  if (seq > last) Object.assign(chain, { last: seq, here, boot });
  Object.assign(known, { [seq]: digest });
  if (Object.keys(known).length > KNOWN) delete known[Math.min(...Object.keys(known))];
  Object.assign(expected, { [seq - 1]: prev });
  settle(chain);
  if (lost) admit(chain, lost);
  return { late, gap };
}
function strike(chain, first, last) {
  const cut = ([from, to]) => [[from, Math.min(to, first - 1)], [Math.max(from, last + 1), to]];
  chain.missing = chain.missing.flatMap(cut).filter(([from, to]) => from <= to).slice(-RANGES);
}
function admit(chain, { first, last, count }) {
  const apart = chain.admitted.filter(([from, to, more]) => {
    if (to < first || last < from) return true;
    [first, last, count] = [Math.min(first, from), Math.max(last, to), count + more];
    return false;
  });
  chain.admitted = [...apart, [first, last, count]].slice(-LOSSES);
  settle(chain);
}
function settle(chain) {
  chain.admitted = chain.admitted.filter(([first, last, count]) => {
    const open = chain.missing.map(overlap(first, last)).reduce((sum, part) => sum + part, 0);
    return open > count || strike(chain, first, last);
  });
  for (const seq of Object.keys(chain.expected)) if (!isMissing(chain, +seq)) delete chain.expected[seq];
}

/** Checks events of one site; every refusal is a Refusal, and changes nothing but that a second unit is quarantined. */
class Verifier {
  /** From the site's public JWK, its list of units, and an `export` as `state`; the rest is in seconds. */
  constructor(siteKey, list, { timeStep = 1, fresh = FRESH_S, skew = SKEW_S, state = '{}' } = {}) {
    Object.assign(this, { siteKey: readKey(siteKey), oldest: fresh + skew + timeStep, skew });
    Object.assign(this, { serial: 0, mandate: 0, by: 0 });
    this.trust(list);
    this.chains = JSON.parse(state); // by source, then by kid
    if (Array.isArray(this.chains)) throw new Error('what was remembered is of an older verifier: move it away');
  }
  /** Everything remembered of the units, as text. */
  export() { return JSON.stringify(this.chains); }
  /** Takes a newer list of units; the one in use stays when this one is refused. */
  trust(list) {
    ensure(list.length <= MAX_LIST);
    const [grant, listed] = list.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, '').split(/~(.*)/s);
    const signer = listed === undefined ? this.siteKey : this.service(grant), keys = new Map();
    const payload = contentOf(listed ?? grant, 'trust', signer);
    const told = parse(payload, MAX_LIST), { version, site, serial, expires_at = null, units } = told;
    ensure(isList(told) && (version === 2) === (expires_at !== null));
    const entries = Object.entries(units).flatMap(([unit, keys]) => keys.map((one) => ({ unit, ...one })));
    for (const { unit, jwk, status, until = null, last_seq = null } of entries) {
      const { key, kid } = readKey(jwk), end = until === null ? Infinity : moment(until);
      ensure(!keys.has(kid) && (version === 2 || last_seq === null));
      keys.set(kid, { unit, key, status, until, last_seq, end });
    }
    const ends = expires_at === null ? Infinity : moment(expires_at);
    ensure(site === (this.site ?? site) && site === (signer.site ?? site), 'wrong_site');
    const { number = 0 } = signer; // 0: the site's own key; a newer mandate ends the serials of a stolen one
    ensure(serial >= this.serial || (this.by > 0 && number > this.by), 'replayed');
    Object.assign(this, { site, serial, expires_at, ends, keys, by: number, mandate: number || this.mandate });
  }
  /** Key of the site's service by its mandate: it may sign the list of units, until a mandate with a higher number. */
  service(grant) {
    ensure(grant.length <= MAX_GRANT);
    const { version, site, verbs, jwk, number = 0 } = parse(contentOf(grant, 'grant', this.siteKey), MAX_GRANT);
    ensure(version === 1 && typeof site === 'string' && Array.isArray(verbs) && Number.isSafeInteger(number));
    ensure(verbs.includes('sign/trust') && number > 0, 'not_granted');
    ensure(number >= this.mandate, 'superseded');
    return { ...readKey(jwk), site, number };
  }
  /** Checks and remembers one message: its topic, its payload (a Buffer) and the Date now; returns its facts. */
  check(topic, payload, now = new Date()) {
    ensure(payload.length <= MAX_EVENT, 'too_large');
    const event = parse(payload, MAX_EVENT), { sig, ...unsigned } = event, { data } = event;
    ensure((sig ?? '') !== '', 'unsigned');
    const kind = data?.event_type, leaf = topic.split('/').slice(3).join('/');
    ensure(['match', 'presence', 'unit'].includes(kind) && event.type === `io.postern.${kind}.v1`, 'wrong_type');
    ensure(isEvent(event) && event.id === `${data.boot}-${data.seq}`);
    const { seq, condition, lost } = data;
    ensure((condition === 'loss') === Boolean(lost) && (!lost || lost.count <= lost.last - lost.first + 1));
    const time = moment(event.time), [segment, , signature] = sig.split('.'), header = readHeader(segment);
    checkHeader(header, 'event');
    ensure(this.keys.has(header.kid), 'unknown_unit');
    const { unit, key, status, until, last_seq, end } = this.keys.get(header.kid);
    ensure(event.source === `/postern/${this.site}/${unit}`, 'wrong_key');
    ensure(leaf === `event/${kind}` || leaf === `backlog/${kind}`, 'wrong_topic');
    ensure(`/${topic}` === `${event.source}/${leaf}`, 'wrong_unit');
    const signed = Buffer.from(canonicalize(unsigned)), digest = `sha256:${sha256(signed)}`;
    checkSignature(key, segment, signed, signature);
    ensure(+now <= this.ends, 'expired');
    const backlog = leaf.startsWith('backlog'), replaced = until !== null || last_seq !== null;
    ensure(status === 'active' && +now <= end && (backlog || !replaced) && seq <= (last_seq ?? seq), 'revoked');
    const age = data.clock === 'synced' ? (now - time) / 1000 : null;
    const fresh = age !== null && !backlog && age >= -this.skew && age <= this.oldest;
    const chain = ((this.chains[event.source] ??= {})[header.kid] ??= newChain());
    const { late, gap } = take(chain, data, digest, age === null ? null : time / 1000, Math.floor(now / 1000), fresh);
    const age_s = age === null ? null : Math.max(-YEAR_S, Math.min(Math.floor(age), YEAR_S));
    return { unit, kind, seq, backlog, fresh, age_s, late, gap, digest, event };
  }
  /** Numbers of a unit that never came and that it did not own up to, as [first, last] pairs. */
  missing(unit) {
    return Object.values(this.chains[`/postern/${this.site}/${unit}`] ?? {}).flatMap((chain) => chain.missing);
  }
  /** Refuses unless `unit` signed this receipt of the erasure of `subject` (32 hexadecimal digits). */
  checkReceipt(receipt, unit, subject) {
    const { signature = '', subject: digest, site, unit: signer, reason, erased_at } = receipt ?? {};
    const told = { subject: digest, site, unit: signer, reason, erased_at };
    ensure(areTexts({ ...told, signature }, 'signature', ...Object.keys(told)));
    const asked = sha256(Buffer.concat([Buffer.from('postern/tombstone/v1'), Buffer.from(subject, 'hex')]));
    ensure(site === this.site && signer === unit && digest === `sha256:${asked}`, 'wrong_subject');
    const parts = signature.split('.'), header = readHeader(parts[0]), trusted = this.keys.get(header.kid);
    ensure(trusted?.unit === unit && trusted.status === 'active', 'unknown_key');
    ensure(parts.length === 3 && parts[1] === '');
    checkHeader(header, 'receipt');
    checkSignature(trusted.key, parts[0], Buffer.from(canonicalize({ ...told, ...RECEIPT })), parts[2]);
  }
}
module.exports = { Verifier, Refusal };
