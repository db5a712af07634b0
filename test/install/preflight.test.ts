// SPDX-License-Identifier: Apache-2.0
/** The checks of a host that need no engine; test/install/engine has the others. */
import { describe, expect, it } from 'vitest';
import type { VerifiedBundle, VerifiedImage } from '../../src/bundle/open.ts';
import type { SealiftError } from '../../src/errors.ts';
import type { EngineClient } from '../../src/install/engine-client.ts';
import { Home } from '../../src/install/home.ts';
import { checkDisk, demandOpenable, laterThanHere } from '../../src/install/preflight.ts';
import { Store } from '../../src/store/store.ts';
import { tempDir } from '../support/workspace.ts';

const HERE = '2026-11-23T12:00:00Z';

function bundleOf(created: string, ...signedAt: string[]): VerifiedBundle {
  const accepted = [{}, ...signedAt.map((time) => ({ signedAt: new Date(time) }))];
  return { judgedAt: new Date(HERE), inventory: { created }, verdict: { accepted } } as VerifiedBundle;
}

it('a bundle that was made or stamped later than it is here is said to move the time', () => {
  expect(laterThanHere(bundleOf(HERE, HERE))).toBeUndefined();
  expect(laterThanHere(bundleOf('2026-11-23T12:59:59Z'))).toBeUndefined();
  for (const bundle of [bundleOf('2030-01-02T03:04:05Z', HERE), bundleOf(HERE, HERE, '2030-01-02T03:04:05Z')])
    expect(laterThanHere(bundle)).toMatch(
      /signed at 2030-01-02T03:04:05Z, and here it is 2026-11-23T12:00:00Z/,
    );
});

it('a port that a user may not open is refused where the engine opens it as a user', () => {
  expect(() => demandOpenable(443, { opensPortsAsUser: true }, 1024)).toThrow('port 443 is below 1024');
  expect(() => demandOpenable(443, { opensPortsAsUser: true }, 443)).not.toThrow();
  expect(() => demandOpenable(443, { opensPortsAsUser: false }, 1024)).not.toThrow();
});

describe('disk', () => {
  const layer = (hex: string, size: number): object => ({ digest: `sha256:${hex.repeat(64)}`, size });
  const image = (ref: string, ...layers: object[]): VerifiedImage =>
    ({ ref, layers, config: { digest: `sha256:${'c'.repeat(64)}` } }) as unknown as VerifiedImage;
  const engineWith = (rootFolder: string, id?: string): EngineClient =>
    ({
      facts: { rootFolder, store: 'classic' },
      image: () => Promise.resolve(id === undefined ? undefined : { id }),
    }) as unknown as EngineClient;
  const check = async (images: VerifiedImage[], engine: EngineClient | undefined): Promise<string> => {
    const root = tempDir('home');
    const store = await Store.open(root);
    return checkDisk({ home: new Home(root), store, blobs: [], spool: 0, engine, images });
  };
  const PIB = 2 ** 50;

  it('counts layers twice on the file system of the engine, each layer once', async () => {
    const images = [image('a', layer('1', PIB), layer('2', PIB)), image('b', layer('1', PIB))];
    const error = await check(images, engineWith(tempDir('engine'))).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'DISK_TOO_SMALL' });
    const { details } = error as SealiftError;
    expect(details.find(([what]) => what === 'images')?.[1]).toContain(`${4 * PIB} bytes in `);
  });

  it('asks for nothing where the engine has the image, or its folder is not ours to see', async () => {
    const images = [image('a', layer('1', PIB))];
    expect(await check(images, engineWith(tempDir('engine'), `sha256:${'c'.repeat(64)}`))).toMatch(
      / needed, .* free/,
    );
    expect(await check(images, engineWith('/nowhere/at/all'))).toMatch(/ needed, .* free/);
    expect(await check(images, undefined)).toMatch(/ needed, .* free/);
  });
});
