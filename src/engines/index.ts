// SPDX-License-Identifier: Apache-2.0
/**
 * Inference engines, one row each, for both sides: the staging box holds a manifest against the rows before anything is
 * carried, the enclave turns a service of the inventory into a `Service`, which a target (Compose) renders. Nothing
 * else in sealift knows an engine. To add an engine, add a row.
 */
import type { Inventory } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import { llamaCpp } from './llama-cpp.ts';
import { localai } from './localai.ts';
import { unsupported, type EngineRow, type Service, type ServiceSpec } from './row.ts';
import { sglang } from './sglang.ts';
import { vllm } from './vllm.ts';

export type { EngineRow, Metrics, Service, ServiceSpec } from './row.ts';

export const ENGINES: Readonly<Record<string, EngineRow>> = {
  vllm,
  sglang,
  'llama-cpp': llamaCpp,
  localai,
};

/**
 * The services of a bundle by the rows of their engines.
 * @throws {SealiftError} SERVICE_UNSUPPORTED
 */
export function servicesOf(
  inventory: Pick<Inventory, 'services' | 'models' | 'configs' | 'gateway'>,
  rows: Readonly<Record<string, EngineRow>> = ENGINES,
): Service[] {
  if (inventory.services.length > 0 && inventory.gateway === undefined) {
    throw new SealiftError(
      'SERVICE_UNSUPPORTED',
      'the bundle has services but no gateway, so nobody could reach them',
    );
  }
  const models = inventory.models.map(({ name }) => name);
  const configs = inventory.configs.map(({ name }) => name);
  return inventory.services.map((spec) => {
    const row = rowOf(spec, rows);
    const taken = row.reserved.find((option) => option in spec.options);
    if (taken !== undefined)
      unsupported(
        spec,
        `the option '${taken}' is one that sealift sets itself`,
        'take it out of the manifest',
      );
    const model = inventory.models.find(({ name }) => name === spec.model);
    if (model === undefined) return unsupported(spec, `the bundle has no model '${spec.model}'`);
    return row.service(spec, { model, models, configs });
  });
}

/** @throws {SealiftError} SERVICE_UNSUPPORTED */
export function rowOf(spec: ServiceSpec, rows: Readonly<Record<string, EngineRow>> = ENGINES): EngineRow {
  if (Object.hasOwn(rows, spec.engine)) return rows[spec.engine]!;
  return unsupported(
    spec,
    `it needs the engine '${spec.engine}', which this sealift does not know`,
    `it knows: ${Object.keys(rows).sort().join(', ')}`,
  );
}
