// Operations on the origin private file system. Paths are arrays of names, as the driver encodes them.
import { all, fileAt, filesBelow, folderAt, namesIn, pruneAbove, pruneBelow, removeEntry } from './folders.js';
import { hex } from './model-files.js';
import { finishReplacement, replace } from './replacement.js';
import { Sha256 } from './sha256.js';

const WHOLE = 256 << 20; // bytes: up to here crypto.subtle, which is faster and wants a whole file in memory
const BLOCK = 4 << 20; // bytes that are hashed at once beyond
const FLUSH = 16 << 20; // bytes after which what arrived is safe from a power cut
const PARTIAL = '.partial';
const MARK = '.edgestill'; // the file that says whose a folder is

async function sha256Of(handle) {
  const file = await handle.getFile();
  if (file.size <= WHOLE) return { size: file.size, sha256: hex(await crypto.subtle.digest('SHA-256', await file.arrayBuffer())) };
  const digest = new Sha256();
  for (let at = 0; at < file.size; at += BLOCK) {
    digest.update(new Uint8Array(await file.slice(at, at + BLOCK).arrayBuffer()));
  }
  return { size: file.size, sha256: digest.hex() };
}

// Appends what the driver serves at `url`; returns null, or what ended it: a name, with words for a person.
async function append(access, url, offset) {
  let at = offset;
  let flushed = offset;
  let reader = null;
  try {
    reader = (await fetch(url, { cache: 'no-store' })).body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return null;
      for (let start = 0; start < value.length; ) {
        const written = access.write(value.subarray(start), { at });
        start += written;
        at += written;
      }
      if (at - flushed >= FLUSH) {
        access.flush();
        flushed = at;
      }
    }
  } catch (error) {
    await reader?.cancel().catch(() => {});
    if (error.name === 'QuotaExceededError') return { status: 'full', message: error.message };
    return { status: 'cut', message: error.message };
  } finally {
    access.flush();
  }
}

async function writeWhole(handle, bytes) {
  const access = await handle.createSyncAccessHandle();
  try {
    access.truncate(0);
    access.write(bytes, { at: 0 });
    access.flush();
  } finally {
    access.close();
  }
}

// What a full disk is called; other errors are raised on.
function full(error) {
  if (error.name !== 'QuotaExceededError') throw error;
  return { status: 'full' };
}

const operations = {
  /** All files below a folder, as paths joined by `/`. */
  async list({ path }) {
    const folder = await folderAt(path);
    return folder === null ? [] : all(filesBelow(folder, []));
  },

  /** Sizes and hashes of files below a folder; null for what is no file. */
  async stat({ path, names }) {
    const found = [];
    for (const name of names) {
      const handle = await fileAt([...path, ...name]);
      found.push(handle === null ? null : await sha256Of(handle));
    }
    return found;
  },

  /** Deletes entries of a folder, and folders in it that hold nothing then. */
  async delete({ path, names }) {
    for (const name of names) await removeEntry([...path, ...name]);
    const folder = await folderAt(path);
    if (folder !== null) await pruneBelow(folder);
  },

  /** Appends to the partial of `sha256`, which has `offset` bytes, and moves it to `target` when it is whole. */
  async receive({ path, target, sha256, size, offset, url }) {
    const folder = await folderAt(path, true);
    const partials = await folder.getDirectoryHandle(PARTIAL, { create: true });
    const handle = await partials.getFileHandle(sha256, { create: true });
    let access;
    try {
      access = await handle.createSyncAccessHandle();
    } catch (error) {
      if (error.name === 'NoModificationAllowedError') return { status: 'busy' };
      throw error;
    }
    try {
      if (access.getSize() !== offset) return { status: 'busy' };
      const ended = await append(access, url, offset);
      if (ended !== null) return ended;
    } finally {
      access.close();
    }
    const found = await sha256Of(handle);
    if (found.size !== size || found.sha256 !== sha256) {
      await partials.removeEntry(sha256);
      return { status: found.size === size ? 'changed' : 'short' };
    }
    await handle.move(await folderAt([...path, ...target.slice(0, -1)], true), target.at(-1));
    if ((await namesIn(partials)).length === 0) await folder.removeEntry(PARTIAL);
    return { status: 'done' };
  },

  /** Takes many small files, [{target, sha256, size}], that come one after the other from `url`: all or none. */
  async receiveSmall({ path, files, url }) {
    let bytes;
    try {
      bytes = new Uint8Array(await (await fetch(url, { cache: 'no-store' })).arrayBuffer());
    } catch (error) {
      return { status: 'cut', message: error.message };
    }
    const parts = [];
    for (let at = 0, index = 0; index < files.length; at += files[index].size, index += 1) {
      const part = bytes.subarray(at, at + files[index].size);
      if (part.length !== files[index].size) return { status: 'short', index };
      if (hex(await crypto.subtle.digest('SHA-256', part)) !== files[index].sha256) return { status: 'changed', index };
      parts.push(part);
    }
    const folder = await folderAt(path, true);
    const partials = await folder.getDirectoryHandle(PARTIAL, { create: true });
    for (const [index, { target, sha256 }] of files.entries()) {
      const handle = await partials.getFileHandle(sha256, { create: true });
      try {
        await writeWhole(handle, parts[index]);
      } catch (error) {
        return { ...full(error), index };
      }
      await handle.move(await folderAt([...path, ...target.slice(0, -1)], true), target.at(-1));
    }
    if ((await namesIn(partials)).length === 0) await folder.removeEntry(PARTIAL);
    return { status: 'done' };
  },

  /** Copies files of one folder into another. */
  async copy({ from, path, names }) {
    for (const name of names) {
      const file = await (await fileAt([...from, ...name])).getFile();
      const folder = await folderAt([...path, ...name.slice(0, -1)], true);
      const access = await (await folder.getFileHandle(name.at(-1), { create: true })).createSyncAccessHandle();
      try {
        access.truncate(0);
        for (let at = 0; at < file.size; at += BLOCK) {
          access.write(new Uint8Array(await file.slice(at, at + BLOCK).arrayBuffer()), { at });
        }
        access.flush();
      } catch (error) {
        return full(error);
      } finally {
        access.close();
      }
    }
    return { status: 'done' };
  },

  /** Puts folders, [{from, to}], in the places of others; false: one of them isn't there. */
  replace: ({ moves }) => replace(moves),

  /** Makes our folder, or finds it ours; false: it holds somebody else's files. */
  async claim({ root }) {
    const folder = await folderAt(root, true);
    const names = await namesIn(folder);
    if (names.length > 0 && !names.includes(MARK)) return false;
    await folder.getFileHandle(MARK, { create: true });
    return true;
  },

  /** Deletes a folder below ours, then those above it, ours last, that hold nothing. */
  async remove({ root, path }) {
    const ours = await folderAt(root);
    if (ours === null) return;
    const whole = [...root, ...path];
    await removeEntry(whole);
    await pruneAbove(whole, root.length);
    const left = await namesIn(ours);
    if (left.length === 0 || (left.length === 1 && left[0] === MARK)) {
      await removeEntry(root);
      await pruneAbove(root, 0);
    }
  },

  /** Deletes our folder if it is marked as ours; returns whether the origin holds nothing at all then. */
  async removeAll({ root }) {
    if ((await fileAt([...root, MARK])) !== null) {
      await removeEntry(root);
      await pruneAbove(root, 0);
    }
    return (await namesIn(await folderAt([]))).length === 0;
  },

  /** Sends a file to the driver; false where there is none. */
  async send({ path, url }) {
    const handle = await fileAt(path);
    if (handle === null) return false;
    await fetch(url, { method: 'POST', body: await handle.getFile() });
    return true;
  },
};

const ready = finishReplacement(); // one that was under way when the browser ended

self.onmessage = async ({ data: { id, operation, values } }) => {
  try {
    await ready;
    self.postMessage({ id, result: await operations[operation](values) });
  } catch (error) {
    self.postMessage({ id, error: { name: error.name ?? 'Error', message: String(error.message ?? error) } });
  }
};
