// SPDX-License-Identifier: Apache-2.0
// Verifies the events of Postern units. The contract is tests/vectors/README.md, and tests/vectors/run.mjs checks it.
'use strict';
const crypto = require('node:crypto');
const Ajv = require('ajv/dist/2020');
const canonicalize = require('canonicalize'); // RFC 8785
const { newChain, place } = require('./postern-chain.js');

const [MAX_EVENT, MAX_HEADER, MAX_LIST, MAX_GRANT] = [4096, 512, 2 ** 20, 2048]; // bytes
const [FRESH_S, SKEW_S, YEAR_S] = [60, 10, 366 * 86400]; // fresh; two clocks apart; the highest age that is told
const RECEIPT = { type: 'io.postern.erasure.v1', statement: 'reference, its key and the key over it were destroyed' };
const isEvent = new Ajv().compile(require('./event.schema.json')); // 'postern schema' prints the two
const isList = new Ajv({ useDefaults: true }).compile(require('./trust.schema.json'));

/** Thrown for whatever is not believed; `reason` is a stable code of the contract. */
class Refusal extends Error { get reason() { return this.message; } }
function ensure(held, reason = 'malformed') { if (!held) throw new Refusal(reason); }
function attempt(work) { try { return work(); } catch { throw new Refusal('malformed'); } }
const areTexts = (members, names) => names.every((name) => typeof members[name] === 'string');
const sha256 = (content, encoding = 'hex') => crypto.createHash('sha256').update(content).digest(encoding);
const decode = (text, reason, bytes = Buffer.from(String(text), 'base64url')) => // base64url has one spelling
  ensure(bytes.toString('base64url') === text, reason) ?? bytes;
/** A JSON object with one reading: JSON.parse alone hides a key that stands twice, and takes 1.0 and 1e0 for 1. */
const parse = (bytes, limit) => attempt(() => {
  const text = ensure(bytes.length <= limit) ?? new TextDecoder('utf8', { fatal: true, ignoreBOM: true }).decode(bytes);
  const value = JSON.parse(text, (_, one) => ensure(typeof one !== 'number' || Number.isSafeInteger(one)) ?? one);
  const marks = (json) => json.replace(/"(?:[^"\\]|\\.)*"|\s/g, '').split('').sort().join();
  ensure(/^\s*\{/.test(text) && marks(text) === marks(JSON.stringify(value)));
  return value;
});
function moment(text) { // milliseconds since 1970; null never comes
  const at = text === null ? Infinity : Date.parse(text);
  ensure(text === null || (text >= '0001' && new Date(at).toJSON() === text.replace('Z', '.000Z')));
  return at;
}
/** The P-256 key of a public JWK, and its RFC 7638 thumbprint; what is no point of the curve is refused. */
const readKey = ({ kty, crv, x, y }) => attempt(() => {
  const jwk = { kty, crv, x, y }, text = canonicalize(jwk), key = crypto.createPublicKey({ key: jwk, format: 'jwk' });
  ensure(crv === 'P-256' && canonicalize(key.export({ format: 'jwk' })) === text);
  return { key, kid: sha256(text, 'base64url') };
});
const readHeader = (segment, header = parse(decode(segment), MAX_HEADER)) =>
  ensure(Object.keys(header).length === 3 && areTexts(header, ['alg', 'kid', 'typ'])) ?? header;
function checkHeader({ alg, typ }, purpose) {
  ensure(alg === 'ES256', alg === 'none' ? 'unsecured' : 'wrong_algorithm');
  ensure(typ === `postern-${purpose}+jws`, 'wrong_type');
}
function checkSignature(key, [segment, , signature], payload) {
  ensure(signature, 'unsigned');
  const signed = Buffer.from(`${segment}.${payload.toString('base64url')}`), rs = decode(signature, 'bad_signature');
  ensure(crypto.verify('sha256', signed, { key, dsaEncoding: 'ieee-p1363' }, rs), 'bad_signature');
}
/** What a compact JWS says, by a key. */
function open(token, purpose, { key, kid }) {
  const parts = token.split('.'), header = readHeader(parts[0]), payload = decode(parts[1]);
  ensure(parts.length === 3);
  checkHeader(header, purpose);
  ensure(header.kid === kid, 'wrong_key');
  checkSignature(key, parts, payload);
  return parse(payload, MAX_LIST);
}

/** Checks events of one site; every refusal is a Refusal, and changes nothing but that a second unit is quarantined. */
class Verifier {
  /** From the site's public JWK, its list of units, and what `export` gave as `state`; the rest is in seconds. */
  constructor(siteKey, list, { timeStep = 1, fresh = FRESH_S, skew = SKEW_S, state = '{}' } = {}) {
    Object.assign(this, { oldest: fresh + skew + timeStep, skew, serial: 0, mandate: 0, by: 0 });
    Object.assign(this, { siteKey: readKey(siteKey), chains: JSON.parse(state) }); // chains by source, then by kid
    if (Array.isArray(this.chains)) throw new Error('what was remembered is of an older verifier: move it away');
    this.trust(list);
  }
  /** Everything remembered of the units, as text. */
  export() { return JSON.stringify(this.chains); }
  /** Takes a newer list of units; the one in use stays when this one is refused. */
  trust(list) {
    ensure(list.length <= MAX_LIST);
    const [grant, listed] = list.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, '').split(/~(.*)/s), keys = new Map();
    const by = listed === undefined ? this.siteKey : this.service(grant), told = open(listed ?? grant, 'trust', by);
    ensure(isList(told) && (told.version === 2) === (told.expires_at !== null)); // isList fills in what may be missing
    const { version, site, serial, expires_at, units } = told, { number = 0 } = by; // 0: none; a newer one begins anew
    const entries = Object.entries(units).flatMap(([unit, keys]) => keys.map((one) => ({ unit, ...one })));
    for (const { jwk, ...entry } of entries) {
      const { key, kid } = readKey(jwk), end = moment(entry.until);
      ensure(!keys.has(kid) && (version === 2 || entry.last_seq === null));
      keys.set(kid, { key, end, ...entry });
    }
    const ends = moment(expires_at);
    ensure(site === (this.site ?? site) && site === (by.site ?? site), 'wrong_site');
    ensure(serial >= this.serial || (this.by > 0 && number > this.by), 'replayed');
    Object.assign(this, { site, serial, expires_at, ends, keys, by: number, mandate: number || this.mandate });
  }
  /** Key of the site's service by its mandate: it may sign the list of units, until a mandate with a higher number. */
  service(grant) {
    ensure(grant.length <= MAX_GRANT);
    const { version, site, verbs, jwk, number = 0 } = open(grant, 'grant', this.siteKey);
    ensure(version === 1 && typeof site === 'string' && Array.isArray(verbs) && Number.isSafeInteger(number));
    ensure(verbs.includes('sign/trust') && number > 0, 'not_granted');
    ensure(number >= this.mandate, 'superseded');
    return { ...readKey(jwk), site, number };
  }
  /** Checks and remembers one message: its topic, its payload (a Buffer) and the Date now; returns its facts. */
  check(topic, payload, now = new Date()) {
    ensure(payload.length <= MAX_EVENT, 'too_large');
    const event = parse(payload, MAX_EVENT), { sig, data, ...others } = event, kind = data?.event_type;
    ensure((sig ?? '') !== '', 'unsigned');
    ensure(['match', 'presence', 'unit'].includes(kind) && event.type === `io.postern.${kind}.v1`, 'wrong_type');
    ensure(isEvent(event) && event.id === `${data.boot}-${data.seq}`);
    const { seq, condition, lost } = data, time = moment(event.time), parts = sig.split('.');
    ensure((condition === 'loss') === Boolean(lost) && (!lost || lost.count <= lost.last - lost.first + 1));
    const header = readHeader(parts[0]);
    checkHeader(header, 'event');
    ensure(this.keys.has(header.kid), 'unknown_unit');
    const { unit, key, status, until, last_seq, end } = this.keys.get(header.kid);
    ensure(event.source === `/postern/${this.site}/${unit}`, 'wrong_key');
    const leaf = topic.split('/').slice(3).join('/'), backlog = leaf.startsWith('backlog');
    ensure(leaf === `event/${kind}` || leaf === `backlog/${kind}`, 'wrong_topic');
    ensure(`/${topic}` === `${event.source}/${leaf}`, 'wrong_unit');
    const signed = Buffer.from(canonicalize({ ...others, data })), digest = `sha256:${sha256(signed)}`;
    checkSignature(key, parts, signed);
    ensure(+now <= this.ends, 'expired');
    const replaced = until !== null || last_seq !== null;
    ensure(status === 'active' && +now <= end && (backlog || !replaced) && seq <= (last_seq ?? seq), 'revoked');
    const age = data.clock === 'synced' ? (now - time) / 1000 : null;
    const fresh = age !== null && !backlog && age >= -this.skew && age <= this.oldest;
    const chain = ((this.chains[event.source] ??= {})[header.kid] ??= newChain());
    const clocks = { signed: age === null ? null : time / 1000, now: Math.floor(now / 1000), fresh };
    const { refused, late, gap } = place(chain, data, digest, clocks);
    ensure(!refused, refused);
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
    const told = { subject: digest, site, unit: signer, reason, erased_at }, parts = String(signature).split('.');
    ensure(areTexts({ ...told, signature }, ['signature', ...Object.keys(told)]));
    const asked = sha256(Buffer.concat([Buffer.from('postern/tombstone/v1'), Buffer.from(subject, 'hex')]));
    ensure(site === this.site && signer === unit && digest === `sha256:${asked}`, 'wrong_subject');
    const header = readHeader(parts[0]), { key, unit: owner, status } = this.keys.get(header.kid) ?? {};
    ensure(owner === unit && status === 'active', 'unknown_key');
    ensure(parts.length === 3 && parts[1] === '');
    checkHeader(header, 'receipt');
    checkSignature(key, parts, Buffer.from(canonicalize({ ...told, ...RECEIPT })));
  }
}
module.exports = { Verifier, Refusal };
