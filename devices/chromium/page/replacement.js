// Folders put in the places of others. The origin private file system moves files, not folders: a list of what is to be
// done is written first, and whoever starts next does what is left of it. So each place holds the one or the other.
import { all, fileAt, filesBelow, folderAt, pruneAbove, pruneBelow, removeEntry } from './folders.js';

const LIST = '.edgestill-replacing';

/** Puts the folder at each `from` in the place `to`; false, and nothing is done, where one isn't there. */
export async function replace(moves) {
  const list = [];
  for (const { from, to } of moves) {
    const folder = await folderAt(from);
    if (folder === null) return false;
    list.push({ from, to, files: await all(filesBelow(folder, [])) });
  }
  const top = await folderAt([]);
  const written = await top.getFileHandle(`${LIST}.new`, { create: true });
  const access = await written.createSyncAccessHandle();
  access.truncate(0);
  access.write(new TextEncoder().encode(JSON.stringify(list)), { at: 0 });
  access.flush();
  access.close();
  await written.move(top, LIST);
  await carryOut(list);
  return true;
}

/** Does what is left of a replacement that was cut. */
export async function finishReplacement() {
  const handle = await fileAt([LIST]);
  if (handle !== null) await carryOut(JSON.parse(await (await handle.getFile()).text()));
  await removeEntry([`${LIST}.new`]);
}

// May be run again at any point of it.
async function carryOut(list) {
  for (const { from, to, files } of list) {
    const wanted = new Set(files);
    const place = await folderAt(to, true);
    for (const path of await all(filesBelow(place, []))) {
      if (!wanted.has(path)) await removeEntry([...to, ...path.split('/')]);
    }
    await pruneBelow(place);
    for (const path of files) {
      const names = path.split('/');
      const file = await fileAt([...from, ...names]);
      await file?.move(await folderAt([...to, ...names.slice(0, -1)], true), names.at(-1));
    }
    await removeEntry(from);
    await pruneAbove(from, 0);
  }
  await removeEntry([LIST]);
}
