"""Too little memory, a full disk, an answer ended while its prompt is read: an error, and the process lives."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgestill.artifact import Checkpoint
from edgestill.bundle import Bundle
from edgestill.errors import EdgestillError
from edgestill.export import export_checkpoint
from edgestill.runtime.generation import GenerationOptions
from edgestill.runtime.native.binding import NativeLibrary
from edgestill.runtime.native.build import NativeBuild

# Opens under limits of memory that grow; says of each what happened, and answers once there is enough.
LIMITED = """
import json, resource, sys
from pathlib import Path
from edgestill.errors import EdgestillError
from edgestill.runtime.native.binding import NativeLibrary

library = NativeLibrary(Path(sys.argv[1]))
bundle = Path(sys.argv[2])
library.open(bundle, threads=2).close()  # what is loaded once is there
pages = int(Path("/proc/self/statm").read_text().split()[0])
said = []
for more in (*range(0, 32 << 20, 512 << 10), 256 << 20):
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + more, resource.RLIM_INFINITY))
    try:
        session = library.open(bundle, threads=1)
        ids = session.generate(session.tokenize("Once upon"), None)[0]
        session.close()
        said.append([type(ids).__name__, len(ids)])
    except (EdgestillError, MemoryError) as error:
        said.append([type(error).__name__, str(error)])
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with library.open(bundle, threads=1) as session:
    said.append(session.generate(session.tokenize("Once upon"), None)[0])
print(json.dumps(said))
"""


@pytest.mark.skipif("EDGESTILL_NATIVE_FLAGS" in os.environ, reason="a sanitizer reserves terabytes of addresses")
def test_too_little_memory_is_an_error(built: NativeBuild, packed: Bundle) -> None:
    command = [sys.executable, "-c", LIMITED, str(built.library), str(packed.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *limited, free = json.loads(done.stdout)
    refused = [said for kind, said in limited if kind != "list"]
    assert refused
    assert all(refused)
    assert limited[-1] == ["list", len(free)]


def test_a_disk_that_fills_while_a_state_is_saved_is_an_error(
    library: NativeLibrary, packed: Bundle, tmp_path: Path
) -> None:
    with library.open(packed.folder, threads=1) as session:
        ids = session.tokenize("Once upon a time")
        answer = session.generate(ids, None)
        path = tmp_path / "kept.state"
        session.save_state(path)
        whole = path.read_bytes()
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, before[1]))
        try:
            with pytest.raises(EdgestillError, match=os.strerror(errno.EFBIG)):
                session.save_state(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        # What was there before is whole, nothing else is left, and the session goes on.
        assert path.read_bytes() == whole
        assert [one.name for one in tmp_path.iterdir()] == ["kept.state"]
        with pytest.raises(EdgestillError):
            session.save_state(tmp_path / "no folder" / "a.state")
        session.load_state(path)
        assert session.generate(ids, None) == answer


def test_an_answer_is_cancelled_while_its_prompt_is_read(
    library: NativeLibrary, write_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "long", max_position_embeddings=4096))
    model = export_checkpoint(checkpoint, "gguf", "f32", tmp_path).model_path
    with library.open(model, threads=1) as session:
        prompt = (session.tokenize("the lights of the kitchen ") * 600)[:4000]
        ending = threading.Event()

        def keep_cancelling() -> None:
            while not ending.wait(1e-4):
                session.cancel()

        thread = threading.Thread(target=keep_cancelling)
        thread.start()
        cancelled, _ = session.generate(prompt, GenerationOptions(max_new_tokens=2))
        ending.set()
        thread.join()
        whole, _ = session.generate(prompt, GenerationOptions(max_new_tokens=2))
        assert not cancelled
        assert len(whole) == 2
        session.reset()
        assert session.generate(prompt, GenerationOptions(max_new_tokens=2))[0] == whole


def test_a_bench_ends_where_it_is_cancelled_once(library: NativeLibrary, packed: Bundle) -> None:
    with library.open(packed.folder, "gguf-f16", threads=1) as session:
        timer = threading.Timer(0.2, session.cancel)
        timer.start()
        with pytest.raises(EdgestillError, match="cancelled"):
            session.bench(20, 20, 1_000_000)
        timer.join()
        assert session.selftest()["prompts"] == 3
        assert session.bench(20, 4, 1)["results"]
