// SPDX-License-Identifier: Apache-2.0
/**
 * The whole vocabulary of failure, on one screen: every code, the exit status it ends with, and the sentence
 * that `sealift help CODE` prints. Codes are stable; messages are not. Unknown non-zero MUST be read as failure.
 */

interface ErrorSpec {
  /** Process exit status, see EXIT_CODES. */
  exit: number;
  /** What it means and what to do next, for `sealift help CODE`. */
  about: string;
}

/** Exit statuses of every command (README has the same table; a test keeps them equal). */
export const EXIT_CODES: ReadonlyMap<number, string> = new Map([
  [0, 'done'],
  [1, 'failed (I/O, network, unexpected), or the person said no; host untouched'],
  [2, 'wrong usage, invalid manifest, lock, site, policy, key or flag'],
  [10, 'not signed'],
  [11, 'signed, but not by a trusted signer, or threshold not met'],
  [12, 'content does not match the inventory, or is not a sealift bundle'],
  [13, 'incomplete: the bundle ends too early'],
  [14, 'refused by policy (revoked, expired, older than installed, not allowed here)'],
  [20, 'preflight failed; host untouched'],
  [21, 'install failed; rolled back'],
  [22, 'install failed; rollback incomplete: a person is needed'],
  [30, 'the host differs from its receipt (`audit`, and `status --exit-code`)'],
  [130, 'interrupted'],
  [143, 'terminated by SIGTERM'],
]);

export const ERRORS = {
  // 1: failed
  UNEXPECTED: { exit: 1, about: 'A defect in sealift. Run again with --debug and report what it prints.' },
  IO_ERROR: {
    exit: 1,
    about: 'The operating system refused to read or write a file. The message names the file and the reason.',
  },
  DISK_FULL: {
    exit: 1,
    about:
      'The disk is full. Nothing was left half-done; free space on the file system that the message names and run again: finished downloads are kept.',
  },
  LOCKED: {
    exit: 1,
    about: 'Another sealift process works on the same folder. Wait for it to end, or stop it.',
  },
  CANCELLED: { exit: 1, about: 'The question was answered with no. Nothing was changed.' },
  NETWORK_ERROR: {
    exit: 1,
    about:
      'A registry, hub or Sigstore service could not be reached or kept failing. Run again: what was downloaded is kept.',
  },
  UNAUTHORIZED: {
    exit: 1,
    about:
      'The registry or hub wants credentials, or refuses those that were sent. Use `docker login` for a registry, a token file for a hub. Of a keyless signer: Fulcio refuses the token.',
  },
  IMAGE_NOT_FOUND: { exit: 1, about: 'The registry, engine or layout has no such image or tag.' },
  PLATFORM_NOT_FOUND: {
    exit: 1,
    about: 'The image exists, but not for the platform that the manifest asks for.',
  },
  MODEL_NOT_FOUND: {
    exit: 1,
    about: 'The hub has no such model, or it is private and the token does not reach it.',
  },
  MODEL_GATED: {
    exit: 1,
    about: 'The model is gated: accept its conditions on the hub with the account that the token belongs to.',
  },
  REVISION_NOT_FOUND: {
    exit: 1,
    about: 'The hub has the model, but not this branch, tag or commit any more.',
  },
  SOURCE_CHANGED: {
    exit: 1,
    about:
      'A source sends other bytes than the lock says, or says that it is about to. None of them was kept. If the change is meant, run `sealift lock` and review what it prints.',
  },
  SOURCE_INVALID: {
    exit: 1,
    about:
      'A source sent something that breaks its own protocol or our limits (too large, malformed, unsupported).',
  },
  REPAIR_FAILED: {
    exit: 13,
    about:
      'Damaged or missing volumes cannot be rebuilt: more of them are lost than parity volumes are left, or the list of volumes is missing. The message names which ones to carry again.',
  },
  BASE_INVALID: {
    exit: 2,
    about:
      'What was named with --base cannot be built upon: it is no bundle, no bundle.json and no receipt that says what its host holds.',
  },
  BASE_MISSING: {
    exit: 20,
    about:
      'The bundle is a delta, and this host does not hold all that it leaves out, or not intact. The message lists what is missing. Install the base first, or carry a bundle that is whole, or a delta on the receipt of what this host runs.',
  },
  STORE_DAMAGED: {
    exit: 1,
    about:
      'A blob of the store no longer hashes to its name: a failing disk, or somebody wrote into it. Remove the file that the hint names and run again: it is fetched again.',
  },
  SIGNER_FAILED: {
    exit: 1,
    about:
      'The signing command, or one of the Sigstore services of a keyless signer, gave no usable signature. Nothing was signed. The message has its own words; run again when the cause is gone.',
  },
  UPSTREAM_NOT_SIGNED: {
    exit: 1,
    about:
      'The manifest demands a signature of the image or model, and there is none where its maker would put it. Ask the maker, or take the demand out of the manifest.',
  },
  UPSTREAM_UNTRUSTED: {
    exit: 1,
    about:
      'The image or model is signed, but not by the key, identity or certificate authority that the manifest names.',
  },
  UPSTREAM_BAD_SIGNATURE: {
    exit: 1,
    about:
      'There is a signature of the image or model that does not fit: damaged, moved over from something else, or of content that has changed since. Do not use what it came with before its maker has explained it.',
  },
  UNSAFE_NAME: {
    exit: 1,
    about: 'A source names a file outside its own folder, or with characters that no file name may have.',
  },
  // 2: wrong usage
  USAGE: { exit: 2, about: 'The command line is wrong. The message says what was expected.' },
  MANIFEST_INVALID: {
    exit: 2,
    about:
      'The manifest does not fit its schema. The message names file, line, column and the nearest valid key.',
  },
  LOCK_INVALID: { exit: 2, about: 'The lock cannot be read. Run `sealift lock` again.' },
  LOCK_MISSING: {
    exit: 2,
    about: 'There is no lock beside the manifest. Run `sealift lock` first, review it and commit it.',
  },
  LOCK_STALE: {
    exit: 2,
    about:
      'The manifest changed after the lock was written. Run `sealift lock`, review what it prints, then build.',
  },
  SITE_INVALID: {
    exit: 2,
    about:
      'site.yaml does not fit its schema. The message names file, line, column and the nearest valid key.',
  },
  SITE_MISSING: {
    exit: 2,
    about: 'There is no site.yaml in the home. `sealift help site` prints one to start from.',
  },
  POLICY_INVALID: {
    exit: 2,
    about: 'The trust policy does not fit its schema, or names a key that cannot be used.',
  },
  POLICY_MISSING: {
    exit: 2,
    about:
      'There is no trust policy. It says who may sign, and must come to this host out of band, never with the bundle.',
  },
  KEY_MISSING: {
    exit: 2,
    about:
      'Nothing was named to sign with. `sealift keygen` makes a key and `--key FILE` names it; `--signer FILE` names a hardware key, a KMS or a keyless identity (`sealift help signer`).',
  },
  KEY_INVALID: {
    exit: 2,
    about:
      'The key file is not an ECDSA P-256 key in a form that sealift reads (PKCS#8 PEM, encrypted or not, or as cosign encrypts it; SPKI PEM for public keys).',
  },
  KEY_NAME: {
    exit: 2,
    about: 'The file of API keys has a key of this name already, or has none, or has only this one.',
  },
  SIGNER_INVALID: {
    exit: 2,
    about:
      'The signer document does not fit its schema. The message names file, line, column and the nearest valid key; `sealift help signer` prints one to start from.',
  },
  WRONG_PASSPHRASE: { exit: 2, about: 'The passphrase does not open the key.' },
  ALREADY_SIGNED: {
    exit: 2,
    about:
      'This key has signed the bundle already. A signer counts once, so another signature must come from another key.',
  },
  SLOTS_FULL: { exit: 2, about: 'All eight signature slots are taken.' },
  FILE_EXISTS: { exit: 2, about: 'The output file is already there. Name another, or remove it.' },
  FILE_MISSING: { exit: 2, about: 'A file that was named does not exist.' },
  // 10-14: verification
  NOT_SIGNED: { exit: 10, about: 'The bundle carries no signature at all. Ask the staging side to sign it.' },
  UNTRUSTED_SIGNER: {
    exit: 11,
    about: 'The bundle is signed, but by nobody whom the trust policy of this host names.',
  },
  BAD_SIGNATURE: {
    exit: 11,
    about: 'A signature is there that does not fit: it is damaged, or made over other content.',
  },
  THRESHOLD_NOT_MET: { exit: 11, about: 'Too few different trusted signers have signed.' },
  CONTENT_MISMATCH: {
    exit: 12,
    about: 'Bytes differ from what was signed. Do not use this copy; carry it again.',
  },
  BUNDLE_MALFORMED: {
    exit: 12,
    about:
      'The archive is not in the one canonical form that FORMAT.md allows: damaged or tampered with. Do not use this copy.',
  },
  NOT_A_BUNDLE: { exit: 12, about: 'The file is not a sealift bundle.' },
  BUNDLE_UNSUPPORTED: {
    exit: 12,
    about: 'The bundle was written in a newer format than this sealift reads.',
  },
  BUNDLE_INCOMPLETE: {
    exit: 13,
    about: 'The bundle ends too early: a copy that broke off. Copy it again.',
  },
  SIGNER_REVOKED: { exit: 14, about: 'The trust policy has revoked the key that signed.' },
  SIGNER_EXPIRED: {
    exit: 14,
    about: 'The key that signed is outside the time in which the trust policy lets it sign.',
  },
  BUNDLE_REVOKED: { exit: 14, about: 'The trust policy has revoked this very bundle.' },
  NOT_FOR_THIS_HOST: {
    exit: 14,
    about:
      'The trust policy of this host does not take bundles of this name or channel: a medium that was meant for another host.',
  },
  VERSION_REFUSED: {
    exit: 14,
    about:
      'The bundle is older than what is installed, or than the policy allows, or is the same version with other content. Against what is installed, a person may install it all the same and say why: `sealift install BUNDLE --allow-downgrade WHY`. The lowest version of the policy holds even then.',
  },
  POLICY_CHANGED: {
    exit: 14,
    about:
      'The trust.yaml of the home is not the policy that this host has adopted. A policy is replaced with `sealift trust update`, which wants signatures by the old and by the new signers. When too few of the old keys are left to sign, lost or expired, an administrator decides: check the new trust.yaml by another way than the media it came on, put it in place, and remove trust-state.json from the home as root; the next install adopts what stands there, and the latest time seen is forgotten with it.',
  },
  POLICY_REFUSED: {
    exit: 14,
    about:
      'The new trust policy is not the next one after that of this host: its number must be exactly one higher. Policies that came in between are adopted one after the other.',
  },
  // 20: preflight
  ENGINE_NOT_RUNNING: {
    exit: 20,
    about:
      'No container engine answers on the socket. Start it, or name its socket with --engine or DOCKER_HOST.',
  },
  ENGINE_UNSUPPORTED: {
    exit: 20,
    about: 'The container engine is too old, remote, or not of the platform of the bundle.',
  },
  COMPOSE_UNSUPPORTED: {
    exit: 20,
    about:
      'Compose v2 (`docker compose`) is needed. Compose 1.29 ignores `pull_policy: never` and would pull.',
  },
  PORT_TAKEN: {
    exit: 20,
    about: 'Something on this host already listens on the port that site.yaml gives the gateway.',
  },
  TLS_INVALID: {
    exit: 20,
    about:
      'The TLS certificate and key of site.yaml are missing, unreadable, expired, or do not belong together.',
  },
  DISK_TOO_SMALL: {
    exit: 20,
    about: 'The bundle needs more space than is free. The message says how many bytes, on which file system.',
  },
  TAG_CONFLICT: {
    exit: 20,
    about:
      'The engine already has this tag on another image. It is not moved: remove or rename that image first.',
  },
  SERVICE_UNSUPPORTED: {
    exit: 20,
    about: 'This sealift has no row for the engine that a service of the bundle names.',
  },
  SERVICE_UNFIT: {
    exit: 2,
    about:
      'The engine of a service could not run what the manifest carries for it: a model in a form that it does not serve, files that are missing, an option that its release does not know. Found at the staging box, because nobody could mend it in the enclave.',
  },
  HOST_UNFIT: {
    exit: 20,
    about:
      'This host cannot run what the bundle asks of it: GPUs, their driver or memory, the container runtime. The message says what, and what to do. `sealift doctor BUNDLE` lists all of it and changes nothing.',
  },
  INSTALL_NEEDED: {
    exit: 20,
    about:
      'What changed in site.yaml concerns more than the running gateway can read anew: its port, GPUs, or files that are gone. Run `sealift install` with the same bundle again: it does only what differs.',
  },
  HOST_CHANGED: {
    exit: 20,
    about:
      'Another sealift changed this host after the plan was shown, so what would be done is not what was agreed to; or an install is unfinished, which must be finished or taken back first. Run again and look at the new plan.',
  },
  RELEASE_GONE: {
    exit: 20,
    about:
      'An older release cannot be started again, because an image, a model or a configuration file of it is not on this host any more. The message lists what. Install it from its medium.',
  },
  RELEASE_CONFLICT: {
    exit: 20,
    about:
      'A release of another bundle has the folder that this one needs, because name and version run together. Uninstall that one, or build under another name.',
  },
  // 21-22: install
  IMAGE_NOT_PROVED: {
    exit: 21,
    about:
      'After loading, the engine holds another image than the signed one. What was loaded has been removed.',
  },
  IMAGE_LOAD_FAILED: { exit: 21, about: 'The engine refused or broke off loading an image.' },
  SERVICE_UNHEALTHY: {
    exit: 21,
    about: 'A service did not become healthy in time. The message ends with the last lines of its log.',
  },
  SMOKE_TEST_FAILED: {
    exit: 21,
    about: 'Everything started, but a real request through the gateway got no right answer.',
  },
  GATEWAY_REFUSED: {
    exit: 21,
    about:
      'nginx refused the new configuration of the gateway, and goes on with the one it had. The message has its own words.',
  },
  ENGINE_FAILED: {
    exit: 21,
    about: 'The container engine or Compose failed at a step. The message has its own words.',
  },
  ROLLBACK_INCOMPLETE: {
    exit: 22,
    about:
      'The install failed, and taking it back failed too. The message lists what is left to remove by hand.',
  },
  NOT_INSTALLED: { exit: 1, about: 'Nothing is installed in this home.' },
  // 130
  INTERRUPTED: {
    exit: 130,
    about: 'Stopped by a signal. What was finished is kept; run the same command again to go on.',
  },
} as const satisfies Record<string, ErrorSpec>;

export type ErrorCode = keyof typeof ERRORS;

export interface ErrorOptions {
  /** The next keystroke that helps. */
  hint?: string;
  /** Label and value pairs shown under the message, such as both digests. */
  details?: readonly (readonly [label: string, value: string])[];
  cause?: unknown;
}

/** The one error class that crosses module borders. */
export class SealiftError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: readonly (readonly [string, string])[];

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'SealiftError';
    this.code = code;
    this.hint = options.hint;
    this.details = options.details ?? [];
  }

  get exitCode(): number {
    return ERRORS[this.code].exit;
  }
}

const ERRNO: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'DISK_FULL',
  EDQUOT: 'DISK_FULL',
  ENOENT: 'FILE_MISSING',
};

const DISK_FULL_HINT = 'free space (df -h) or files (df -i) there, and run the same command again';

/**
 * Turns anything that was thrown into a SealiftError, adding what was being done.
 * System errors keep their errno text; SealiftErrors pass through untouched.
 */
export function asSealiftError(thrown: unknown, doing: string): SealiftError {
  if (thrown instanceof SealiftError) return thrown;
  if (thrown instanceof Error && thrown.name === 'AbortError') {
    return new SealiftError('INTERRUPTED', `${doing}: interrupted`, { cause: thrown });
  }
  const errno = (thrown as NodeJS.ErrnoException | undefined)?.code;
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  const isSystem = typeof errno === 'string' && /^E[A-Z0-9]+$/.test(errno);
  const code: ErrorCode = isSystem ? (ERRNO[errno] ?? 'IO_ERROR') : 'UNEXPECTED';
  const hint = code === 'DISK_FULL' ? { hint: DISK_FULL_HINT } : {};
  return new SealiftError(code, `${doing}: ${text}`, { ...hint, cause: thrown });
}

/** Whether work failed by itself, or was stopped because other work did or a person wanted it. */
export const outcomeOf = (error: unknown): 'failed' | 'stopped' =>
  asSealiftError(error, 'working').code === 'INTERRUPTED' ? 'stopped' : 'failed';
