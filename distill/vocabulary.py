"""Comparing two checkpoints' vocabularies: a KL on logits needs the same token behind every id."""

from __future__ import annotations

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.errors import InputError
from edgestill.storage import sha256_json


def check_same_vocabulary(teacher: Checkpoint, student: Checkpoint) -> None:
    """Raise InputError unless every id means the same token to teacher and student."""
    ours, theirs = _vocabulary(teacher), _vocabulary(student)
    if ours == theirs:
        return
    different = min(
        (id for id in ours.keys() | theirs.keys() if ours.get(id) != theirs.get(id)),
    )
    raise InputError(
        f"kl needs one vocabulary, but teacher {teacher.path} ({len(ours)} tokens) and student {student.path} "
        f"({len(theirs)} tokens) differ: id {different} is {ours.get(different)!r} and {theirs.get(different)!r}; "
        "drop the kl loss, or give the student the teacher's tokenizer (kind: pruned or config)"
    )


def vocabulary_sha256(checkpoint: Checkpoint) -> str:
    """Return a hash of id -> token."""
    return sha256_json(sorted(_vocabulary(checkpoint).items()))


def _vocabulary(checkpoint: Checkpoint) -> dict[int, str]:
    path = checkpoint.path / "tokenizer.json"
    value = read_json_object(path)
    model, added = value.get("model"), value.get("added_tokens") or []
    entries = model.get("vocab") if isinstance(model, dict) else None
    found: dict[int, str] = {}
    if isinstance(entries, dict):
        found.update((int(id), str(token)) for token, id in entries.items())
    elif isinstance(entries, list):  # Unigram: [piece, score] in order of id
        found.update((id, str(entry[0])) for id, entry in enumerate(entries))
    else:
        raise InputError(f"{path}: no model.vocab in it; a tokenizer of the 'tokenizers' library is expected")
    if isinstance(added, list):
        found.update((int(token["id"]), str(token["content"])) for token in added)
    return found
