// Files of the bundle over the network and in the browser's storage, where they lie by what is in them (sha256).
import { Failure, lineOf } from './failure.js';

const CACHE = `edgestill ${new URL('.', self.location.href).href} bundle`;
const keyOf = (entry) => new URL(`kept/${entry.sha256}`, self.location.href).href;

/** Bytes as hexadecimal text. */
export function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Fetches a file whole, at most `size` bytes where that is known. Throws Failure that names the file. */
export async function fetchWhole(url, name, options, size = null, progress = () => {}) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    throw new Failure(`${name}: can't be fetched (${lineOf(error)}); is the device offline?`);
  }
  if (!response.ok) throw new Failure(`${name}: the server answers ${response.status}`);
  if (size === null) return new Uint8Array(await response.arrayBuffer());
  // Into one buffer of the known size: joining pieces would take the memory twice.
  const bytes = new Uint8Array(size);
  let filled = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length > size) {
      await reader.cancel();
      throw new Failure(`${name}: more than the ${size} bytes that the manifest says`);
    }
    bytes.set(value, filled);
    filled += value.length;
    progress(filled, size);
  }
  return bytes.subarray(0, filled);
}

/** The bytes that were kept for a file; null where there are none. */
export async function keptFile(entry) {
  try {
    const found = await (await caches.open(CACHE)).match(keyOf(entry));
    return found === undefined ? null : new Uint8Array(await found.arrayBuffer());
  } catch {
    return null; // private windows of some browsers have no storage
  }
}

/** Keeps a file; returns whether that worked. */
export async function keepFile(entry, bytes) {
  try {
    await (await caches.open(CACHE)).put(keyOf(entry), new Response(bytes));
    return true;
  } catch {
    return false;
  }
}

/** Deletes kept files whose sha256 isn't in `wanted`. */
export async function pruneFiles(wanted) {
  try {
    const cache = await caches.open(CACHE);
    for (const request of await cache.keys()) {
      if (!wanted.has(request.url.slice(-64))) await cache.delete(request);
    }
  } catch {
    // Without storage there is nothing to delete.
  }
}
