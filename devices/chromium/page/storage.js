// The page that stays open: window.edgestillCall(operation, values) for the driver, window.edgestillProbe() for probe.
// Files are handled in a worker: only there may they be written in place.
import { wasmFeatures } from './wasm-features.js';

const worker = new Worker('storage-worker.js', { type: 'module', name: 'storage' });
const waiting = new Map();
let next = 1;

worker.onmessage = ({ data: { id, result, error } }) => {
  waiting.get(id)(error === undefined ? { result } : { error });
  waiting.delete(id);
};
worker.onerror = (event) => {
  const error = { name: 'Error', message: `the storage worker stopped: ${event.message || 'it did not start'}` };
  waiting.forEach((settle) => settle({ error }));
  waiting.clear();
};

// Else the browser may drop what was pushed when room gets scarce; where it refuses, the next push sends it again.
navigator.storage?.persist();

/** Runs an operation of storage-worker.js; returns {result} or {error: {name, message}}. */
window.edgestillCall = (operation, values) =>
  new Promise((resolve) => {
    waiting.set(next, resolve);
    worker.postMessage({ id: next, operation, values });
    next += 1;
  });

/** What the browser says of itself. */
window.edgestillProbe = async () => {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const named = await navigator.userAgentData
    ?.getHighEntropyValues(['architecture', 'bitness', 'model', 'platform', 'fullVersionList'])
    .catch(() => null);
  return {
    userAgent: navigator.userAgent,
    cores: navigator.hardwareConcurrency,
    memoryGibibytes: navigator.deviceMemory ?? null,
    isolated: self.crossOriginIsolated,
    secure: self.isSecureContext,
    webgpu: adapter ? adapter.info?.vendor || 'yes' : null,
    touch: navigator.maxTouchPoints > 0,
    viewport: `${window.innerWidth}x${window.innerHeight} at ${window.devicePixelRatio}`,
    platform: named?.platform ?? navigator.platform,
    model: named?.model || null,
    versions: (named?.fullVersionList ?? []).map((one) => `${one.brand} ${one.version}`),
    features: wasmFeatures(),
    storage: typeof navigator.storage?.getDirectory === 'function',
  };
};
