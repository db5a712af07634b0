// SPDX-License-Identifier: Apache-2.0
/** An engine (or a signed reference that makes one do it) answers with a redirect into the network. */
import { createServer, type Server } from 'node:http';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { person, sampleBundle } from '../support/sample.ts';
import { repoRoot, run, runOk, tempDir } from '../support/workspace.ts';

const work = tempDir('redirect');
const socket = join(work, 'engine.sock');
const alice = person('alice');
let reached = 0;
const asked: string[] = [];
let network: Server;
let engine: Server;

beforeAll(async () => {
  network = createServer((_, answer) => {
    reached++;
    answer.end('{}');
  });
  await new Promise<void>((done) => network.listen(0, '127.0.0.1', done));
  const { port } = network.address() as AddressInfo;
  engine = createServer((request, answer) => {
    asked.push(request.url ?? '');
    answer.writeHead(301, { location: `http://127.0.0.1:${port}/leak` }).end();
  });
  await new Promise<void>((done) => engine.listen(socket, done));
  await runOk(process.execPath, [join(repoRoot, 'scripts/build.ts'), join(work, 'dist')]);
});

afterAll(() => {
  network.close();
  engine.close();
});

it('is asked, and not followed', async () => {
  const home = join(work, 'home');
  mkdirSync(home);
  cpSync(await (await sampleBundle({ services: [] })).write([alice]), join(work, 'b.sealift.tar'));
  const pem = alice.publicPem.trim().replace(/^/gm, '      ');
  const signer = `signers:\n  - name: alice\n    publicKey: |\n${pem}\n`;
  writeFileSync(
    join(home, 'trust.yaml'),
    `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: 1\nthreshold: 1\n${signer}`,
  );
  const args = [
    'install',
    join(work, 'b.sealift.tar'),
    '--home',
    home,
    '--engine',
    socket,
    '--yes',
    '--json',
  ];
  const ended = await run(process.execPath, [join(work, 'dist/enclave.mjs'), ...args], { timeout: 60_000 });
  expect(asked.length).toBeGreaterThan(0);
  expect(reached).toBe(0);
  expect(JSON.parse(ended.stdout)).toMatchObject({ problem: { code: 'ENGINE_NOT_RUNNING' } });
  expect(ended.code).toBe(20);
});
