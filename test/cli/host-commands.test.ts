// SPDX-License-Identifier: Apache-2.0
/** What the commands of the enclave host do before an engine is needed; test/e2e has the rest, with engines. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { command } from '../../src/cli/command.ts';
import { readEnvironment } from '../../src/cli/context.ts';
import { demandConsent, demandSomebody } from '../../src/cli/consent.ts';
import { INSIDE } from '../../src/cli/inside.ts';
import { documentOf, run } from './harness.ts';
import { person, policyOf, policyText } from '../trust/helpers.ts';
import { policyYaml, sampleBundle } from './sample.ts';

let home = '';
let bundle = '';
let socket = '';

beforeAll(async () => {
  const sample = await sampleBundle();
  ({ bundle } = sample);
  home = join(sample.dir, 'home');
  socket = join(sample.dir, 'no-engine.sock');
  await mkdir(home);
  await writeFile(join(home, 'trust.yaml'), policyYaml(sample.publicPem));
});

describe('a question', () => {
  let changed = false;
  const risky = command<{ yes: boolean }>({
    name: 'risky',
    summary: 'Change something',
    about: [],
    options: [{ flags: '--yes', about: 'do not ask' }],
    examples: [],
    exits: [],
    parse: (given) => ({ yes: given.is('yes') }),
    run: async ({ yes }, io) => {
      changed = false;
      demandSomebody(yes, io, 'risky');
      await demandConsent(yes, io, 'sure?');
      changed = true;
      return { schema: 'sealift/risky/v1', data: {}, text: [] };
    },
  });

  it.each([
    [['risky'], 'y\r', 0, true],
    [['risky'], 'n\r', 1, false],
    [['risky'], '\r', 1, false],
    [['risky'], '\x04', 130, false],
    [['risky', '--yes'], undefined, 0, true],
    [['risky'], undefined, 2, false],
  ])('%j answered %j ends with %d', async (argv, typed, exit, done) => {
    const ran = await run([risky], argv, typed === undefined ? {} : { typed });
    expect([ran.exit, changed]).toEqual([exit, done]);
  });
});

describe('install', () => {
  it('without a terminal and without --yes ends with 2 before it looks at anything', async () => {
    const ran = await run(INSIDE, ['install', '/nowhere', '--home', home]);
    expect(ran.exit).toBe(2);
    expect(ran.stderr).toContain('--yes');
    expect(ran.stderr).toContain('code: USAGE');
  });

  it('takes --yes from the command line only', async () => {
    const env = readEnvironment({ SEALIFT_YES: '1', SEALIFT_HOME: home });
    expect((await run(INSIDE, ['install', bundle], { env })).exit).toBe(2);
  });

  it.each([
    ['--policy', '/tmp/other.yaml'],
    ['--allow-unsigned'],
    ['--force'],
    ['--no-verify'],
    ['--key', 'x'],
  ])('has no %s', async (...flag) => {
    const ran = await run(INSIDE, ['install', bundle, '--yes', '--home', home, ...flag]);
    expect(ran.exit).toBe(2);
    expect(ran.stderr).toContain(`unknown option '${flag[0]}'`);
  });

  it('refuses a bundle that the policy of the home does not trust, and leaves the home as it was', async () => {
    const other = await sampleBundle();
    const before = await readdir(home);
    const ran = await run(INSIDE, [
      'install',
      other.bundle,
      '--yes',
      '--home',
      home,
      '--engine',
      socket,
      '--json',
    ]);
    expect(ran.exit).toBe(11);
    expect(documentOf(ran)).toMatchObject({ problem: { code: 'UNTRUSTED_SIGNER' } });
    expect(await readdir(home)).toEqual(before);
  });

  it('without an engine ends with 20, having shown what held', async () => {
    for (const how of ['--yes', '--dry-run']) {
      const ran = await run(INSIDE, ['install', bundle, how, '--home', home, '--engine', socket]);
      expect([ran.exit, ran.stdout]).toEqual([20, '']);
      expect(ran.stderr).toMatch(/^ok +signatures /m);
      expect(ran.stderr).toMatch(/^FAILED +engine /m);
      expect(ran.stderr).toContain('code: ENGINE_NOT_RUNNING');
    }
  });

  it('does not go to an engine over the network', async () => {
    const ran = await run(INSIDE, ['install', bundle, '--yes', '--home', home], {
      env: { DOCKER_HOST: 'tcp://127.0.0.1:2375' },
    });
    expect(ran.exit).toBe(20);
    expect(ran.stderr).toContain('only unix sockets');
  });

  it('without a trust policy ends with 2 and makes no home', async () => {
    const nowhere = `${home}-nowhere`;
    const ran = await run(INSIDE, ['install', bundle, '--yes', '--home', nowhere]);
    expect(ran.exit).toBe(2);
    expect(ran.stderr).toContain('code: POLICY_MISSING');
    expect(existsSync(nowhere)).toBe(false);
  });
});

describe('status and uninstall', () => {
  it('say when nothing is installed', async () => {
    const ran = await run(INSIDE, ['status', '--home', home, '--engine', socket, '--json']);
    expect(ran.exit).toBe(1);
    expect(documentOf(ran)).toMatchObject({ schema: 'sealift/error/v1', problem: { code: 'NOT_INSTALLED' } });
  });

  it('uninstall asks, and no is no', async () => {
    expect((await run(INSIDE, ['uninstall', '--home', home])).exit).toBe(2);
    const ran = await run(INSIDE, ['uninstall', '--home', home, '--engine', socket], { typed: 'n\r' });
    expect(ran.exit).toBe(1);
    expect(ran.stderr).toContain('code: CANCELLED');
  });
});

describe('trust', () => {
  it('host-key makes a key once, and only in a home that is there', async () => {
    const made = documentOf(await run(INSIDE, ['trust', 'host-key', '--home', home, '--json']));
    expect(made).toMatchObject({
      schema: 'sealift/host-key/v1',
      made: true,
      publicKey: join(home, 'host.pub'),
    });
    const again = await run(INSIDE, ['trust', 'host-key', '--home', home]);
    expect(again.stdout).toContain('it was there already');
    expect(again.stdout).toContain(String(made['fingerprint']));
    const shown = documentOf(await run(INSIDE, ['trust', 'show', '--home', home, '--json']));
    expect(shown).toMatchObject({ standing: 'first-use', hostKey: made['fingerprint'] });
    const nowhere = await run(INSIDE, ['trust', 'host-key', '--home', `${home}-nowhere`]);
    expect([nowhere.exit, existsSync(`${home}-nowhere`)]).toEqual([2, false]);
  });

  it('show says of each signer whether it counts now', async () => {
    const file = join(home, '..', 'shown.yaml');
    const people = [
      person('alice'),
      { ...person('bob'), notAfter: '2026-12-31T00:00:00Z' },
      { ...person('carol'), notBefore: '2028-01-01T00:00:00Z' },
      person('dave'),
    ];
    const revoked = policyOf(people).signers[3]!.fingerprint;
    await writeFile(file, policyText(people, 2, `revoked: { keys: ['${revoked}'] }\n`, 7));
    const ran = await run(INSIDE, ['trust', 'show', '--policy', file]);
    expect(ran.stdout).toMatch(/^policy 7 {2}sha256:/);
    for (const row of [
      /alice +sha256:[0-9a-f]{64} +valid +without end/,
      /bob .* expired +until 2026-12-31T00:00:00Z/,
      /carol .* not yet valid +from 2028/,
      /dave .* revoked/,
      /threshold +2 of 4/,
    ])
      expect(ran.stdout).toMatch(row);
    expect(documentOf(await run(INSIDE, ['trust', 'show', '--policy', file, '--json']))).toMatchObject({
      schema: 'sealift/trust/v1',
      standing: 'named',
      policy: { version: 7, threshold: 2, signers: [{ state: 'valid' }, { state: 'expired' }, {}, {}] },
    });
  });
});
