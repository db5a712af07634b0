// SPDX-License-Identifier: Apache-2.0
/** Who signs: key files (`--key`) and signer documents (`--signer`), made ready before the work begins. */
import { basename, dirname, isAbsolute, resolve } from 'node:path';
import { keylessSigner } from '../build/signers/keyless.ts';
import { execSigner, MAX_OUTPUT_BYTES, type Argv, type RunTool } from '../build/signers/exec.ts';
import { parseSigner, type ExecSpec, type KeylessSpec } from '../build/signers/document.ts';
import { SealiftError } from '../errors.ts';
import { runBytes } from '../install/host.ts';
import { plainLine } from '../install/text.ts';
import { loadPublicKey } from '../trust/keys.ts';
import type { Signer } from '../trust/sign.ts';
import type { OptionSpec } from './command.ts';
import { wholeEnvironment, type Io } from './context.ts';
import { readText } from './files.ts';
import { loadKeys, type PassphraseSource } from './secrets.ts';

export const SIGNER_OPTION: OptionSpec = {
  flags: '--signer <FILE>',
  about: 'with a hardware key, KMS or keyless (help signer)',
};

export interface SignerFlags {
  keys: readonly string[];
  documents: readonly string[];
  passphrase: PassphraseSource;
}

/** Time for a person to find the token, type its PIN and touch it, in milliseconds. */
const TOOL_MS = 5 * 60_000;
/** Lines of what a command said that are shown when it fails. */
const SAID_LINES = 8;

/**
 * Opens keys and reads signer documents, asking for passphrases now rather than after hours of work.
 * @throws {SealiftError} FILE_MISSING, KEY_INVALID, WRONG_PASSPHRASE, SIGNER_INVALID, USAGE
 */
export async function loadSigners(flags: SignerFlags, io: Io): Promise<Signer[]> {
  const signers = await loadKeys(flags.keys, flags.passphrase, io);
  for (const file of flags.documents) signers.push(await loadSigner(file, io));
  return signers;
}

async function loadSigner(file: string, io: Io): Promise<Signer> {
  const hint = '`sealift help signer` prints one to start from';
  const document = parseSigner(await readText(file, 'the signer document', 'FILE_MISSING', hint), file);
  const beside = (path: string): string => resolve(dirname(file), path);
  return document.exec === undefined
    ? loadKeyless(document.keyless!, beside, io)
    : loadExec(document.exec, beside, io);
}

async function loadKeyless(
  spec: KeylessSpec,
  beside: (path: string) => string,
  { env, emit, signal }: Io,
): Promise<Signer> {
  const tokenFile = beside(spec.tokenFile);
  const rootFile = spec.trustedRoot === undefined ? undefined : beside(spec.trustedRoot);
  const { fulcio, rekor, tsa, identity } = spec;
  const signer = {
    fulcio,
    rekor,
    tsa,
    tokenFile,
    readToken: () => readText(tokenFile, 'the token file'),
    ...(identity && { identity }),
    ...(rootFile && { trustedRoot: { text: await readText(rootFile, 'the trusted root'), file: rootFile } }),
  };
  return keylessSigner(signer, { proxyEnv: env, emit, signal });
}

async function loadExec(spec: ExecSpec, beside: (path: string) => string, io: Io): Promise<Signer> {
  const publicKeyFile = beside(spec.publicKey);
  const publicKey = loadPublicKey(await readText(publicKeyFile, 'the public key'), publicKeyFile);
  const [program = '', ...args] = spec.command;
  // A program with a folder in its name stands beside the document; a bare one is looked for on PATH.
  const found = program.includes('/') && !isAbsolute(program) ? beside(program) : program;
  return execSigner({ command: [found, ...args], publicKey, input: spec.input }, signingTool(io));
}

/**
 * Runs signing commands with the whole environment, since PINs and credentials of cloud tools are in it. On a
 * terminal the command has it to itself: it may ask for a PIN, or to touch the key.
 */
export function signingTool(io: Pick<Io, 'out' | 'prompt' | 'signal'>, timeoutMs: number = TOOL_MS): RunTool {
  return async (argv, { stdin, stdout }) => {
    const person = io.prompt.available && !io.out.jsonNotes;
    io.out.note(
      `sealift: asking ${basename(argv[0])} to sign${person ? ' (it may want a PIN or a touch)' : ''}`,
    );
    const ran = await start(argv, {
      env: wholeEnvironment(),
      timeoutMs,
      signal: io.signal,
      ...(stdin === undefined ? {} : { input: stdin }),
      ...(stdout ? { maxStdoutBytes: MAX_OUTPUT_BYTES } : {}),
      ...(person ? { terminal: stdout ? 'stderr' : 'all' } : {}),
    });
    // Ctrl-C on a shared terminal reaches both.
    if (io.signal.aborted) throw new SealiftError('INTERRUPTED', `interrupted while ${argv[0]} was to sign`);
    const { code, stderr } = ran;
    return stdout
      ? { code, stdout: ran.stdout, said: lastLines(stderr) }
      : { code, stdout: Buffer.alloc(0), said: lastLines(`${ran.stdout.toString()}\n${stderr}`) };
  };
}

async function start(
  argv: Argv,
  options: Parameters<typeof runBytes>[1],
): Promise<Awaited<ReturnType<typeof runBytes>>> {
  try {
    return await runBytes(argv, options);
  } catch (thrown) {
    if (!(thrown instanceof SealiftError) || thrown.code === 'INTERRUPTED') throw thrown;
    throw new SealiftError('SIGNER_FAILED', thrown.message, {
      hint: 'try the command by hand, as the signer document has it',
      cause: thrown,
    });
  }
}

const lastLines = (text: string): string[] =>
  text
    .split('\n')
    .map((line) => plainLine(line))
    .filter((line) => line !== '')
    .slice(-SAID_LINES);
