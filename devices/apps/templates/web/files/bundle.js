// The bundle's manifest and files, checked before a byte of them is used.
import { Failure, lineOf } from './failure.js';
import { fetchWhole, hex, keepFile, keptFile, pruneFiles } from './model-files.js';

const SCHEMA = 'edgestill.bundle/1';
const NO_DIGEST = '0'.repeat(64);
const DIGEST_KEY = '"digest": "';
const MOST_MANIFEST_BYTES = 64 << 20;

/** Opens the project's bundle. Throws Failure for a manifest that isn't one, was changed, or is of another version. */
export async function openBundle() {
  if (globalThis.crypto?.subtle === undefined) {
    throw new Failure('the browser checks hashes on https:// and localhost only; open the page there');
  }
  const app = await fetchJson('app.json');
  const folder = app.bundle;
  const where = `${folder}/manifest.json`;
  const bytes = await fetchWhole(where, where, { cache: 'no-cache' });
  return new Bundle(app, folder, await readManifest(bytes, where));
}

/** The manifest in these bytes of the file `where`. Throws Failure as openBundle does. */
export async function readManifest(bytes, where) {
  if (bytes.length > MOST_MANIFEST_BYTES) throw new Failure(`${where}: larger than ${MOST_MANIFEST_BYTES} bytes`);
  let text, manifest;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    manifest = JSON.parse(text);
  } catch (error) {
    throw new Failure(`${where}: not a readable manifest (${lineOf(error)})`);
  }
  if (manifest?.schema !== SCHEMA) {
    const found = JSON.stringify(manifest?.schema ?? null);
    throw new Failure(`${where}: schema ${found} is not "${SCHEMA}"; write the app again with a newer edgestill`);
  }
  if ((await digestOf(text)) !== manifest.digest) {
    throw new Failure(`${where}: changed after packing (its digest doesn't match)`);
  }
  return manifest;
}

// The sha256 of the manifest's text with its own digest blanked.
async function digestOf(text) {
  const start = text.indexOf(DIGEST_KEY) + DIGEST_KEY.length;
  const blanked = text.slice(0, start) + NO_DIGEST + text.slice(start + NO_DIGEST.length);
  return hex(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(blanked)));
}

/** An opened bundle: `app` is the project's app.json, `manifest` the bundle's. */
export class Bundle {
  constructor(app, folder, manifest) {
    this.app = app;
    this.folder = folder;
    this.manifest = manifest;
    this.stored = true; // whether every file that was read is kept for offline use
    this.entries = new Map(manifest.files.map((entry) => [entry.path, entry]));
  }

  /** The artifact that an engine runs: 'onnx' or 'gguf'. */
  artifact(engine) {
    const name = this.app.artifacts[engine] ?? null;
    const found = this.manifest.artifacts.find((one) => one.name === name);
    if (found === undefined) throw new Failure(`this app carries no ${engine} artifact`);
    return found;
  }

  has(path) {
    return this.entries.has(path);
  }

  /** Sum of the sizes of an artifact's model files (`entry` and what its name begins). */
  modelFiles(artifact) {
    const start = `artifacts/${artifact.name}/${artifact.entry}`;
    return this.manifest.files.filter((one) => one.path === start || one.path.startsWith(`${start}.`));
  }

  /** The manifest's entry of a file that lies in the bundle. */
  entryOf(path) {
    const entry = this.entries.get(path);
    if (entry === undefined) throw new Failure(`${path}: not in the manifest`);
    if (path.split('/').some((part) => ['', '.', '..'].includes(part)) || path.includes('\\')) {
      throw new Failure(`file path ${JSON.stringify(path)} leaves the bundle`);
    }
    return entry;
  }

  /** The checked bytes of a file: kept from an earlier visit, else fetched, `progress(bytes, all)` meanwhile. */
  async file(path, progress = () => {}) {
    const entry = this.entryOf(path);
    const kept = await keptFile(entry);
    // What lies in the browser's storage may be damaged as well: then it is fetched again.
    if (kept !== null && (await misfit(kept, entry)) === null) return kept;
    const url = `${this.folder}/${path.split('/').map(encodeURIComponent).join('/')}`;
    const bytes = await fetchWhole(url, path, { cache: 'no-store' }, entry.size_bytes, progress);
    const problem = await misfit(bytes, entry);
    if (problem !== null) throw new Failure(`${path}: ${problem}`);
    this.stored = (await keepFile(entry, bytes)) && this.stored;
    return bytes;
  }

  async text(path) {
    return new TextDecoder('utf-8', { fatal: true }).decode(await this.file(path));
  }

  async json(path) {
    const text = await this.text(path);
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new Failure(`${path}: not readable (${lineOf(error)})`);
    }
  }

  /** Forgets kept files of earlier versions of the bundle. */
  async prune() {
    await pruneFiles(new Set(this.manifest.files.map((entry) => entry.sha256)));
  }

  /** The golden answers of an artifact. */
  async golden(artifact) {
    const lines = (await this.text('golden.jsonl')).split('\n').filter((line) => line !== '');
    if (lines.length === 0) throw new Failure('golden.jsonl: no golden answers in it');
    return lines.map((line, at) => {
      const where = `golden prompt ${at + 1}`;
      const row = JSON.parse(line);
      const answer = row.token_ids?.[artifact.name];
      if (!Array.isArray(answer) || answer.length === 0) {
        throw new Failure(`${where} has no answer for ${artifact.name}`);
      }
      return { where, prompt: row.prompt, promptIds: row.prompt_ids, answer, maxNewTokens: row.max_new_tokens };
    });
  }
}

/** What is wrong with a file's bytes; null when they are the manifest's. */
export async function misfit(bytes, entry) {
  if (bytes.length !== entry.size_bytes) return `${bytes.length} bytes, the manifest says ${entry.size_bytes}`;
  const found = hex(await crypto.subtle.digest('SHA-256', bytes));
  return found === entry.sha256 ? null : 'its bytes changed (sha256 differs from the manifest)';
}

/** Reads a JSON file of the project that isn't the bundle's. */
export async function fetchJson(path) {
  const bytes = await fetchWhole(path, path, { cache: 'no-cache' });
  return JSON.parse(new TextDecoder().decode(bytes));
}
