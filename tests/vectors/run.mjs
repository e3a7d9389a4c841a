// SPDX-License-Identifier: Apache-2.0
// Runs the vectors of this folder against the verifier in JavaScript:
//   npm ci --prefix deploy/node-red && node tests/vectors/run.mjs
// Prints what differs and how many cases of each subject were run; status 1 when anything differs.
//   node tests/vectors/run.mjs FOLDER SUBJECT...   with the verifier in another folder, and these subjects alone
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createHmac } from 'node:crypto';
import { resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';

const here = new URL('.', import.meta.url);
const folder = resolve(process.argv[2] ?? new URL('../../deploy/node-red', here).pathname);
const require = createRequire(`${folder}/`);
const { Verifier, Refusal } = require('./postern-verify.js');

const bytes = (message) => (message.payload === undefined
  ? Buffer.from(message.payload_base64url, 'base64url') : Buffer.from(message.payload));

/** What the verifier says, as a vector spells it; anything but a Refusal is a fault of the verifier. */
function told(say) {
  try {
    return { accepted: say() };
  } catch (error) {
    return error instanceof Refusal ? { refused: error.reason } : { fault: error.stack };
  }
}

function hear(verifier, message) {
  return told(() => {
    const { event, ...facts } = verifier.check(message.topic, bytes(message), new Date(message.now));
    return facts;
  });
}

/** For each subject: what a case gives, as [expected, actual] pairs. */
const SUBJECTS = {
  events({ site_key, trust }, { time_step_s: timeStep, trust: own = trust, ...message }) {
    return [[message.expect, hear(new Verifier(site_key, own, { timeStep }), message)]];
  },
  chains({ site_key, trust }, { messages, missing }) {
    return [false, true].flatMap((restarts) => { // a restart before each message must change nothing
      let verifier = new Verifier(site_key, trust);
      const heard = messages.map((message) => {
        if (restarts) verifier = new Verifier(site_key, trust, { state: verifier.export() });
        return [message.expect, hear(verifier, message)];
      });
      return [...heard, [missing, Object.fromEntries(Object.keys(missing).map((unit) => [unit, verifier.missing(unit)]))]];
    });
  },
  trust({ site_key }, { lists }) {
    let verifier;
    return lists.map(({ list, expect }) => [expect, told(() => {
      if (verifier) verifier.trust(list);
      else verifier = new Verifier(site_key, list);
      const { site, serial, expires_at } = verifier;
      const keys = [...verifier.keys].map(([kid, { key, end, ...facts }]) => [kid, facts]);
      return { site, serial, expires_at, keys: Object.fromEntries(keys) };
    })]);
  },
  receipts({ site_key, trust }, { asked, receipt, expect }) {
    return [[expect, told(() => {
      new Verifier(site_key, trust).checkReceipt(receipt, asked.unit, asked.subject);
      return { unit: receipt.unit, subject: receipt.subject, reason: receipt.reason };
    })]];
  },
  pseudonyms(_, { make, expect }) {
    if (make === undefined || expect.pseudonym === undefined) return [];
    const subject = Buffer.from(make.subject, 'hex'), label = Buffer.from('postern/subject/v1');
    const digest = createHmac('sha256', Buffer.from(make.key, 'base64url'))
      .update(Buffer.concat([label, Buffer.from([subject.length]), subject])).digest('hex');
    return [[expect.pseudonym, `p1_${digest.slice(0, 32)}`]];
  },
};

let differ = 0;
const asked = process.argv.slice(3);
for (const subject of asked.length > 0 ? asked : Object.keys(SUBJECTS)) {
  const file = JSON.parse(readFileSync(new URL(`${subject}.json`, here)));
  if (file.format !== 1) throw new Error(`${subject}.json is of format ${file.format}, not 1`);
  let count = 0;
  for (const one of file.cases) {
    const pairs = SUBJECTS[subject](file, one);
    if (pairs.length > 0) count += 1;
    pairs.forEach(([expected, actual], number) => {
      if (isDeepStrictEqual(expected, actual)) return;
      differ += 1;
      console.log(`${subject}/${one.name}, step ${number + 1}: ${JSON.stringify(actual)}, not ${JSON.stringify(expected)}`);
    });
  }
  console.log(`${subject}: ${count} cases`);
}
process.exitCode = differ > 0 ? 1 : 0;
