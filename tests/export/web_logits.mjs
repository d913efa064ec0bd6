// Runs an ONNX decoder in onnxruntime-web's WebAssembly: node web_logits.mjs PACKAGES FOLDER IDS
// Prints {ids: logits after the last of them} as JSON; IDS are comma-separated.
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [packages, folder, text] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(packages), 'x.cjs'));
const ort = await import(pathToFileURL(require.resolve('onnxruntime-web')).href).then((found) => found.default ?? found);
ort.env.wasm.numThreads = 1;
const bytes = (name) => new Uint8Array(fs.readFileSync(path.join(folder, name)));
const session = await ort.InferenceSession.create(bytes('model.onnx'), {
  executionProviders: ['wasm'],
  externalData: [{ path: 'model.onnx.data', data: bytes('model.onnx.data') }],
});
const ids = text.split(',').map(BigInt);
const feeds = {
  input_ids: new ort.Tensor('int64', BigInt64Array.from(ids), [1, ids.length]),
  attention_mask: new ort.Tensor('int64', new BigInt64Array(ids.length).fill(1n), [1, ids.length]),
};
for (const input of session.inputMetadata.filter((one) => one.name.startsWith('past_key_values.'))) {
  const [, heads, , size] = input.shape;
  const empty = input.type === 'float16' ? new Uint16Array(0) : new Float32Array(0);
  feeds[input.name] = new ort.Tensor(input.type, empty, [1, heads, 0, size]);
}
const { logits } = await session.run(feeds);
const last = logits.data.slice(-logits.dims[2]);
// Without a Float16Array, float16 comes as its bits.
process.stdout.write(JSON.stringify({ type: logits.type, bits: last instanceof Uint16Array, logits: Array.from(last) }));
