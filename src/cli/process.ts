// SPDX-License-Identifier: Apache-2.0
/** Connects runCli to the real process: streams, signals, exit status. */
import { SealiftError } from '../errors.ts';
import type { Command } from './command.ts';
import { readEnvironment } from './context.ts';
import { withHelp } from './help.ts';
import { runCli } from './run.ts';

/** Runs the process's own command line over a command table and ends the process with its status. */
export async function main(commands: readonly Command[]): Promise<void> {
  demandNode(process.versions.node);
  const exit = await runCli(process.argv.slice(2), withHelp(commands), {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: readEnvironment(),
    now: () => new Date(),
    signal: listenForSignals(),
  });
  // Idle keep-alive sockets and a terminal in raw mode would hold the process for minutes.
  process.exit(exit);
}

/** The oldest Node that has all that sealift uses: zstd, the proxy settings of http, styleText (package.json, engines). */
const OLDEST_NODE = [24, 15] as const;

/** Many hosts still have Node 20, and its own error for what it lacks helps nobody. */
function demandNode(version: string): void {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1])) return;
  process.stderr.write(
    `sealift: error: Node ${OLDEST_NODE.join('.')} or newer is needed, this is ${version}\n` +
      '  hint: `./scripts/setup` in the repository brings one: node_modules/.bin/node\n',
  );
  process.exit(2);
}

/** The first Ctrl-C asks the command to stop at its next step (runCli says so); the second one leaves at once. */
function listenForSignals(): AbortSignal {
  const controller = new AbortController();
  const onSignal = (name: 'SIGINT' | 'SIGTERM'): void => {
    if (controller.signal.aborted) leave(name);
    controller.abort(
      new SealiftError('INTERRUPTED', name === 'SIGINT' ? 'interrupted' : 'terminated', {
        hint: 'run the same command again to go on',
        cause: name,
      }),
    );
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return controller.signal;
}

/** Dies of the signal: process.exit() would wait for a thread that reads a pipe to which nobody writes. */
function leave(name: 'SIGINT' | 'SIGTERM'): never {
  process.removeAllListeners(name);
  process.kill(process.pid, name);
  process.exit(name === 'SIGINT' ? 130 : 143); // the first process of a container does not die of signals
}
