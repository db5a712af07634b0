// SPDX-License-Identifier: Apache-2.0
/** Flags of the commands that work on an enclave host, and what they come to. */
import { Home } from '../install/home.ts';
import type { Given, OptionSpec } from './command.ts';
import { engineSocket, homeFolder, type Environment } from './context.ts';

export const HOME_OPTION: OptionSpec = {
  flags: '--home <DIR>',
  about: 'folder of the installation (default: /var/lib/sealift)',
};
/** The same for every command that works on a host, so that a script can keep them in one variable. */
export const HOST_OPTIONS: readonly OptionSpec[] = [
  HOME_OPTION,
  {
    flags: '--engine <SOCKET>',
    about: 'unix socket of the container engine (default: /var/run/docker.sock)',
  },
  { flags: '--compose <FILE>', about: 'the Compose v2 executable, instead of the one on PATH' },
];
export const YES_OPTION: OptionSpec = { flags: '--yes', about: 'do not ask' };

export interface HostFlags {
  home: string | undefined;
  engine: string | undefined;
  compose: string | undefined;
}

export const hostFlags = (given: Given): HostFlags => ({
  home: given.text('home'),
  engine: given.text('engine'),
  compose: given.text('compose'),
});

/** Where a shell of a service would look for programs. */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** What planInstall, readStatus and uninstall need to find the home, the engine and Compose. */
export interface HostPaths {
  home: Home;
  socket: string;
  path: string;
  compose?: string;
}

export function hostPaths(flags: HostFlags, env: Environment): HostPaths {
  return {
    home: new Home(homeFolder(flags.home, env)),
    socket: engineSocket(flags.engine, env),
    path: env.PATH ?? DEFAULT_PATH,
    ...(flags.compose === undefined ? {} : { compose: flags.compose }),
  };
}
