"""Python's self-test and the library's: the same verdict on the same bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgestill.bundle import GOLDEN_FILE, Bundle, open_bundle
from edgestill.errors import GateError
from edgestill.runtime.native.binding import NativeLibrary
from edgestill.runtime.self_test import MOST_GAP, self_test
from edgestill.runtime.session import Session

NAME = "gguf-f16"


def both(folder: Path, library: NativeLibrary) -> str | dict[str, object]:
    """Return what both find, or the reason of the first where both refuse."""
    bundle = open_bundle(folder)
    found: list[object] = []
    with Session.open(bundle.artifact_folder(NAME), threads=1) as session:
        try:
            found.append(json.loads(self_test(session, bundle, NAME).to_json()))
        except GateError as error:
            found.append(str(error))
    with library.open(folder, NAME, threads=1) as native:
        try:
            found.append(native.selftest())
        except GateError as error:
            found.append(str(error))
    one, other = found
    assert isinstance(one, str) == isinstance(other, str), found
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.pop("largest_gap") == pytest.approx(other.pop("largest_gap"), rel=1e-3)
        assert one == other
    return one  # type: ignore[return-value]


def test_the_packers_machine_finds_no_token_close(packed: Bundle, library: NativeLibrary) -> None:
    found = both(packed.folder, library)
    assert isinstance(found, dict)
    assert (found["prompts"], found["close_tokens"]) == (3, 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda row: row["token_ids"][NAME].__setitem__(3, (row["token_ids"][NAME][3] + 7) % 300), "at token 3"),
        (lambda row: row["token_ids"][NAME].pop(), "doesn't end an answer here"),
        (lambda row: row["token_ids"][NAME].extend([300] * 99), "ends"),
        (lambda row: row["token_ids"][NAME].append(-1), "hasn't"),
        (lambda row: row["token_ids"].pop(NAME), "answer"),
        (lambda row: row["prompt_ids"].append(5), "tokenised differently"),
    ],
)
def test_a_golden_answer_of_another_model_is_found(
    change: Callable[[dict[str, object]], object],
    why: str,
    packed: Bundle,
    library: NativeLibrary,
    repack: Callable[..., Path],
) -> None:
    rows = [json.loads(line) for line in (packed.folder / GOLDEN_FILE).read_text(encoding="utf-8").splitlines()]
    change(rows[1])
    found = both(repack("".join(json.dumps(row) + "\n" for row in rows)), library)
    assert isinstance(found, str)
    assert why in found


def test_a_token_within_the_bound_is_close_and_one_beyond_it_differs(packed: Bundle) -> None:
    with Session.open(packed.artifact_folder(NAME), threads=1) as session:
        original = session.engine.append
        (golden,) = [json.loads(line) for line in (packed.folder / GOLDEN_FILE).read_text().splitlines()][:1]
        first = golden["token_ids"][NAME][0]

        for share, passes in ((MOST_GAP * 0.98, True), (MOST_GAP * 1.02, False)):
            raised = []

            def append(ids: object, share: float = share, raised: list[int] = raised) -> object:
                """Let another token than the golden one be the largest by a share of its height, once."""
                logits = np.array(original(ids), dtype=np.float64)
                if not raised:
                    raised.append(1)
                    rival = int(np.argmin(logits))
                    logits[rival] = logits[first]
                    for _ in range(60):  # the mean grows with it
                        logits[rival] = logits[first] + share * (logits[rival] - logits.mean())
                return logits

            session.engine.append = append  # type: ignore[method-assign, assignment]
            if passes:
                assert self_test(session, packed, NAME).close_tokens == 1
            else:
                with pytest.raises(GateError, match="golden answer 1 differs at token 0"):
                    self_test(session, packed, NAME)


def test_verify_goes_along_when_asked(packed: Bundle) -> None:
    command = [sys.executable, "-m", "edgestill.cli", "bundle", "verify", str(packed.folder), "--close"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert [test["artifact"] for test in document["self_tests"]] == [one.name for one in packed.manifest.artifacts]
    assert document["golden_answers"] == 3 * len(packed.manifest.artifacts)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "golden answers gone along, 0 of" in said
