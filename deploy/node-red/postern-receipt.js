// SPDX-License-Identifier: Apache-2.0
// Verifies a receipt of erasure: what a unit states about a reference that is gone.
'use strict';
const crypto = require('node:crypto');
const canonicalize = require('canonicalize'); // RFC 8785
const { ensure, refuse, isTexts } = require('./postern-forms.js');
const { readHeader, checkHeader, checkSignature } = require('./postern-verify.js');

const SIGNED = ['subject', 'site', 'unit', 'reason', 'erased_at'];
const CONSTANT = { type: 'io.postern.erasure.v1', statement: 'reference, its key and the key over it were destroyed' };

/** Refuses unless `unit` itself, by its key in `verifier`'s list, signed this receipt for `subject` (32 hex digits). */
function checkReceipt(verifier, receipt, unit, subject) {
  const { signature = '', ...members } = receipt ?? {};
  const told = Object.fromEntries(SIGNED.map((name) => [name, members[name]]));
  ensure(isTexts({ ...told, signature }));
  const digest = crypto.createHash('sha256').update('postern/tombstone/v1').update(subject, 'hex').digest('hex');
  ensure(told.site === verifier.site && told.unit === unit && told.subject === `sha256:${digest}`, 'wrong_subject');
  const parts = signature.split('.'), header = readHeader(parts[0]), trusted = verifier.keys.get(header.kid);
  ensure(trusted?.unit === unit && trusted.status === 'active', 'unknown_key');
  ensure(parts.length === 3 && parts[1] === '');
  checkHeader(header, 'receipt');
  const signed = Buffer.from(canonicalize({ ...told, ...CONSTANT }));
  checkSignature(trusted.key, parts[0], signed, parts[2] || refuse('unsigned'));
}
module.exports = { checkReceipt };
