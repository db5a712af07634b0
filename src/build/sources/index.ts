// SPDX-License-Identifier: Apache-2.0
/** Where images and models come from: dispatch on the `from` of the manifest. */
import type { Descriptor } from '../../bundle/inventory.ts';
import { SealiftError } from '../../errors.ts';
import { withoutUserinfo } from './address.ts';
import { daemonImage } from './daemon.ts';
import { folderModel } from './file.ts';
import { HttpClient } from './http.ts';
import { hubModel } from './hub.ts';
import { layoutImage } from './layout.ts';
import { parseReference } from './reference.ts';
import { registryImage } from './registry.ts';
import type { ImageSource, LockedRevision, ModelSource, SourceContext } from './source.ts';

/**
 * One client per command, so that all its sources share connections, and the bound of them. Contexts are copied on
 * their way, with other signals; their credentials are one object.
 */
const clients = new WeakMap<SourceContext['credentials'], HttpClient>();

function clientOf({ credentials, plainHttp, emit, network }: SourceContext): HttpClient {
  const client = clients.get(credentials) ?? new HttpClient({ plainHttp, emit, ...network });
  clients.set(credentials, client);
  return client;
}

/**
 * @param from `registry/repository:tag`, `docker-daemon:name:tag`, `oci:./folder[:ref]` or `oci-archive:./x.tar[:ref]`
 * @param locked resolve exactly this manifest instead of following the tag
 * @throws {SealiftError} MANIFEST_INVALID when `from` has no such form
 */
export function imageSource(
  from: string,
  context: SourceContext,
  locked?: { manifest: Descriptor },
): ImageSource {
  const { scheme, rest } = split(from);
  switch (scheme) {
    case 'docker-daemon':
      return daemonImage(rest, context, locked);
    case 'oci':
    case 'oci-archive':
      return layoutImage(scheme, rest, context, locked);
    default:
      return registryImage(parseReference(from), context, clientOf(context), locked);
  }
}

/**
 * @param from `hf:org/name[@revision]`, `hf+https://hub/org/name[@revision]` or `file:./folder`
 * @param locked resolve exactly this revision instead of following the branch
 * @throws {SealiftError} MANIFEST_INVALID when `from` has no such form
 */
export function modelSource(from: string, context: SourceContext, locked?: LockedRevision): ModelSource {
  const { scheme, rest } = split(from);
  switch (scheme) {
    case 'hf':
    case 'hf+https':
    case 'hf+http':
      return hubModel(from, context, clientOf(context), locked);
    case 'file':
      return folderModel(rest, context, locked);
    default:
      throw new SealiftError(
        'MANIFEST_INVALID',
        `'${withoutUserinfo(from)}' does not say where the model comes from`,
        {
          hint: 'write it as hf:organisation/name@revision, hf+https://hub.example/organisation/name, or file:./folder',
        },
      );
  }
}

/** Whether content lies in files of this machine, each a blob as it is: to be read in place, without a copy in the store. */
export const isLocal = (from: string): boolean => ['file', 'oci'].includes(split(from).scheme);

function split(from: string): { scheme: string; rest: string } {
  const colon = from.indexOf(':');
  return { scheme: from.slice(0, Math.max(colon, 0)), rest: from.slice(colon + 1) };
}
