// SPDX-License-Identifier: Apache-2.0
//
// Newer engines than the host's, for the longer test script: Docker 26 (trixie) and 28 (sid), each with the
// classic or the containerd image store. See the script `newer-docker` beside this file.
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { launchEngine } from './docker.ts';
import type { DockerEngine } from './docker.ts';
import { makeDir, runOk } from './workspace.ts';

const script = join(import.meta.dirname, 'newer-docker');

export type NewerDockerOptions = {
  /** Debian suite: `trixie` has Docker 26.1, `sid` has 28. */
  suite: 'trixie' | 'sid';
  /** Where images are kept: by a graph driver (overlay2) or by containerd's snapshotter. */
  store: 'classic' | 'containerd';
  /** Folder for data and log. */
  dir: string;
  /** Folders that containers may mount from, besides /tmp and `dir`: the rest of the root is another Debian. */
  share?: string[];
};

/** Starts it; the first time for a suite that means minutes of debootstrap. */
export async function startNewerDocker({
  suite,
  store,
  dir,
  share = [],
}: NewerDockerOptions): Promise<DockerEngine> {
  await runOk(script, ['prepare', suite]);
  const config = join(makeDir(resolve(dir)), 'daemon.json');
  writeFileSync(config, JSON.stringify({ features: { 'containerd-snapshotter': store === 'containerd' } }));
  return launchEngine({
    dir,
    configFile: config,
    command: (dockerd, folders) => [
      script,
      ['run', suite, ['/tmp', ...folders, ...share].join(':'), '--', ...dockerd],
    ],
  });
}
