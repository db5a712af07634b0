// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { checkProvenance } from '../../src/bundle/provenance.ts';
import { provenanceOf } from '../support/sample.ts';
import { sha256 } from '../support/signature.ts';

const inventory = Buffer.from('{}\n');
const subject = { name: 'bundle.json', digest: { sha256: sha256(inventory).toString('hex') } };
const good = {
  _type: 'https://in-toto.io/Statement/v1',
  subject: [subject],
  predicateType: 'https://slsa.dev/provenance/v1',
  predicate: {},
};
const check = (value: unknown): unknown => checkProvenance(Buffer.from(JSON.stringify(value)), inventory);

it('speaks of this inventory', () => {
  expect(() => check(good)).not.toThrow();
  expect(() => checkProvenance(provenanceOf(inventory), inventory)).not.toThrow();
});

it.each<[string, unknown, RegExp]>([
  ['null', null, /not a SLSA v1/],
  ['another type of statement', { ...good, _type: 'https://in-toto.io/Statement/v0.1' }, /not a SLSA v1/],
  ['another predicate', { ...good, predicateType: 'https://slsa.dev/provenance/v0.2' }, /not a SLSA v1/],
  ['no subject', { ...good, subject: [] }, /not a SLSA v1/],
  ['two subjects', { ...good, subject: [subject, subject] }, /not a SLSA v1/],
  ['a subject without a digest', { ...good, subject: [{ name: 'bundle.json' }] }, /not a SLSA v1/],
  [
    'a subject with another hash',
    { ...good, subject: [{ ...subject, digest: { sha512: 'x' } }] },
    /not a SLSA v1/,
  ],
  [
    'a subject of another name',
    { ...good, subject: [{ ...subject, name: 'index.json' }] },
    /another bundle\.json/,
  ],
  [
    'another inventory',
    { ...good, subject: [{ ...subject, digest: { sha256: '0'.repeat(64) } }] },
    /another bundle\.json/,
  ],
  [
    'this inventory in capitals',
    { ...good, subject: [{ ...subject, digest: { sha256: subject.digest.sha256.toUpperCase() } }] },
    /another bundle\.json/,
  ],
])('%s is refused', (_, value, why) => {
  expect(() => check(value)).toThrow(
    expect.objectContaining({ code: 'BUNDLE_MALFORMED', message: expect.stringMatching(why) }),
  );
});

it('that is not JSON is refused', () => {
  expect(() => checkProvenance(Buffer.from('x'), inventory)).toThrow(
    expect.objectContaining({ code: 'BUNDLE_MALFORMED', message: 'provenance.json is not valid JSON' }),
  );
});

const described = (buildType: unknown, id: unknown): unknown => ({
  ...good,
  predicate: { buildDefinition: { buildType }, runDetails: { builder: { id } } },
});

it('describes a build when it names the kind of build and the builder, and has its own digest', () => {
  const bytes = Buffer.from(JSON.stringify(described('https://b.example', 'https://c.example')));
  const digest = `sha256:${sha256(bytes).toString('hex')}`;
  expect(checkProvenance(bytes, inventory)).toEqual({ digest, describesBuild: true });
});

it.each([
  ['nothing', good],
  ['no kind of build', described(undefined, 'https://c.example')],
  ['an empty kind of build', described('', 'https://c.example')],
  ['no builder', described('https://b.example', undefined)],
  ['an empty builder', described('https://b.example', '')],
  ['no details of the run', { ...good, predicate: { buildDefinition: { buildType: 'b' } } }],
  ['no definition', { ...good, predicate: { runDetails: { builder: { id: 'c' } } } }],
])('describes none with %s', (_, value) => {
  expect(check(value)).toMatchObject({ describesBuild: false });
});
