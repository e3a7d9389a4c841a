// SPDX-License-Identifier: Apache-2.0
// What an event, a list of units and a signature's header look like, and how their bytes are read: one reading or none.
'use strict';
const crypto = require('node:crypto');
const canonicalize = require('canonicalize'); // RFC 8785

/** Thrown for whatever is not believed; `reason` is a stable code of the contract. */
class Refusal extends Error { constructor(reason) { super(reason); this.reason = reason; } }
const refuse = (reason) => { throw new Refusal(reason); };
const ensure = (held, reason = 'malformed') => held || refuse(reason);

// A form is a pattern for the whole of a text, or a predicate; a shape is an object of these members and no others.
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const isTexts = (value) => isObject(value) && Object.values(value).every((part) => typeof part === 'string');
const isNumber = (value) => Number.isSafeInteger(value) && value >= 1;
const fits = (form, value) => (typeof form === 'function' ? form(value)
  : typeof value === 'string' && new RegExp(`^(?:${form})$`).test(value));
const shape = (members, optional = {}) => (value) => isObject(value)
  && Object.keys(members).every((name) => Object.hasOwn(value, name))
  && Object.entries(value).every(([name, part]) => (Object.hasOwn(members, name) ? fits(members[name], part)
    : Object.hasOwn(optional, name) && (part === null || fits(optional[name], part))));
const [ANY, NAME, DIGEST] = ['[^]*', '[a-z0-9-]{1,64}', 'sha256:[0-9a-f]{64}'];
const TIME = '\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ';
const place = { event_type: ANY, boot: '[0-9a-f]{16}', seq: isNumber, prev: DIGEST, clock: 'synced|unsynced' };
const person = { subject: 'p1_[0-9a-f]{32}|s1_[\\w-]{86}', audience: NAME, epoch: '\\d{4}-W\\d\\d', zone: NAME };
const how = { method: 'face|token', liveness: 'not_checked|passed', policy: DIGEST, model: DIGEST };
const condition = 'camera_lost|camera_back|tamper|clock_step|storage_low|loss|started|stopping';
const isLoss = shape({ first: isNumber, last: isNumber, count: isNumber, reason: 'full|erased' });
const lost = (value) => isLoss(value) && value.count <= value.last - value.first + 1;
const KINDS = new Map([
  ['match', shape({ ...place, ...person, ...how }, { granted: `${NAME}( ${NAME}){0,7}` })],
  ['presence', shape({ ...place, ...person, state: 'arrived|left' })],
  ['unit', shape({ ...place, condition }, { lost })],
]);
const isEvent = shape({ specversion: '1\\.0', type: ANY, source: `/postern/${NAME}/${NAME}`, id: ANY, time: TIME,
  datacontenttype: 'application/json', data: isObject, sig: '[\\w-]{1,512}\\.\\.[\\w-]{86}' });
const isHeader = shape({ alg: ANY, kid: ANY, typ: ANY });
const isKey = (bound) => shape({ jwk: isTexts, status: 'active|revoked' }, { until: TIME, last_seq: bound });
const isUnits = (bound) => (units) => isObject(units) && Object.entries(units).every(([unit, keys]) => fits(NAME, unit)
  && Array.isArray(keys) && keys.length <= 16 && keys.every(isKey(bound)));
const isOf = (version, bound, more, optional) => shape({ version: (value) => value === version, site: NAME,
  serial: isNumber, issued_at: TIME, units: isUnits(bound), ...more }, optional);
const never = () => false, isFirst = isOf(1, never, {}, { expires_at: never });
const isSecond = isOf(2, isNumber, { expires_at: TIME }), isList = (value) => isFirst(value) || isSecond(value);

/** Bytes of base64url without padding in its one spelling; undefined for anything else. */
const decode = (text) => [Buffer.from(text, 'base64url')].find((bytes) => bytes.toString('base64url') === text);
const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest();
/** The P-256 key of a public JWK, and its RFC 7638 thumbprint. */
function readKey({ kty, crv, x, y }) {
  const isCoordinate = (part) => typeof part === 'string' && decode(part)?.length === 32;
  ensure(kty === 'EC' && crv === 'P-256' && isCoordinate(x) && isCoordinate(y));
  try { // createPublicKey refuses what is no point of the curve
    const key = crypto.createPublicKey({ key: { kty, crv, x, y }, format: 'jwk' });
    return { key, kid: sha256(canonicalize({ kty, crv, x, y })).toString('base64url') };
  } catch { return refuse('malformed'); }
}
/** Milliseconds since 1970; refuses a moment that does not exist. */
function moment(text) {
  const time = new Date(text);
  ensure(!text.startsWith('0000') && !Number.isNaN(+time) && time.toISOString() === text.replace('Z', '.000Z'));
  return +time;
}
/** Counts the members of all objects in a value; every number must be a safe integer. */
function members(value) {
  ensure(typeof value !== 'number' || Number.isSafeInteger(value));
  const parts = typeof value === 'object' && value !== null ? Object.values(value) : [];
  return parts.reduce((sum, part) => sum + members(part), isObject(value) ? parts.length : 0);
}
/** JSON in UTF-8 with one reading; JSON.parse alone hides a key that stands twice, and takes 1.0 and 1e0 for 1. */
function parse(bytes, limit) {
  try {
    const text = new TextDecoder('utf-8', { fatal: ensure(bytes.length <= limit), ignoreBOM: true }).decode(bytes);
    const value = JSON.parse(text);
    const bare = text.replace(/"[^"\\]*(?:\\.[^"\\]*)*"/g, ''); // without its texts: one colon is left for each key
    return ensure(!/\d[.e]/i.test(bare) && members(value) === bare.split(':').length - 1) && value;
  } catch { return refuse('malformed'); }
}
Object.assign(exports, { Refusal, ensure, refuse, isObject, isTexts, isEvent, isHeader, isList, KINDS });
Object.assign(exports, { decode, sha256, moment, parse, readKey });
