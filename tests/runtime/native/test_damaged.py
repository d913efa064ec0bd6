"""Damaged GGUF headers under the C library; benchmarks/native/fuzz.py has bundles too, and many more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgestill.bundle import Bundle
from edgestill.runtime.native.build import NativeBuild

FUZZ = """
import random, sys
from pathlib import Path
from edgestill.errors import EdgestillError
from edgestill.runtime.native.binding import NativeLibrary

library, model, scratch = NativeLibrary(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
data, draw = model.read_bytes(), random.Random(0)
header = data.index(b"token_embd.weight") + 2000
opened = 0
for number in range(int(sys.argv[4])):
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(min(header, 400 if draw.random() < 0.3 else header))
        how = draw.randrange(4)
        if how == 0:
            spoilt[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            spoilt[at : at + 8] = draw.choice((0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1)).to_bytes(8, "little")
        elif how == 2:
            del spoilt[at : at + draw.randrange(1, 9)]
        else:
            spoilt[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
    scratch.write_bytes(spoilt)
    try:
        with library.open(scratch, threads=1, context_length=32) as session:
            session.generate([1, 2, 3])
            opened += 1
    except EdgestillError as error:
        assert str(error).strip(), number
print(opened)
"""


def test_damaged_headers_never_end_the_process(built: NativeBuild, packed: Bundle, tmp_path: Path) -> None:
    model = packed.folder / "artifacts" / "gguf-f16" / "model.gguf"
    arguments = [str(built.library), str(model), str(tmp_path / "spoilt.gguf"), "300"]
    done = subprocess.run([sys.executable, "-c", FUZZ, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < int(done.stdout) < 300
