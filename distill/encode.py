"""Examples as token ids, with a mask of what the student learns: its answers and their end tokens.

The mask comes from the chat template itself: a turn's answer is what the rendered conversation adds to
the rendered prompt. So training sees exactly the prompt that the runtime will show.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal, overload

import numpy as np
import tokenizers
from numpy.typing import NDArray

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.dataset import Example, Message
from edgestill.errors import CheckpointError, DataError, disk_errors
from edgestill.progress import SILENT, Progress
from edgestill.runtime.chat_template import render

Turns = Literal["all", "final"]
_SHOW_ROWS: Final = 500
_SHOW_DROPPED: Final = 10


@dataclass(frozen=True)
class Encoded:
    """One row: ``input_ids`` ``[time]`` int32; ``labels_mask`` ``[time]`` bool, True where the token is learnt.

    The first token is never learnt: nothing predicts it.
    """

    input_ids: NDArray[np.int32]
    labels_mask: NDArray[np.bool_]

    def sha256(self) -> str:
        """Hash of ids and mask: the key of a cached signal."""
        digest = hashlib.sha256(self.input_ids.astype("<i4").tobytes())
        digest.update(self.labels_mask.tobytes())
        return digest.hexdigest()


class EncodedRows(Sequence[Encoded]):
    """Rows one after the other in two arrays, which may lie in a file: ids int32, mask bool, ends int64."""

    def __init__(self, ids: NDArray[np.int32], mask: NDArray[np.bool_], ends: NDArray[np.int64]) -> None:
        self._ids, self._mask, self._ends = ids, mask, ends

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each row, ``[rows]``."""
        return np.diff(self._ends, prepend=0)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...

    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # negative ones, and IndexError
        start, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        return Encoded(self._ids[start:end], self._mask[start:end])


class _Writer:
    """Collects rows: in memory, or in unnamed files of a folder, which go away with the rows or the process."""

    def __init__(self, folder: Path | None) -> None:
        self._ids, self._mask = (
            io.BytesIO() if folder is None else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - mapped below
            for _ in range(2)
        )
        self._ends = array("q")
        self._folder = folder

    def add(self, row: Encoded) -> None:
        self._ids.write(row.input_ids.astype(np.int32).tobytes())
        self._mask.write(row.labels_mask.tobytes())
        self._ends.append((self._ends[-1] if self._ends else 0) + len(row.input_ids))

    def rows(self) -> EncodedRows:
        ends = np.array(self._ends, np.int64)
        ids, mask = self._array(self._ids, np.int32), self._array(self._mask, np.bool_)
        return EncodedRows(ids, mask, ends)

    def _array(self, file: IO[bytes], dtype: type[np.generic]) -> NDArray[Any]:
        if isinstance(file, io.BytesIO):
            return np.frombuffer(file.getbuffer(), dtype)
        file.flush()
        return np.memmap(file, dtype, "r")


@dataclass(frozen=True)
class EncodedData:
    """Rows ready for training, and what was left out.

    ``too_long`` rows had more than ``max_length`` tokens (never cut: a cut answer teaches to stop
    nowhere); ``unanswered`` had no assistant turn. ``numbers`` are the places of the rows among the examples.
    """

    rows: Sequence[Encoded]
    max_length: int
    too_long: int = 0
    unanswered: int = 0
    dropped_sources: tuple[str, ...] = ()
    numbers: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """All tokens of all rows."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def target_tokens(self) -> int:
        """Tokens that are learnt."""
        return sum(int(row.labels_mask.sum()) for row in self.rows)

    def sha256(self) -> str:
        """Hash of every row in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(bytes.fromhex(row.sha256()))
        return digest.hexdigest()


@dataclass(frozen=True)
class ChatTokenizer:
    """A checkpoint's tokenizer, chat template and end tokens.

    ``end_ids`` are all ids that end an answer (generation_config, config and the tokenizer's eos).
    """

    tokenizer: tokenizers.Tokenizer
    template: str | None
    bos_token: str | None
    eos_token: str | None
    end_ids: frozenset[int]
    eos_id: int
    pad_id: int
    source: Path = field(default=Path())

    @classmethod
    def open(cls, checkpoint: Checkpoint) -> ChatTokenizer:
        """Read a checkpoint's tokenizer files. Raises CheckpointError that names what is missing or damaged."""
        folder = checkpoint.path
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder}: no tokenizer.json in it; save the fast tokenizer beside the model")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path}: not a readable tokenizer ({error})") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        settings = _optional_json(folder / "tokenizer_config.json")
        eos_token = _token(settings.get("eos_token"))
        config, generation = checkpoint.config(), _optional_json(folder / "generation_config.json")
        ends = [*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))]
        if eos_token is not None and (id := tokenizer.token_to_id(eos_token)) is not None:
            ends.insert(0, id)
        if not ends:
            raise CheckpointError(f"{folder}: no end token; set eos_token_id in config.json")
        pad_token = _token(settings.get("pad_token"))
        pads = _ids(config.get("pad_token_id"))
        pad = tokenizer.token_to_id(pad_token) if pad_token is not None else None
        return cls(
            tokenizer,
            _template(folder, settings),
            _token(settings.get("bos_token")),
            eos_token,
            frozenset(ends),
            ends[0],
            pad if pad is not None else (pads or ends)[0],
            folder,
        )

    def ids(self, text: str) -> list[int]:
        """Tokenise rendered text; special tokens come from the text alone."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def rendered(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Render messages as the runtime does."""
        return render(
            self.template,
            messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.bos_token,
            eos_token=self.eos_token,
        )

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids that the model is shown before it answers."""
        if example.text is not None:
            return list(self.tokenizer.encode(example.text).ids)
        return self.ids(self.rendered(example.prompt, add_generation_prompt=True))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def encode(self, example: Example, *, turns: Turns = "all") -> Encoded:
        """Encode one answered example (or plain text: all tokens and eos).

        What is learnt of a turn is what the template writes after the turn's prompt, up to and with its end
        token: exactly what the model has to generate. Raises DataError when the rendered prompt isn't a
        prefix of the rendered conversation, or when the template ends an answer without an end token.
        """
        if example.text is not None:
            return self._text(example.text)
        messages = example.messages
        whole = self.rendered(messages, add_generation_prompt=False)
        last = len(messages) - 1
        wanted = [n for n, message in enumerate(messages) if message.role == "assistant"]
        if turns == "final" or self.template is None:
            wanted = [n for n in wanted if n == last]
        prefixes = [self._prefix(example, n, whole) for n in wanted]
        ids, starts = self._tokenized(whole, prefixes, example.source)
        if self.template is None:
            ids = [*ids, self.eos_id]
        mask = np.zeros(len(ids), np.bool_)
        stop = 0
        for n, start, limit in zip(wanted, starts, [*starts[1:], len(ids)], strict=True):
            stop = self._answer_end(example, n, ids, start, limit)
            mask[max(start, 1) : stop] = True
        # What the template writes after the last end token is never generated.
        return Encoded(np.asarray(ids[:stop] if wanted else ids, np.int32), mask[:stop] if wanted else mask)

    def _prefix(self, example: Example, turn: int, whole: str) -> str:
        """Return the text that the model is shown before it answers a turn."""
        prefix = self.rendered(example.messages[:turn], add_generation_prompt=True) if turn else ""
        if not whole.startswith(prefix):
            raise DataError(
                f"{example.source}: the chat template of {self.source} renders the prompt of turn {turn + 1} "
                "differently once it is answered; train on final turns alone (distill.turns: final), or change it"
            )
        return prefix

    def _tokenized(self, whole: str, prefixes: Sequence[str], source: str) -> tuple[list[int], list[int]]:
        """Return the ids of a conversation and where each answer begins.

        Where the tokenizer would join the end of a prompt and the beginning of its answer into one token
        (two newlines), the two are tokenised by themselves, as they are when the model is asked.
        """
        ids = self.ids(whole)
        heads = [self.ids(prefix) for prefix in prefixes]
        if all(ids[: len(head)] == head for head in heads):
            return ids, [len(head) for head in heads]
        joined: list[int] = []
        starts = []
        edges = [0, *map(len, prefixes), len(whole)]
        for begin, end in itertools.pairwise(edges):
            joined += self.ids(whole[begin:end])
            starts.append(len(joined))
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        if self.tokenizer.decode(joined, skip_special_tokens=False) != text:
            raise DataError(
                f"{source}: the tokens of a prompt change when the answer follows, and {self.source} can't tokenise "
                "them apart; its chat template must end the prompt with a special token"
            )
        return joined, starts[:-1]

    def _answer_end(self, example: Example, turn: int, ids: Sequence[int], start: int, limit: int) -> int:
        """Return the position after the first end token of an answer."""
        for position in range(start, limit):
            if ids[position] in self.end_ids:
                return position + 1
        raise DataError(
            f"{example.source}: the chat template of {self.source} ends the answer of turn {turn + 1} without one of "
            f"the model's end tokens {sorted(self.end_ids)}; a student would never learn to stop"
        )

    def _text(self, text: str) -> Encoded:
        ids = list(self.tokenizer.encode(text).ids)
        if not ids or ids[-1] not in self.end_ids:
            ids.append(self.eos_id)
        mask = np.ones(len(ids), np.bool_)
        mask[0] = False
        return Encoded(np.asarray(ids, np.int32), mask)


def encode_examples(
    examples: Iterable[Example],
    tokenizer: ChatTokenizer,
    *,
    max_length: int,
    turns: Turns = "all",
    spill: Path | None = None,
    progress: Progress = SILENT,
) -> EncodedData:
    """Encode examples for training; rows over ``max_length`` tokens or without an answer are dropped and counted.

    With ``spill``, a folder, the tokens lie there in files without a name (5 bytes a token), not in memory.
    Raises DiskFullError, DataError (see :meth:`ChatTokenizer.encode`), and when no row is left.
    """
    rows = _Writer(spill)
    numbers = array("q")
    dropped: list[str] = []
    too_long = unanswered = 0
    with progress.task("encode", unit="rows") as task, disk_errors(f"encoding into {spill}"):
        for number, example in enumerate(examples, 1):
            answered = example.text is not None or any(m.role == "assistant" for m in example.messages)
            row = tokenizer.encode(example, turns=turns) if answered else None
            if row is None or not row.labels_mask.any():
                unanswered += 1
                dropped = [*dropped, example.source][:_SHOW_DROPPED]
            elif len(row.input_ids) > max_length:
                too_long += 1
                dropped = [*dropped, example.source][:_SHOW_DROPPED]
            else:
                rows.add(row)
                numbers.append(number - 1)
            if number % _SHOW_ROWS == 0:
                task.advance(_SHOW_ROWS)
        if not numbers:
            raise DataError(
                f"no row to train on: {too_long} longer than max_length {max_length}, {unanswered} without an answer"
            )
        encoded = rows.rows()
    return EncodedData(encoded, max_length, too_long, unanswered, tuple(dropped), numbers)


def _template(folder: Path, settings: dict[str, object]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    value = settings.get("chat_template")
    if isinstance(value, list):  # several named ones: the default
        value = next((entry["template"] for entry in value if entry.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _optional_json(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}


def _token(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ids(value: object) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [int(id) for id in value] if isinstance(value, list) else []
