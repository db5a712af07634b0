// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Credentials, type RunHelper } from '../../../src/build/sources/credentials.ts';
import { tempDir } from '../../support/workspace.ts';
import { failure } from './support.ts';

function credentials(config: unknown, runHelper?: RunHelper): Credentials {
  const configFile = join(tempDir('docker'), 'config.json');
  writeFileSync(configFile, typeof config === 'string' ? config : JSON.stringify(config));
  return new Credentials({ configFile, runHelper });
}

const basic = (text: string): { auth: string } => ({ auth: Buffer.from(text).toString('base64') });
const password = (username: string, secret: string): object => ({
  kind: 'password',
  username,
  password: secret,
});

describe('config.json', () => {
  it.each([
    'registry.example:5000',
    'https://registry.example:5000',
    'http://registry.example:5000/',
    'https://registry.example:5000/v2/',
  ])('is found under the key %s', async (key) => {
    const found = await credentials({ auths: { [key]: basic('me:p:w') } }).forRegistry(
      'registry.example:5000',
    );
    expect(found).toEqual(password('me', 'p:w'));
  });

  it("files Docker's hub under the address of its old index", async () => {
    const found = await credentials({ auths: { 'https://index.docker.io/v1/': basic('me:pw') } }).forRegistry(
      'docker.io',
    );
    expect(found).toEqual(password('me', 'pw'));
  });

  it.each(['registry.example', 'registry.example:5001', 'registry.example:5000/team', 'other.example:5000'])(
    'says nothing about another place: %s',
    async (key) => {
      expect(
        await credentials({ auths: { [key]: basic('me:pw') } }).forRegistry('registry.example:5000'),
      ).toBeUndefined();
    },
  );

  it('knows identity tokens, registry tokens and plain names', async () => {
    const of = (entry: object): Promise<unknown> => credentials({ auths: { r: entry } }).forRegistry('r');
    expect(await of({ ...basic('00000000-0000:'), identitytoken: 'idt' })).toEqual({
      kind: 'identity-token',
      token: 'idt',
    });
    expect(await of({ registrytoken: 'rt' })).toEqual({ kind: 'registry-token', token: 'rt' });
    expect(await of({ username: 'u', password: 'p' })).toEqual(password('u', 'p'));
    expect(await of(basic('me:pw\0\0'))).toEqual(password('me', 'pw'));
    expect(await of({})).toBeUndefined();
  });

  it('may be missing', async () => {
    expect(await new Credentials({ configFile: '/nowhere/config.json' }).forRegistry('r')).toBeUndefined();
    expect(await new Credentials().forRegistry('r')).toBeUndefined();
  });

  it('that is broken is an error without its content', async () => {
    const error = await failure(
      credentials('{"auths":{"r":{"auth":"c2VjcmV0"').forRegistry('r'),
      'UNAUTHORIZED',
    );
    expect(JSON.stringify([error.message, String(error.cause), error.hint])).not.toContain('c2VjcmV0');
  });
});

describe('a credential helper', () => {
  const answering = (answer: object | string, exitCode = 0): RunHelper & { asked: string[][] } => {
    const asked: string[][] = [];
    const run: RunHelper = async (program, input) => {
      asked.push([program, input]);
      return { exitCode, stdout: typeof answer === 'string' ? answer : JSON.stringify(answer) };
    };
    return Object.assign(run, { asked });
  };

  it('of the host goes before the general one', async () => {
    const helper = answering({ ServerURL: 'r', Username: 'u', Secret: 's' });
    const found = await credentials(
      { credsStore: 'general', credHelpers: { 'r:5000': 'own' } },
      helper,
    ).forRegistry('r:5000');
    expect(found).toEqual(password('u', 's'));
    expect(helper.asked).toEqual([['docker-credential-own', 'r:5000']]);
  });

  it('is asked for the name under which docker files its hub', async () => {
    const helper = answering({ Username: '<token>', Secret: 'idt' });
    const found = await credentials({ credsStore: 'pass', auths: {} }, helper).forRegistry('docker.io');
    expect(found).toEqual({ kind: 'identity-token', token: 'idt' });
    expect(helper.asked).toEqual([['docker-credential-pass', 'https://index.docker.io/v1/']]);
  });

  it('that has nothing leaves the word to the file', async () => {
    const helper = answering('credentials not found in native keychain\n', 1);
    expect(
      await credentials({ credsStore: 'pass', auths: { r: basic('a:b') } }, helper).forRegistry('r'),
    ).toEqual(password('a', 'b'));
  });

  it.each([
    ['fails', 'boom s3cret', 1],
    ['talks nonsense', 'not json s3cret', 0],
    ['leaves out the name', '{"Secret":"s3cret"}', 0],
  ])('that %s is an error without what it said', async (_, stdout, exitCode) => {
    const work = credentials({ credsStore: 'pass' }, answering(stdout, exitCode)).forRegistry('r');
    const error = await failure(work, 'UNAUTHORIZED');
    expect(error.message).toContain('docker-credential-pass');
    expect(JSON.stringify([error.message, String(error.cause), error.hint, error.details])).not.toContain(
      's3cret',
    );
  });

  it('cannot be a path', async () => {
    const helper = answering({});
    await failure(credentials({ credsStore: '../../tmp/evil' }, helper).forRegistry('r'), 'UNAUTHORIZED');
    expect(helper.asked).toEqual([]);
  });
});
