// SPDX-License-Identifier: Apache-2.0
/** What the lock and the build need from a place that images or models come from. */
import type { Emit } from '../../events.ts';
import type { Descriptor } from '../../bundle/inventory.ts';
import type { Digest, Expected } from '../../store/digest.ts';
import type { BlobSource, Store } from '../../store/store.ts';
import type { Attached } from './attached.ts';
import type { Credentials } from './credentials.ts';
import type { NetworkOptions } from './http.ts';

export interface ImageSource {
  /** Finds the platform's image. Layers are not fetched, except where the source must read them to know them. */
  resolve(emit: Emit): Promise<ResolvedImage>;
}

export interface ResolvedImage {
  /** Full reference `registry/repository:tag`, when the source gives the image one. */
  ref: string | undefined;
  /** The platform's manifest; `manifestBytes` hash to its digest. */
  manifest: Descriptor;
  manifestBytes: Buffer;
  /** The multi-platform index that the tag named, when there was one. */
  index?: Digest;
  /** The config and the layers, by digest. */
  blob(expected: Expected): BlobSource;
  /** What lies beside the image, signatures for one. Only registries have that. */
  attached?: Attached;
}

export type ChooseFiles = (listed: readonly SourceFile[]) => SourceFile[];

/** What a lock says of where a model is. */
export interface LockedRevision {
  revision: string;
  /** Base URL of the hub that was locked. */
  hub?: string | undefined;
}

export interface ModelSource {
  /** @param choose picks and orders the files to carry, before anything is read that only they need */
  resolve(emit: Emit, choose?: ChooseFiles): Promise<ResolvedModel>;
}

export interface ResolvedModel {
  /** Base URL of the hub. */
  hub?: string;
  repo?: string;
  /** Commit of the hub, or `sha256:` over the sorted `<hex>  <path>` lines of local files. */
  revision: string;
  license?: string;
  /** The chosen ones; without a choice all, sorted by path, by UTF-16 code unit. */
  files: SourceFile[];
  file(path: string): BlobSource;
}

export interface SourceFile {
  path: string;
  /** Bytes. */
  size: number;
  /** Known beforehand for LFS files and, when the lock is made, for local files. */
  digest?: Digest;
  /** Otherwise on a hub: SHA-1 of `blob <size>\0` and the content, 40 hex digits, to be checked while hashing. */
  gitOid?: string;
}

export interface SourceContext {
  /** Folder that relative paths start from: the manifest's own. */
  baseDir: string;
  store: Store;
  /** `linux/amd64` */
  platform: string;
  /** Path of the Docker engine's unix socket. */
  docker?: string | undefined;
  credentials: Credentials;
  /** Registry host → base URL of the mirror that is asked instead. */
  mirrors: ReadonlyMap<string, string>;
  /** Hosts, with or without a port, that may be spoken to without TLS. Loopback always may. */
  plainHttp: ReadonlySet<string>;
  /** Only ever sent to the origin of `hubUrl`. */
  hubToken?: string | undefined;
  hubUrl: string;
  /** A person named `hubUrl`; otherwise it is the default, and a lock's own hub goes before it. */
  hubGiven?: boolean | undefined;
  /** Proxy variables and time limits. */
  network?: NetworkOptions | undefined;
  emit: Emit;
  signal?: AbortSignal | undefined;
}
