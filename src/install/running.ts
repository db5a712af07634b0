// SPDX-License-Identifier: Apache-2.0
/** Which releases run. Containers say so by a label: `current` does not, because it may name a release of another bundle. */
import type { EngineClient, EngineContainer } from './engine-client.ts';
import { RELEASE_LABEL } from './targets/compose.ts';

export const releasesOf = (containers: readonly Pick<EngineContainer, 'labels'>[]): ReadonlySet<string> =>
  new Set(containers.flatMap(({ labels }) => labels[RELEASE_LABEL] ?? []));

/** Releases of which there are containers in a Compose project; none in no project. */
export async function releasesIn(
  engine: EngineClient,
  project: string | undefined,
): Promise<ReadonlySet<string>> {
  return releasesOf(project === undefined ? [] : await engine.containers(project));
}
