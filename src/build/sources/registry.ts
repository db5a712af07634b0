// SPDX-License-Identifier: Apache-2.0
/** Images of a registry (OCI distribution-spec v1.1, pull part). */
import type { Descriptor } from '../../bundle/inventory.ts';
import { SealiftError } from '../../errors.ts';
import { digestOf, isDigest, type Expected } from '../../store/digest.ts';
import type { BlobSource } from '../../store/store.ts';
import { withoutUserinfo } from './address.ts';
import { attachedTo, type AskOptions } from './attached.ts';
import { authorize, unauthorized, type AuthTarget } from './auth.ts';
import type { HttpClient, HttpDocument, HttpHead, HttpResponse } from './http.ts';
import {
  ACCEPT_MANIFESTS,
  assertBytes,
  checkImage,
  MAX_MANIFEST_BYTES,
  readManifestDocument,
  selectPlatform,
} from './image.ts';
import { rangedSource } from './ranged.ts';
import { apiHost, describeReference, fullName, type Reference } from './reference.ts';
import type { ImageSource, ResolvedImage, SourceContext } from './source.ts';

/** How often one request may get a 401 and come back with another token. */
const MAX_AUTHORIZATIONS = 3;

export function registryImage(
  reference: Reference,
  context: SourceContext,
  http: HttpClient,
  locked?: { manifest: Descriptor },
): ImageSource {
  const repository = new RegistryRepository(reference, context, http);
  return { resolve: () => (locked ? repository.resolveLocked(locked.manifest) : repository.resolve()) };
}

class RegistryRepository {
  readonly #reference: Reference;
  readonly #context: SourceContext;
  readonly #what: string;
  readonly #target: AuthTarget;
  /** Registry that credentials are kept under: the mirror's own host when there is a mirror. */
  readonly #account: string;
  #authorization: string | undefined;
  #authorizing: Promise<void> | undefined;

  constructor(reference: Reference, context: SourceContext, http: HttpClient) {
    const mirror = context.mirrors.get(reference.registry);
    const base = mirror === undefined ? registryUrl(reference.registry, http) : mirrorUrl(mirror);
    this.#reference = reference;
    this.#context = context;
    this.#what = describeReference(reference);
    this.#account = mirror === undefined ? reference.registry : base.host;
    const { signal } = context;
    this.#target = { http, base, loginHost: this.#account, repository: reference.repository, signal };
  }

  /** Follows the tag, or the digest that the reference gives. */
  async resolve(): Promise<ResolvedImage> {
    const { digest, tag } = this.#reference;
    const first = await this.#manifest(digest ?? tag!, this.#what);
    const document = readManifestDocument(first.bytes, first.contentType, `the manifest of ${this.#what}`);
    if (document.kind === 'image') {
      return checkImage(
        this.#image(describe(document.mediaType, first.bytes), first.bytes),
        this.#context,
        this.#what,
      );
    }
    const manifest = selectPlatform(document.entries, this.#context.platform, this.#what);
    const { bytes } = await this.#manifest(
      manifest.digest,
      `the ${this.#context.platform} manifest of ${this.#what}`,
    );
    assertBytes(bytes, manifest, this.#what);
    const image = await checkImage(this.#image(manifest, bytes), this.#context, this.#what);
    return { ...image, index: digestOf(first.bytes) };
  }

  /** The manifest that the lock names, whatever the tag points to by now. */
  async resolveLocked(manifest: Descriptor): Promise<ResolvedImage> {
    const { store, emit } = this.#context;
    const bytes =
      (await store.readIfSound(manifest, MAX_MANIFEST_BYTES, emit)) ??
      (await this.#manifest(manifest.digest, `the locked manifest of ${this.#what}`)).bytes;
    assertBytes(bytes, manifest, this.#what);
    return this.#image(manifest, bytes);
  }

  #image(manifest: Descriptor, manifestBytes: Buffer): ResolvedImage {
    const ref = fullName(this.#reference);
    const attached = attachedTo((path, options) => this.#document(path, options), this.#what);
    return { ref, manifest, manifestBytes, blob: (expected) => this.#blob(expected), attached };
  }

  #blob({ digest, size }: Expected): BlobSource {
    const what = `${this.#what} (${digest.slice(0, 19)}…)`;
    const url = this.#url(`blobs/${digest}`);
    return rangedSource({
      size,
      what,
      segmentBytes: this.#context.network?.segmentBytes,
      get: (headers, signal) => this.#openBlob(url, headers, what, signal),
    });
  }

  async #openBlob(
    url: URL,
    headers: Record<string, string>,
    what: string,
    signal = this.#context.signal,
  ): Promise<HttpResponse> {
    const { http } = this.#target;
    const response = await this.#authorized((auth) =>
      http.open(url, { headers: { ...headers, ...auth }, signal, what }),
    );
    if (response.status < 400 || response.status === 416) return response;
    response.discard();
    throw this.#refusal(response, what);
  }

  /** One manifest or index, checked against the digest it was asked by and the one that the registry claims. */
  async #manifest(name: string, what: string): Promise<{ bytes: Buffer; contentType: string | undefined }> {
    const { http, signal } = this.#target;
    const url = this.#url(`manifests/${name}`);
    const answer = await this.#authorized((auth) =>
      http.bytes(url, { headers: { accept: ACCEPT_MANIFESTS, ...auth }, signal, what }, MAX_MANIFEST_BYTES),
    );
    if (answer.status !== 200) throw this.#refusal(answer, what);
    const { bytes, headers } = answer;
    if (isDigest(name)) assertBytes(bytes, { digest: name }, what);
    const claimed = headers['docker-content-digest'];
    if (isDigest(claimed)) assertBytes(bytes, { digest: claimed }, what, 'SOURCE_INVALID');
    return { bytes, contentType: headers['content-type'] };
  }

  /** Any small document, as it is; undefined when the answer has one of the statuses that mean there is none. */
  async #document(
    path: string | URL,
    { accept, maxBytes, what, missing }: AskOptions,
  ): Promise<HttpDocument | undefined> {
    const { http, signal } = this.#target;
    const url = typeof path === 'string' ? this.#url(path) : path;
    // The next page of a list is on the host that answered, which may be where a redirect led.
    const own = url.origin === this.#target.base.origin;
    const answer = await this.#authorized((auth) =>
      http.bytes(url, { headers: { accept, ...(own ? auth : {}) }, signal, what }, maxBytes),
    );
    if (missing?.has(answer.status) === true) return undefined;
    if (answer.status !== 200) throw this.#refusal(answer, what);
    return answer;
  }

  /**
   * Runs a request with what authorisation there is, and again with a new one after each 401. Tokens live for
   * minutes and downloads for hours, so this happens at any request, any number of times in a life.
   */
  async #authorized<T extends HttpHead & { discard?: () => void }>(
    send: (headers: Record<string, string>) => Promise<T>,
  ): Promise<T> {
    for (let authorizations = 0; ; authorizations++) {
      const used = this.#authorization;
      const answer = await send(used === undefined ? {} : { authorization: used });
      const challenge = answer.headers['www-authenticate'] ?? '';
      // A 401 from where a redirect led is no challenge of the registry: its realm must not see our password.
      const own = answer.url.origin === this.#target.base.origin;
      if (!own || !wantsAuthorization(answer.status, challenge)) return answer;
      answer.discard?.();
      if (authorizations === MAX_AUTHORIZATIONS)
        throw unauthorized(this.#target, 'keeps refusing our credentials');
      // A basic challenge to the very credentials it was given will not end otherwise.
      if (used === this.#authorization) await this.#authorize(challenge);
      if (used === this.#authorization) throw unauthorized(this.#target, 'refuses the credentials');
    }
  }

  /** Parallel downloads whose token ran out share one new one. */
  async #authorize(challenge: string): Promise<void> {
    this.#authorizing ??= (async () => {
      const credential = await this.#context.credentials.forRegistry(this.#account);
      this.#authorization = await authorize(challenge, credential, this.#target);
    })().finally(() => {
      this.#authorizing = undefined;
    });
    return this.#authorizing;
  }

  #url(path: string): URL {
    const { base } = this.#target;
    return new URL(`${base.href.replace(/\/$/, '')}/v2/${this.#reference.repository}/${path}`);
  }

  #refusal({ status }: HttpHead, what: string): SealiftError {
    const { base } = this.#target;
    if (status === 404) {
      return new SealiftError('IMAGE_NOT_FOUND', `${base.host} has no ${what}`, {
        hint: 'check the name and the tag; tags can be removed at any time',
      });
    }
    if (status === 401 || status === 403) {
      return unauthorized(this.#target, `answered ${status} (no such repository, or no right to pull it)`);
    }
    return new SealiftError('SOURCE_INVALID', `${what}: ${base.host} answered ${status}`);
  }
}

/** A 403 that asks for another scope is a 401 in disguise (RFC 6750 §3.1). */
function wantsAuthorization(status: number, challenge: string): boolean {
  return status === 401 || (status === 403 && /insufficient_scope/.test(challenge));
}

/** Registries speak TLS, except on loopback and where the user said otherwise. */
function registryUrl(registry: string, http: HttpClient): URL {
  const url = new URL(`https://${apiHost(registry)}`);
  return http.allowsPlain(url) ? new URL(`http://${apiHost(registry)}`) : url;
}

function mirrorUrl(text: string): URL {
  const url = URL.parse(text);
  if (
    url !== null &&
    /^https?:$/.test(url.protocol) &&
    url.username + url.password === '' &&
    url.search === ''
  )
    return url;
  throw new SealiftError('USAGE', `'${withoutUserinfo(text)}' is not the base URL of a mirror`, {
    hint: 'write it as https://mirror.example',
  });
}

function describe(mediaType: string, bytes: Buffer): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}
