// The origin private file system by paths: arrays of names, as the driver encodes them.

export const isAbsent = (error) => error?.name === 'NotFoundError' || error?.name === 'TypeMismatchError';

/** The folder at a path; null where there is none. `create` makes it. */
export async function folderAt(path, create = false) {
  let folder = await navigator.storage.getDirectory();
  for (const name of path) {
    try {
      folder = await folder.getDirectoryHandle(name, { create });
    } catch (error) {
      if (create || !isAbsent(error)) throw error;
      return null;
    }
  }
  return folder;
}

/** The file at a path below a folder; null where there is none. */
export async function fileAt(path) {
  const folder = await folderAt(path.slice(0, -1));
  if (folder === null || path.length === 0) return null;
  try {
    return await folder.getFileHandle(path.at(-1));
  } catch (error) {
    if (!isAbsent(error)) throw error;
    return null;
  }
}

/** Paths of all files below a folder, their names joined by `/`. */
export async function* filesBelow(folder, above) {
  for await (const [name, handle] of folder.entries()) {
    const path = [...above, name];
    if (handle.kind === 'file') yield path.join('/');
    else yield* filesBelow(handle, path);
  }
}

/** What an asynchronous iterator gives, as an array. */
export async function all(iterator) {
  const found = [];
  for await (const one of iterator) found.push(one);
  return found;
}

export const namesIn = (folder) => all(folder.keys());

/** Deletes what is at a path, whatever it holds. */
export async function removeEntry(path) {
  const folder = await folderAt(path.slice(0, -1));
  await folder?.removeEntry(path.at(-1), { recursive: true }).catch((error) => {
    if (!isAbsent(error)) throw error;
  });
}

/** Deletes folders below one that hold nothing. */
export async function pruneBelow(folder) {
  for (const [name, handle] of await all(folder.entries())) {
    if (handle.kind === 'directory') {
      await pruneBelow(handle);
      if ((await namesIn(handle)).length === 0) await folder.removeEntry(name);
    }
  }
}

/** Deletes folders above a path, down to `from` names, that hold nothing. */
export async function pruneAbove(path, from) {
  for (let depth = path.length - 1; depth > from; depth -= 1) {
    const folder = await folderAt(path.slice(0, depth));
    if (folder !== null && (await namesIn(folder)).length > 0) return;
    if (folder !== null) await removeEntry(path.slice(0, depth));
  }
}
