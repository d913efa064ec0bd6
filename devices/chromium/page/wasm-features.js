// Which proposals of WebAssembly the browser runs: for each, the smallest module that needs it must be valid.
// Source of the encodings: https://webassembly.github.io/spec/core/binary/
const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
const I32_ZERO = [0x41, 0x00];
const I8X16_SPLAT = [0xfd, 0x0f];
const DROP = 0x1a;
const END = 0x0b;

const section = (id, ...content) => [id, content.length, ...content];

// A module of one function () -> () with these instructions, and perhaps a memory.
function moduleOf(instructions, memory = []) {
  const body = [0x00, ...instructions, END]; // no locals
  return new Uint8Array([
    ...HEADER,
    ...section(1, 0x01, 0x60, 0x00, 0x00),
    ...section(3, 0x01, 0x00),
    ...(memory.length > 0 ? section(5, 0x01, ...memory) : []),
    ...section(10, 0x01, body.length, ...body),
  ]);
}

const VECTOR = [...I32_ZERO, ...I8X16_SPLAT];
const MODULES = {
  simd128: moduleOf([...VECTOR, DROP]),
  'relaxed-simd': moduleOf([...VECTOR, ...VECTOR, 0xfd, 0x80, 0x02, DROP]), // i8x16.relaxed_swizzle
  threads: moduleOf([...I32_ZERO, 0xfe, 0x10, 0x02, 0x00, DROP], [0x03, 0x01, 0x01]), // i32.atomic.load, shared memory
  memory64: moduleOf([], [0x04, 0x01]),
};

/** The names of those there are; `threads` also needs memory that workers may share. */
export function wasmFeatures() {
  const valid = Object.keys(MODULES).filter((name) => WebAssembly.validate(MODULES[name]));
  return valid.filter((name) => name !== 'threads' || typeof SharedArrayBuffer !== 'undefined');
}
