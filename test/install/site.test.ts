// SPDX-License-Identifier: Apache-2.0
import { copyFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { Home } from '../../src/install/home.ts';
import { listeners, overlaps, parseListeners } from '../../src/install/ports.ts';
import { newApiKeys, readApiKeys } from '../../src/install/api-keys.ts';
import { parseSite, readSite } from '../../src/install/site.ts';
import { readTls } from '../../src/install/tls.ts';
import { freePort, runOk, tempDir } from '../support/workspace.ts';
import { makeHome, siteText } from './rig.ts';

const code = (expected: string, message = /./): unknown =>
  expect.objectContaining({ code: expected, message: expect.stringMatching(message) });

describe('site.yaml', () => {
  it('needs little, and has defaults for the rest', () => {
    const text =
      'apiVersion: sealift.dev/v1\nkind: Site\nhostName: llm.example.org\ntls: { certificate: a, key: b }\n';
    expect(parseSite(text, 'site.yaml')).toMatchObject({
      listen: { address: '0.0.0.0', port: 443 },
      metrics: { allow: [] },
    });
  });

  it.each([
    ['a misspelt key', siteText(1, 'metrcs: {}\n'), /site\.yaml:6:1: unknown key 'metrcs'/],
    ['a port that is none', siteText(70000), /listen\.port/],
    [
      'a host name that ends a directive',
      siteText(1).replace(/hostName: .*/, 'hostName: "a; return 200"'),
      /hostName/,
    ],
    ['a network that is none', siteText(1, 'metrics: { allow: ["10.0.0.0/33"] }\n'), /metrics\.allow\.0/],
    ['an address that is none', siteText(1).replace('127.0.0.1', 'localhost'), /listen\.address/],
  ])('refuses %s', (_, text, message) => {
    expect(() => parseSite(text, 'site.yaml')).toThrow(code('SITE_INVALID', message));
  });

  it('missing is another error than wrong', async () => {
    await expect(readSite(new Home(tempDir('site')))).rejects.toEqual(code('SITE_MISSING'));
  });
});

describe('keys of clients', () => {
  const file = join(tempDir('keys'), 'api-keys');
  const read = (text: string): ReturnType<typeof readApiKeys> => {
    writeFileSync(file, text);
    return readApiKeys(file);
  };

  it('are lines of name and key', async () => {
    expect(await read(`# comment\n\nteam-a ${'k'.repeat(20)}\nteam-b\t${'l'.repeat(32)}==\n`)).toEqual([
      { name: 'team-a', key: 'k'.repeat(20) },
      { name: 'team-b', key: `${'l'.repeat(32)}==` },
    ]);
    expect(await readApiKeys(`${file}.none`)).toBeUndefined();
  });

  it('that are made are accepted, and differ', async () => {
    const [a, b] = [await read(newApiKeys()), await read(newApiKeys())];
    expect(a![0]).toMatchObject({ name: 'default', key: expect.stringMatching(/^sk-[0-9a-f]{48}$/) });
    expect(a![0]!.key).not.toBe(b![0]!.key);
  });

  it.each([
    ['too short', `a ${'k'.repeat(19)}`],
    ['with a quote', `a "${'k'.repeat(30)}`],
    ['without a name', 'k'.repeat(30)],
    ['twice the same name', `a ${'k'.repeat(30)}\na ${'l'.repeat(30)}`],
    ['none at all', '# nobody\n'],
  ])('are refused when %s, without being shown', async (_, text) => {
    const error = await read(text).then(
      () => undefined,
      (e: Error) => e,
    );
    expect(error).toEqual(code('SITE_INVALID', /api-keys/));
    expect(error!.message).not.toMatch(/kkkk/);
  });
});

describe('certificate and key', () => {
  let home: Home;
  const site = parseSite(siteText(1), 'site.yaml');
  let now: Date;
  beforeAll(async () => {
    ({ home } = await makeHome());
    now = new Date(); // not before the certificate was made
  });

  it('that fit are accepted, with the pin that openssl computes', async () => {
    const tls = await readTls(site, home, now);
    const script =
      'openssl x509 -in "$0" -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64';
    expect(tls.publicKeyPin).toBe((await runOk('sh', ['-c', script, home.path('tls/server.crt')])).trim());
  });

  it('of another name only get a warning', async () => {
    const other = parseSite(siteText(1).replace(/hostName: .*/, 'hostName: other.example.org'), 'site.yaml');
    expect((await readTls(other, home, now)).warnings.join()).toMatch(/not for other\.example\.org/);
  });

  it('are refused when expired, or not valid yet', async () => {
    await expect(readTls(site, home, new Date(now.getTime() + 40 * 86_400_000))).rejects.toEqual(
      code('TLS_INVALID', /expired/),
    );
    await expect(readTls(site, home, new Date(now.getTime() - 86_400_000))).rejects.toEqual(
      code('TLS_INVALID', /valid only from/),
    );
  });

  it('are refused when they do not belong together, are missing, or are no PEM', async () => {
    const { home: other } = await makeHome();
    copyFileSync(home.path('tls/server.key'), other.path('tls/server.key'));
    await expect(readTls(site, other, now)).rejects.toEqual(code('TLS_INVALID', /is not the key of/));
    writeFileSync(other.path('tls/server.key'), 'no key');
    await expect(readTls(site, other, now)).rejects.toEqual(code('TLS_INVALID', /not a PEM private key/));
    await expect(readTls(site, new Home(tempDir('none')), now)).rejects.toEqual(
      code('TLS_INVALID', /cannot be read/),
    );
  });
});

describe('listening ports', () => {
  it('are read from the kernel', async () => {
    const port = await freePort();
    expect(await listeners(port)).toEqual([]);
    const { createServer } = await import('node:net');
    const server = createServer();
    await new Promise<void>((done) => server.listen(port, '127.0.0.1', done));
    expect(await listeners(port)).toEqual(['127.0.0.1']);
    await new Promise((done) => server.close(done));
  });

  it('of IPv6, too', () => {
    const table =
      '   0: 00000000000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 0 0 0\n';
    expect(parseListeners(table, 443)).toEqual(['0000:0000:0000:0000:0000:0000:0000:0001']);
  });

  it.each([
    ['0.0.0.0', '10.1.1.1', true],
    ['10.1.1.1', '10.1.1.1', true],
    ['10.1.1.1', '10.1.1.2', false],
    ['::', '127.0.0.1', true],
    ['0000:0000:0000:0000:0000:0000:0000:0000', '10.1.1.1', true],
  ])('%s and %s overlap: %s', (a, b, expected) => {
    expect(overlaps(a, b)).toBe(expected);
  });
});

describe('the home', () => {
  it('moves current atomically and remembers versions', async () => {
    const { home } = await makeHome();
    expect(await home.current()).toBeUndefined();
    await home.setCurrent('demo-1.0.0');
    await home.setCurrent('demo-1.1.0');
    expect(await home.current()).toBe('demo-1.1.0');
    expect((await home.installed()).size).toBe(0);
    await home.setInstalled('demo', { version: '1.1.0', digest: `sha256:${'a'.repeat(64)}` });
    expect((await home.installed()).get('demo')?.version).toBe('1.1.0');
  });

  it('does not take a damaged memory for an empty one', async () => {
    const { home } = await makeHome();
    writeFileSync(home.path('installed.json'), '{}');
    await expect(home.installed()).rejects.toEqual(code('IO_ERROR', /damaged/));
  });

  it('keeps secrets to its owner', async () => {
    const { home } = await makeHome();
    await home.prepare();
    expect(statSync(home.path('secrets')).mode & 0o777).toBe(0o700);
  });
});
