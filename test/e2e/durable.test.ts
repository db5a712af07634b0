// SPDX-License-Identifier: Apache-2.0
/** What a host remembers is written so that no kill and no failing disk leaves it half written or forgotten. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Home } from '../../src/install/home.ts';
import { rememberTrust } from '../../src/install/trust-state.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { interruptAtEach } from '../support/interrupted-update.ts';
import { runWithFault, traced, type Fault } from '../support/strace.ts';
import { repoRoot, tempDir } from '../support/workspace.ts';
import { person, policyText, signedBy } from '../trust/helpers.ts';

describe('trust update, when a call fails or the process dies at it', () => {
  // Death at each rename is in attacks/policy.
  const CASES: [call: string, fault: Fault][] = [
    ['rename', 'error=ENOSPC'],
    ['fsync', 'signal=KILL'],
    ['fsync', 'error=EIO'],
    ['unlink', 'error=EIO'],
  ];
  it.each(CASES)('%s (%s)', async (call, fault) => {
    const people = [person('alice'), person('bob')];
    const [before, after] = [1, 2].map((version) => policyText(people, 2, '', version));
    const home = new Home(tempDir('durable'));
    writeFileSync(home.trustFile, before!);
    await rememberTrust(home, parseTrustPolicy(before!, 'trust.yaml'), [new Date('2026-11-20T00:00:00Z')]);
    const args = [join(tempDir('new'), 'new.yaml')];
    writeFileSync(args[0]!, after!);
    for (const who of people) {
      const file = join(tempDir('signature'), `${who.name}.json`);
      writeFileSync(file, await signedBy(who, Buffer.from(after!)));
      args.push('--signature', file);
    }
    const seen = await interruptAtEach({ home, before: before!, after: after!, args }, call, fault);
    expect(seen.size).toBeGreaterThan(call === 'unlink' ? 0 : 1);
  });
});

describe('the memory against rollbacks', () => {
  const PROGRAM = `
    import { Home } from ${JSON.stringify(join(repoRoot, 'src/install/home.ts'))};
    await new Home(process.argv[1]).setInstalled('demo', { version: '2.0.0', digest: 'sha256:' + 'b'.repeat(64) });
  `;
  const argv = (home: Home): string[] => ['--input-type=module', '-e', PROGRAM, home.root];

  async function remembering(): Promise<{ home: Home; before: string }> {
    const home = new Home(join(tempDir('memory'), 'home'));
    mkdirSync(home.root);
    await home.setInstalled('demo', { version: '1.0.0', digest: `sha256:${'a'.repeat(64)}` });
    return { home, before: readFileSync(home.path('installed.json'), 'utf8') };
  }

  it('is written beside its place, synced, renamed, and the folder synced, in this order', async () => {
    const { home } = await remembering();
    const lines = await traced(argv(home), 'write,pwrite64,fsync,fdatasync,rename');
    const calls = lines
      .filter((line) => line.includes(home.root))
      .map((line) =>
        line
          .replaceAll(home.root, 'HOME')
          .replace(/^\d+ +/, '')
          .replace(/\.[0-9a-f-]{36}\.tmp/g, '.TMP'),
      );
    expect(
      calls.map((call) =>
        call.replace(/^(\w+)\(.*?(HOME[^>",]*)(?:.*?(HOME[^>",]*"))?.*$/, '$1 $2 $3').trim(),
      ),
    ).toEqual([
      'write HOME/installed.json.TMP',
      'fsync HOME/installed.json.TMP',
      'rename HOME/installed.json.TMP HOME/installed.json"',
      'fsync HOME',
    ]);
  });

  it.each(
    ['rename', 'fsync'].flatMap((call) =>
      (['signal=KILL', 'error=EIO'] as const).map((f) => [call, f] as const),
    ),
  )('says the old or the new version when the %s meets %s', async (call, fault) => {
    for (let n = 1; ; n++) {
      const { home, before } = await remembering();
      if ((await runWithFault(argv(home), call, n, fault)) === undefined) break;
      const now = readFileSync(home.path('installed.json'), 'utf8');
      if (now === before) continue;
      expect((await home.installed()).get('demo')?.version).toBe('2.0.0');
    }
  });
});
