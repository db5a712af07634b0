// SPDX-License-Identifier: Apache-2.0
/**
 * The exec signer: asks a command for a signature. What comes back is a claim like any other, and is verified
 * against the configured public key (rawSigner) before it is used.
 */
import { createHash, type KeyObject } from 'node:crypto';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { asSealiftError, SealiftError } from '../../errors.ts';
import { readBareSignature } from '../../trust/ecdsa-der.ts';
import { rawSigner, type Signer } from '../../trust/sign.ts';

/** Most that a command may write for a signature, in bytes. Base64 of one takes about 100. */
export const MAX_OUTPUT_BYTES = 4096;

export type Argv = readonly [string, ...string[]];

export interface ToolRun {
  code: number;
  /** What it wrote on stdout; empty when `stdout` was not asked for. */
  stdout: Buffer;
  /** The last lines that it said on stderr, safe to show; none when a person has seen them on the terminal. */
  said: readonly string[];
}

/**
 * Runs a command, bounded in time and in output (MAX_OUTPUT_BYTES).
 * @param stdin what it reads; undefined leaves stdin to the person at the terminal
 * @param stdout whether the signature comes that way; otherwise it is for the person, too
 * @throws {SealiftError} SIGNER_FAILED when it cannot start, hangs or floods; INTERRUPTED
 */
export type RunTool = (
  argv: Argv,
  streams: { stdin: Uint8Array | undefined; stdout: boolean },
) => Promise<ToolRun>;

export interface ExecSigner {
  /**
   * Program and arguments, no shell. `{input}` and `{output}` inside an argument become paths; without them the
   * input comes on stdin and the signature is taken from stdout.
   */
  command: Argv;
  publicKey: KeyObject;
  /** What the command is given: the 32 bytes of the SHA-256, or the message itself. */
  input: 'digest' | 'message';
}

/** @throws {SealiftError} KEY_INVALID. `sign` throws SIGNER_FAILED, BAD_SIGNATURE, INTERRUPTED, IO_ERROR */
export function execSigner(spec: ExecSigner, runTool: RunTool): Signer {
  return rawSigner(spec.publicKey, async (message) => {
    const content = spec.input === 'message' ? message : createHash('sha256').update(message).digest();
    // 0700 by mkdtemp: nobody else puts a signature there, or reads what is signed.
    const folder = await mkdtemp(join(tmpdir(), 'sealift-sign-'));
    try {
      return await askTool(spec.command, content, folder, runTool);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}

async function askTool(
  command: Argv,
  content: Uint8Array,
  folder: string,
  runTool: RunTool,
): Promise<Buffer> {
  const [input, output] = [join(folder, 'input'), join(folder, 'signature')];
  const uses = (word: string): boolean => command.some((arg) => arg.includes(word));
  if (uses('{input}')) await writeFile(input, content, { mode: 0o600 });
  // By functions: in a text, `$&` and its like, which a path may hold, would stand for something else.
  const argv = command.map((arg) =>
    arg.replaceAll('{input}', () => input).replaceAll('{output}', () => output),
  );
  const toFile = uses('{output}');
  const ran = await runTool(argv as [string, ...string[]], {
    stdin: uses('{input}') ? undefined : content,
    stdout: !toFile,
  });
  const [program] = command;
  if (ran.code !== 0) throw failed(`${program} ended with exit status ${ran.code}`, ran.said);
  const signature = readBareSignature(toFile ? await readOutput(output, program, ran) : ran.stdout);
  if ('der' in signature) return signature.der;
  throw failed(`${program} gave ${signature.problem}`, ran.said, signature.hint);
}

async function readOutput(path: string, program: string, { said }: ToolRun): Promise<Buffer> {
  try {
    const handle = await open(path);
    try {
      const { bytesRead, buffer } = await handle.read(Buffer.alloc(MAX_OUTPUT_BYTES + 1));
      if (bytesRead <= MAX_OUTPUT_BYTES) return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT')
      throw failed(`${program} ended well, but wrote no file {output}`, said);
    throw asSealiftError(thrown, `reading what ${program} wrote`);
  }
  throw failed(`${program} wrote more than ${MAX_OUTPUT_BYTES} bytes into {output}`, said);
}

const failed = (message: string, said: readonly string[], hint?: string): SealiftError =>
  new SealiftError('SIGNER_FAILED', message, {
    details: said.map((line) => ['it said', line] as const),
    ...(hint === undefined ? {} : { hint }),
  });
