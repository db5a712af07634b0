// SPDX-License-Identifier: Apache-2.0
/** The last two steps: the smoke test, and making the release the current one. */
import { mkdir, rm, rmdir } from 'node:fs/promises';
import { apiKeysFile, readApiKeys } from '../api-keys.ts';
import type { VerifiedBundle } from '../../bundle/open.ts';
import type { HostKey } from '../host-key.ts';
import { isKept, keepBundle, sweepBundles } from '../kept-bundle.ts';
import { releaseName, type Home, type InstalledVersion } from '../home.ts';
import type { Override } from '../override.ts';
import { readReceipt, receiptSignature, removeReceipt, writeReceipt, type Receipt } from '../receipt.ts';
import { smokeTest, type SmokeAnswer, type SmokeInput } from '../smoke.ts';
import type { Step, StepState, UndoRecord } from '../step.ts';
import type { FullReceipt } from '../vsa.ts';

/** Shared by the steps of one install: has any of them changed something? Then the last two are needed. */
export interface Changes {
  changed: boolean;
}

export class SmokeStep implements Step {
  readonly kind = 'service';
  readonly bytes = 0;
  readonly id: string;
  readonly record: UndoRecord = { kind: 'smoke' };
  readonly #home: Home;
  readonly #release: string;
  readonly #input: Omit<SmokeInput, 'apiKey'>;
  readonly #changes: Changes;
  /** What the models said; empty when the test was not needed. */
  answers: SmokeAnswer[] = [];

  constructor(home: Home, release: string, input: Omit<SmokeInput, 'apiKey'>, changes: Changes) {
    this.id = `smoke:${release}`;
    this.#home = home;
    this.#release = release;
    this.#input = input;
    this.#changes = changes;
  }

  describe(): string {
    return `ask ${this.#input.services.map((s) => s.servedModel).join(', ')} through https://${this.#input.site.hostName}`;
  }

  async check(): Promise<StepState> {
    const receipt = await readReceipt(this.#home, this.#release);
    if (this.#changes.changed || receipt === undefined) return 'needed';
    this.answers = receipt.smoke;
    return 'done';
  }

  async apply(): Promise<void> {
    const keys = await readApiKeys(apiKeysFile(this.#input.site, this.#home));
    this.answers = await smokeTest({ ...this.#input, apiKey: keys![0]! });
  }
}

export interface CurrentInput {
  home: Home;
  bundle: VerifiedBundle;
  /** What was current and installed before, to return to. */
  before: { release: string | undefined; installed: InstalledVersion | undefined; hadReceipt: boolean };
  receipt: () => FullReceipt;
  /** The key that signs the receipt. */
  hostKey: HostKey | undefined;
  changes: Changes;
}

/** Receipt with its signature first, then `current`, then the memory against rollbacks: each only when the one before is durable. */
export class CurrentStep implements Step {
  readonly kind = 'config';
  readonly bytes = 0;
  readonly id: string;
  readonly record: UndoRecord;
  readonly #input: CurrentInput;
  readonly #release: string;

  constructor(input: CurrentInput) {
    const { before } = input;
    this.#input = input;
    this.#release = releaseName(input.bundle.inventory);
    this.id = `current:${this.#release}`;
    this.record = {
      kind: 'current',
      name: input.bundle.inventory.name,
      made: this.#release,
      hadReceipt: before.hadReceipt,
      ...(before.release === undefined ? {} : { release: before.release }),
      ...(before.installed === undefined ? {} : { installed: before.installed }),
    };
  }

  describe(): string {
    return `make ${this.#release} the current release and write its receipt`;
  }

  async check(): Promise<StepState> {
    const { home, bundle, changes, hostKey } = this.#input;
    if (changes.changed || (await home.current()) !== this.#release) return 'needed';
    const [receipt, installed] = await Promise.all([readReceipt(home, this.#release), home.installed()]);
    const right =
      receipt?.bundle.digest === bundle.digest &&
      installed.get(bundle.inventory.name)?.digest === bundle.digest;
    if (!right || !(await isKept(home, bundle.digest))) return 'needed';
    // A host that was given a key since then signs now; without one, an earlier signature stays.
    if (hostKey !== undefined && receipt.host?.key !== hostKey.fingerprint) return 'needed';
    const { state } = await receiptSignature(home, receipt, hostKey);
    return state === 'missing' || state === 'wrong' ? 'needed' : 'done';
  }

  async apply(): Promise<void> {
    const { home, bundle, receipt, hostKey } = this.#input;
    const { name, version } = bundle.inventory;
    await mkdir(home.releaseFolder(this.#release), { recursive: true }); // a bundle without services wrote no files
    await keepBundle(home, bundle);
    await writeReceipt(home, receipt(), hostKey);
    await home.setCurrent(this.#release);
    await home.setInstalled(name, { version, digest: bundle.digest });
  }
}

export interface BackInput {
  home: Home;
  /** What was installed of the release that is gone back to. */
  receipt: Receipt;
  before: { release: string | undefined; installed: InstalledVersion | undefined };
  /** What goes into the receipt. */
  override: Override;
  hostKey: HostKey | undefined;
}

/** The last step of a rollback: the older release is current again, and its receipt says why. */
export class BackStep implements Step {
  readonly kind = 'config';
  readonly bytes = 0;
  readonly id: string;
  readonly record: UndoRecord;
  readonly #input: BackInput;

  constructor(input: BackInput) {
    const { receipt, before } = input;
    this.#input = input;
    this.id = `current:${receipt.release}`;
    this.record = {
      kind: 'current',
      name: receipt.bundle.name,
      made: receipt.release,
      hadReceipt: true,
      ...(before.release === undefined ? {} : { release: before.release }),
      ...(before.installed === undefined ? {} : { installed: before.installed }),
    };
  }

  describe(): string {
    return `make ${this.#input.receipt.release} the current release again, and write why into its receipt`;
  }

  // oxlint-disable-next-line require-await
  async check(): Promise<StepState> {
    return 'needed';
  }

  async apply(): Promise<void> {
    const { home, receipt, override, hostKey } = this.#input;
    const { name, version, digest } = receipt.bundle;
    await home.setCurrent(receipt.release);
    await home.setInstalled(name, { version, digest });
    const again = { ...receipt, overrides: [...(receipt.overrides ?? []), override] };
    await writeReceipt(
      home,
      hostKey === undefined ? again : { ...again, host: { key: hostKey.fingerprint } },
      hostKey,
    );
  }
}

/** Makes the release of before the current one again, and forgets the receipt of the one that failed. */
export async function undoCurrent(
  record: Extract<UndoRecord, { kind: 'current' }>,
  home: Home,
): Promise<void> {
  await home.setCurrent(record.release);
  await home.setInstalled(record.name, record.installed);
  if (record.hadReceipt) return dropUnfitSignature(home, record.made);
  await removeReceipt(home, record.made);
  await sweepBundles(home);
  await rmdir(home.releaseFolder(record.made)).catch(() => undefined); // when there are no other files in it
}

/** A receipt that stays, because there was one before, may have been written anew without its signature. */
async function dropUnfitSignature(home: Home, release: string): Promise<void> {
  const receipt = await readReceipt(home, release);
  if (receipt === undefined || (await receiptSignature(home, receipt)).state === 'wrong')
    await rm(home.receiptSignatureFile(release), { force: true });
}
