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
const built = (buildType: string, id: string): object => ({
  buildDefinition: { buildType },
  runDetails: { builder: { id } },
});
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

it.each<[string, unknown, boolean]>([
  ['a build of some type by somebody', built('t', 'b'), true],
  ['nothing', {}, false],
  ['a build of no type', built('', 'b'), false],
  ['a build by nobody', built('t', ''), false],
  ['no builder', { ...built('t', 'b'), runDetails: {} }, false],
  ['no details', { buildDefinition: { buildType: 't' } }, false],
  ['no definition', { runDetails: { builder: { id: 'b' } } }, false],
])('that says %s: whether that describes a build', (_, predicate, expected) => {
  expect(check({ ...good, predicate })).toMatchObject({ describesBuild: expected });
});

it('is known by its digest, and may say nothing of the build at all', () => {
  const { predicate: _, ...bare } = good;
  const bytes = Buffer.from(JSON.stringify(bare));
  const digest = `sha256:${sha256(bytes).toString('hex')}`;
  expect(checkProvenance(bytes, inventory)).toEqual({ digest, describesBuild: false });
});

it('that is not JSON is refused', () => {
  expect(() => checkProvenance(Buffer.from('x'), inventory)).toThrow(
    expect.objectContaining({ code: 'BUNDLE_MALFORMED', message: 'provenance.json is not valid JSON' }),
  );
});
