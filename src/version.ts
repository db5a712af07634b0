// SPDX-License-Identifier: Apache-2.0
/** Version of this sealift, the same as in package.json (a test keeps them equal). */
export const VERSION = '0.1.0';
