// A bundle that the driver pushed into the origin private file system, checked as the web app checks its own.
import { Bundle, misfit, readManifest } from './bundle.js';
import { Failure } from './failure.js';
import { fileAt } from './folders.js';

// Names as the driver writes them: every byte but these as %XX. Source: RFC 3986, unreserved characters.
export function encodedName(name) {
  const bytes = new TextEncoder().encode(name);
  return Array.from(bytes, (byte) => {
    const character = String.fromCharCode(byte);
    return /[A-Za-z0-9._~-]/.test(character) ? character : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }).join('');
}

async function readFile(path, shown, progress = () => {}) {
  const handle = await fileAt(path);
  if (handle === null) throw new Failure(`${shown}: no such file in the browser's storage; push the bundle again`);
  const file = await handle.getFile();
  const bytes = new Uint8Array(await file.arrayBuffer());
  progress(bytes.length, bytes.length);
  return bytes;
}

/** Opens the bundle in the folder `path`, which is `shown` to people. */
export async function openStoredBundle(path, shown) {
  const where = `${shown}/manifest.json`;
  const manifest = await readManifest(await readFile([...path, 'manifest.json'], where), where);
  return new StoredBundle(path, shown, manifest);
}

class StoredBundle extends Bundle {
  constructor(path, shown, manifest) {
    super({}, shown, manifest);
    this.path = path;
  }

  /** The artifact of this name; null is the one that the bundle ships. */
  artifact(name) {
    const wanted = name ?? this.manifest.ship;
    const found = this.manifest.artifacts.find((one) => one.name === wanted);
    if (found === undefined) throw new Failure(`${this.folder}: no artifact ${wanted} in it`);
    return found;
  }

  async file(path, progress = () => {}) {
    const entry = this.entryOf(path);
    const bytes = await readFile([...this.path, ...path.split('/').map(encodedName)], path, progress);
    const problem = await misfit(bytes, entry);
    if (problem !== null) throw new Failure(`${path}: ${problem}`);
    return bytes;
  }
}
