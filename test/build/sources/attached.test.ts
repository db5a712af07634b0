// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { attachedTo, type Ask } from '../../../src/build/sources/attached.ts';
import { Credentials } from '../../../src/build/sources/credentials.ts';
import type { HttpDocument } from '../../../src/build/sources/http.ts';
import { imageSource } from '../../../src/build/sources/index.ts';
import { SealiftError } from '../../../src/errors.ts';
import { silent } from '../../../src/events.ts';
import { digestOf, type Digest } from '../../../src/store/digest.ts';
import { tinyImage } from '../../support/images.ts';
import { tempDir } from '../../support/workspace.ts';
import { failure } from '../fakes.ts';
import { serve, testContext } from './support.ts';

const INDEX = 'application/vnd.oci.image.index.v1+json';
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const TYPE = 'application/x';
const IMAGE = digestOf('image');

const entry = (letter: string): object => ({ mediaType: MANIFEST, digest: digestOf(letter), size: 1 });
const indexOf = (...manifests: unknown[]): string =>
  JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests });

interface Page {
  body: string | Uint8Array;
  type?: string;
  link?: string;
}

/** A registry that has these documents; paths that are not there are missing. */
function registry(pages: Readonly<Record<string, Page>>): { ask: Ask; asked: string[] } {
  const asked: string[] = [];
  const ask: Ask = (path, { missing }) => {
    const url = new URL(typeof path === 'string' ? `https://r.example/v2/repo/${path}` : path);
    const key = url.href.replace('https://r.example/v2/repo/', '');
    asked.push(key);
    const page = pages[key];
    if (page === undefined) {
      if (missing?.has(404) === true) return Promise.resolve(undefined);
      throw new Error(`${key} was not expected to be missing`);
    }
    const headers = {
      'content-type': page.type ?? INDEX,
      ...(page.link === undefined ? {} : { link: page.link }),
    };
    return Promise.resolve({
      status: 200,
      url,
      headers,
      bytes: Buffer.from(page.body),
    } satisfies HttpDocument);
  };
  return { ask, asked };
}

const API = `referrers/${IMAGE}?artifactType=application%2Fx`;
const FALLBACK = `manifests/sha256-${IMAGE.slice(7)}`;
const referrers = async (pages: Readonly<Record<string, Page>>, max = 64): Promise<Digest[]> =>
  (await attachedTo(registry(pages).ask, 'image').referrers(IMAGE, TYPE, max)).map(({ digest }) => digest);

test('referrers come from the API, page by page, on the same registry', async () => {
  const pages = {
    [API]: { body: indexOf(entry('a')), link: `</v2/repo/referrers/${IMAGE}?page=2>; rel="next"` },
    [`referrers/${IMAGE}?page=2`]: {
      body: indexOf(entry('b')),
      link: '<https://evil.example/v2/x>; rel="next"',
    },
  };
  const { ask, asked } = registry(pages);
  await attachedTo(ask, 'image').referrers(IMAGE, TYPE, 64);
  expect(asked).toEqual(Object.keys(pages));
  expect(await referrers(pages)).toEqual([digestOf('a'), digestOf('b')]);
  expect(await referrers(pages, 1)).toEqual([digestOf('a')]);
});

test('a list that leads back to itself ends', async () => {
  const pages = { [API]: { body: indexOf(entry('a')), link: `</v2/repo/${API}>; rel="next"` } };
  expect((await referrers(pages, 1000)).length).toBe(8);
});

test.each([
  ['has no such API', {}],
  ['lists nothing there', { [API]: { body: indexOf() } }],
  ['answers with a page of its own', { [API]: { body: '<html>', type: 'text/html' } }],
])('the fallback tag counts when the registry %s', async (_, pages) => {
  expect(await referrers({ ...pages, [FALLBACK]: { body: indexOf(entry('c')) } })).toEqual([digestOf('c')]);
  expect(await referrers(pages)).toEqual([]);
});

test('the host that a redirect leads to sees no password, on its second page either', async () => {
  const image = tinyImage({ name: 'listed', payload: 'x' });
  const thief = await serve((_, response, n) =>
    response
      .writeHead(200, { 'content-type': INDEX, ...(n === 1 && { link: '</page2>; rel="next"' }) })
      .end(indexOf()),
  );
  const { host, seen } = await serve(({ url = '', headers }, response) => {
    if (headers.authorization === undefined)
      return response.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }).end();
    if (url.includes('/referrers/')) return response.writeHead(307, { location: thief.url }).end();
    return response.end(image.blobs.get(/sha256:\w+/.exec(url)?.[0] ?? ''));
  });
  const configFile = join(tempDir('docker'), 'config.json');
  const auth = Buffer.from('user:password').toString('base64');
  writeFileSync(configFile, JSON.stringify({ auths: { [host]: { auth } } }));
  const context = await testContext({ credentials: new Credentials({ configFile }) });
  const source = imageSource(`${host}/r@${image.manifest.digest}`, context);
  const { attached } = await source.resolve(silent);
  await attached!.referrers(IMAGE, TYPE, 10).catch(() => {});
  expect(seen.some(({ headers }) => headers.authorization !== undefined)).toBe(true);
  expect(thief.seen.map(({ url }) => url)).toEqual(['/', '/page2']);
  for (const { headers } of thief.seen) expect(headers).not.toHaveProperty('authorization');
});

test('entries that could be no manifest are passed over', async () => {
  const body = indexOf(
    7,
    null,
    {},
    { ...entry('a'), digest: 'sha256:x' },
    { ...entry('a'), mediaType: INDEX },
    entry('b'),
  );
  expect(await referrers({ [FALLBACK]: { body } })).toEqual([digestOf('b')]);
});

test('what is asked for by digest is checked against it, in size too', async () => {
  const { ask } = registry({ [`blobs/${digestOf('good')}`]: { body: 'evil' } });
  const attached = attachedTo(ask, 'image');
  const blob = { mediaType: TYPE, digest: digestOf('good'), size: 4 };
  expect((await failure(attached.blob(blob, 10))).code).toBe('SOURCE_CHANGED');
  expect((await failure(attached.blob({ ...blob, size: 11 }, 10))).code).toBe('SOURCE_INVALID');
  expect((await failure(attached.manifest(blob, 10))).code).toBe('IMAGE_NOT_FOUND');
});

test('whatever a registry lists: typed errors only', async () => {
  const body = fc.oneof(
    fc.string(),
    fc.json(),
    fc
      .array(fc.oneof(fc.constant(entry('a')), fc.anything()))
      .map((manifests) => JSON.stringify({ manifests })),
    fc.uint8Array({ maxLength: 200 }),
  );
  const link = fc.option(
    fc.oneof(
      fc.string(),
      fc.webUrl().map((url) => `<${url}>; rel="next"`),
    ),
    { nil: undefined },
  );
  await fc.assert(
    fc.asyncProperty(body, link, async (text, next) => {
      const page = { body: text ?? '', ...(next === undefined ? {} : { link: next }) };
      try {
        const found = await referrers({ [API]: page, [FALLBACK]: page });
        expect(found.every((digest) => digest === digestOf('a'))).toBe(true);
      } catch (error) {
        expect(error).toBeInstanceOf(SealiftError);
      }
    }),
    { numRuns: 2000 },
  );
});
