// SPDX-License-Identifier: Apache-2.0
/** Against real processes: small shell scripts that behave as signing tools do, or as they should not. */
import { createHash, sign } from 'node:crypto';
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { execSigner, type ExecSigner } from '../../../src/build/signers/exec.ts';
import { Output } from '../../../src/cli/output.ts';
import { signingTool } from '../../../src/cli/signers.ts';
import type { SealiftError } from '../../../src/errors.ts';
import { fingerprint } from '../../../src/trust/keys.ts';
import type { Signer } from '../../../src/trust/sign.ts';
import { verifySignatures } from '../../../src/trust/verify.ts';
import { Screen } from '../../cli/harness.ts';
import { tempDir, waitFor } from '../../support/workspace.ts';
import { NOW, person, policyOf, slotsOf, SUMS } from '../../trust/helpers.ts';

const dir = tempDir('exec-signer');
const alice = person('alice');
const bob = person('bob');
for (const who of [alice, bob]) {
  writeFileSync(join(dir, `${who.name}.pem`), who.privateKey.export({ type: 'pkcs8', format: 'pem' }));
}

const OPENSSL = `openssl pkeyutl -sign -inkey ${join(dir, 'alice.pem')}`;

function tool(script: string): string {
  const file = join(dir, `tool-${createHash('sha256').update(script).digest('hex').slice(0, 12)}.sh`);
  writeFileSync(file, `#!/bin/sh\n${script}\n`);
  chmodSync(file, 0o755);
  return file;
}

const screen = new Screen();
const out = new Output(new Screen(), screen, 'never');
interface Run {
  timeoutMs?: number;
  signal?: AbortSignal;
}
function runner({ timeoutMs = 20_000, signal = new AbortController().signal }: Run = {}): ReturnType<
  typeof signingTool
> {
  const prompt = {
    available: false,
    confirm: async () => false,
    wait: () => Promise.resolve(),
    secret: async () => '',
  };
  return signingTool({ out, prompt, signal }, timeoutMs);
}

const signerOf = (command: ExecSigner['command'], spec: Partial<ExecSigner> = {}, run?: Run): Signer =>
  execSigner({ command, publicKey: alice.publicKey, input: 'digest', ...spec }, runner(run));

async function failureOf(script: string, run?: Run): Promise<SealiftError> {
  return signerOf([tool(script)], {}, run)
    .sign(SUMS)
    .then(
      () => Promise.reject(new Error('it signed')),
      (error: SealiftError) => error,
    );
}

/** Not so for one that only waits to be reaped: nobody may do that in a container. */
function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

const accepted = (json: string): string[] =>
  verifySignatures(SUMS, slotsOf(json), policyOf([alice]), NOW).accepted.map((a) => a.signer);

describe('an exec signer', () => {
  it('is named by the fingerprint of its public key', () => {
    expect(signerOf(['true']).name).toBe(fingerprint(alice.publicKey));
  });

  const good: [string, ExecSigner['command'], Partial<ExecSigner>][] = [
    ['DER, files for both', ['sh', '-c', `${OPENSSL} -in {input} -out {output}`], {}],
    ['DER, stdin to stdout', ['sh', '-c', OPENSSL], {}],
    ['base64 in lines', ['sh', '-c', `${OPENSSL} -in {input} | base64 -w 20`], {}],
    [
      'the message and not its digest',
      ['openssl', 'dgst', '-sha256', '-sign', join(dir, 'alice.pem')],
      { input: 'message' },
    ],
    ['chatter on stderr', ['sh', '-c', `echo using slot 0 >&2; ${OPENSSL}`], {}],
    ['an argument in one piece', ['sh', '-c', `${OPENSSL} -in "$1"`, 'a b', '{input}'], {}],
  ];
  it('takes a folder for temporary files with any name', async () => {
    const before = process.env['TMPDIR'];
    process.env['TMPDIR'] = tempDir("odd $& $$ $' name");
    try {
      const command = ['sh', '-c', `${OPENSSL} -in "$1" -out "$2"`, 'sign', '{input}', '{output}'] as const;
      expect(accepted(await signerOf(command).sign(SUMS))).toEqual(['alice']);
    } finally {
      if (before === undefined) delete process.env['TMPDIR'];
      else process.env['TMPDIR'] = before;
    }
  });

  it.each(good)('takes %s', async (_, command, spec) => {
    expect(accepted(await signerOf(command, spec).sign(SUMS))).toEqual(['alice']);
  });

  it('lets a command chatter on stdout that writes its signature into a file, and repeats it when it fails', async () => {
    const script = `head -c 100000 /dev/zero | tr '\\0' 'x'; echo; echo no token; ${OPENSSL} -in {input} -out {output}`;
    expect(accepted(await signerOf(['sh', '-c', script]).sign(SUMS))).toEqual(['alice']);
    const failing = signerOf(['sh', '-c', 'echo no token; : {output}; exit 1']).sign(SUMS);
    await expect(failing).rejects.toMatchObject({ details: [['it said', 'no token']] });
  });

  it('takes a command that does not read its input', async () => {
    const signature = sign('sha256', SUMS, alice.privateKey).toString('base64');
    expect(
      accepted(await signerOf([tool(`exec <&-; echo ${signature}`)], { input: 'message' }).sign(SUMS)),
    ).toEqual(['alice']);
  });

  it('says that it asks', async () => {
    await signerOf(['sh', '-c', OPENSSL]).sign(SUMS);
    expect(screen.text).toContain('sealift: asking sh to sign\n');
  });

  it('says when the command is missing', async () => {
    await expect(signerOf(['sealift-no-such-tool']).sign(SUMS)).rejects.toMatchObject({
      code: 'SIGNER_FAILED',
      message: 'cannot start sealift-no-such-tool: spawn sealift-no-such-tool ENOENT',
    });
  });

  it('names the exit status and the last words, made safe to print', async () => {
    const script = `for i in 1 2 3 4 5 6 7 8 9; do echo line $i >&2; done; printf '\\033[31mCKR_PIN_INCORRECT\\033[0m\\007\\n' >&2; exit 3`;
    const error = await failureOf(script);
    expect(error.code).toBe('SIGNER_FAILED');
    expect(error.message).toMatch(/tool-\w+\.sh ended with exit status 3$/);
    expect(error.details).toHaveLength(8);
    expect(error.details.at(-1)).toEqual(['it said', 'CKR_PIN_INCORRECT']);
  });

  const bad: [string, string, RegExp][] = [
    ['says nothing', 'true', /gave nothing$/],
    [
      'writes junk',
      'head -c 70 /dev/zero',
      /gave 70 bytes that are neither a DER ECDSA signature nor its base64$/,
    ],
    ['writes text', 'echo "PKCS11 error: token not present"', /neither a DER ECDSA signature/],
    [
      'returns r and s',
      'head -c 64 /dev/urandom',
      /gave a raw signature \(r and s, 64 bytes\) instead of DER$/,
    ],
    ['returns r and s in base64', 'head -c 64 /dev/urandom | base64', /raw signature/],
    ['adds a byte', `${OPENSSL}; printf x`, /neither a DER/],
    ['writes megabytes', 'yes', /wrote more than 4096 bytes$/],
  ];
  it.each(bad)('gives no signature when the command %s', async (_, script, message) => {
    const error = await failureOf(script);
    expect(error).toMatchObject({ code: 'SIGNER_FAILED' });
    expect(error.message).toMatch(message);
  });

  it('hints at the option of pkcs11-tool for r and s', async () => {
    expect((await failureOf('head -c 64 /dev/zero')).hint).toContain('--signature-format openssl');
  });

  it.each([
    ['no file', 'true {output}', /wrote no file \{output\}/],
    ['an empty file', ': > {output}', /gave nothing/],
    [
      'an enormous file',
      'head -c 1000000 /dev/zero > {output}',
      /wrote more than 4096 bytes into \{output\}/,
    ],
    ['a folder', 'mkdir {output}', /EISDIR/],
  ])('gives no signature when the command writes %s', async (_, script, message) => {
    const signer = signerOf(['sh', '-c', script]);
    await expect(signer.sign(SUMS)).rejects.toThrow(message);
  });

  it("does not let another key's signature through, nor one over something else", async () => {
    const another = `openssl pkeyutl -sign -inkey ${join(dir, 'bob.pem')}`;
    const other = `head -c 32 /dev/zero | ${OPENSSL}`;
    for (const script of [another, other]) {
      const error = await failureOf(script);
      expect(error.code).toBe('BAD_SIGNATURE');
      expect(error.details).toEqual([['public key', fingerprint(alice.publicKey)]]);
    }
  });

  it('gives up on a command that hangs, and kills it with its children', async () => {
    const started = performance.now();
    const pidFile = join(dir, 'child');
    const error = await failureOf(`sleep 60 & echo $! > ${pidFile}; sleep 60`, { timeoutMs: 500 });
    expect(error).toMatchObject({ code: 'SIGNER_FAILED' });
    expect(error.message).toMatch(/took longer than 0\.5 s$/);
    expect(performance.now() - started).toBeLessThan(5000);
    const child = Number(readFileSync(pidFile, 'utf8'));
    await waitFor('the end of the child', () => (isRunning(child) ? undefined : true));
  });

  it('ends with Ctrl-C', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 200);
    expect(await failureOf('sleep 60', { signal: controller.signal })).toMatchObject({ code: 'INTERRUPTED' });
  });

  it('leaves no folder behind, whatever happens', async () => {
    const ours = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('sealift-sign-'));
    const before = ours();
    const seen = tool('dirname "$1" > ' + join(dir, 'folder') + '; stat -c %a "$(dirname "$1")" >&2; exit 1');
    const error = await signerOf([seen, '{input}'])
      .sign(SUMS)
      .catch((thrown: SealiftError) => thrown);
    expect((error as SealiftError).details).toEqual([['it said', '700']]);
    expect(ours()).toEqual(before);
  });

  it('passes the environment on', async () => {
    process.env['SEALIFT_TEST_PIN'] = 'yes';
    try {
      const script = `[ "$SEALIFT_TEST_PIN" = yes ] && ${OPENSSL}`;
      expect(accepted(await signerOf(['sh', '-c', script]).sign(SUMS))).toEqual(['alice']);
    } finally {
      delete process.env['SEALIFT_TEST_PIN'];
    }
  });
});
