// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';
import type { HttpResponse } from './http.ts';

/** Answers with another validator, to one who asks, that make a change of it. */
const STRANGERS = 4;

/**
 * Notices that content changes while it is fetched in pieces: answers of one host must have one ETag or, without any,
 * one Last-Modified (RFC 9110 §8.8). They are compared here rather than with If-Range, because several copies behind
 * one name may have several of them for the same bytes: asked again, such a place shows the first one again, is then
 * left in peace, and the digest decides. A place that has changed never does.
 */
export class Validators {
  readonly #what: string;
  readonly #known = new Map<string, string>();
  /** Answers with another validator, to anyone who asks for a part of this content. */
  #strangers = 0;
  #mixed = false;

  constructor(what: string) {
    this.#what = what;
  }

  /** @throws {SealiftError} SOURCE_CHANGED */
  async unchanged(get: () => Promise<HttpResponse>): Promise<HttpResponse> {
    for (let tries = 1; ; tries++) {
      const strangersBefore = this.#strangers;
      const response = await get();
      const { known, now } = this.#compare(response);
      if (known === now) this.#mixed ||= strangersBefore > 0;
      if (known === now || this.#mixed) return response;
      this.#strangers++;
      response.discard();
      if (tries === STRANGERS) throw this.#changed(known, now);
    }
  }

  #compare({ headers, status, url }: HttpResponse): { known: string; now: string } {
    const etag = headers.etag;
    const now = etag === undefined ? headers['last-modified'] : etag.replace(/^W\//, '');
    const known = this.#known.get(url.origin) ?? now;
    if (known === undefined || now === undefined || status >= 400) return { known: '', now: '' };
    this.#known.set(url.origin, known);
    return { known, now };
  }

  #changed(before: string, now: string): SealiftError {
    return new SealiftError('SOURCE_CHANGED', `${this.#what} has changed while it was being downloaded`, {
      details: [
        ['before', printable(before, 80)],
        ['now', printable(now, 80)],
      ],
      hint: 'run again; if the change is meant, run `sealift lock`, review it, then build',
    });
  }
}
