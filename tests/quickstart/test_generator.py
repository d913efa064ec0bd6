import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgestill.dataset import Example, read_examples
from edgestill.quickstart import write_quickstart
from edgestill.quickstart.generator import generate, prompt_text, write_dataset
from edgestill.quickstart.holdout import Split
from edgestill.quickstart.home import ACTIONS, ANSWER_KEYS, COLORS, DEVICES, NAMES, ROOMS, write_answer
from edgestill.quickstart.refusals import MISSING_DEVICES, MISSING_ROOMS
from edgestill.quickstart.spoken import TIMES, number_in_words
from edgestill.recipe import load_recipe
from edgestill.storage import sha256_folder

TRAINING_SPLITS: tuple[Split, ...] = ("train", "validation", "fresh")
SEED = 0


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    sizes: dict[Split, int] = {"train": 8000, "validation": 400, "fresh": 6000, "test": 600}
    return {split: generate(split, count, SEED) for split, count in sizes.items()}


def gold(example: Example) -> dict[str, object]:
    answer = json.loads(example.completion or "")
    assert isinstance(answer, dict)
    return answer


def _alternatives(words: list[str]) -> re.Pattern[str]:
    longest_first = sorted({re.escape(word) for word in words}, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<![a-z0-9])({'|'.join(longest_first)})(?![a-z0-9%:])")


NUMBER = rf"(?:\d+|{'|'.join(sorted((number_in_words(n) for n in range(1000)), key=len, reverse=True))})"
SLOTS = (
    ("TIME", _alternatives([words for words, _ in TIMES])),
    ("DEVICE", _alternatives([*(noun for device in DEVICES.values() for noun in device.nouns), *MISSING_DEVICES])),
    ("ROOM", _alternatives([*(noun for nouns in ROOMS.values() for noun in nouns), *MISSING_ROOMS])),
    ("VALUE", re.compile(rf"(?<![a-z0-9])(three quarters|a quarter|half an hour|an hour|half|{NUMBER}"
                         r"(?:%| percent| degrees| minutes?| cups?)?)(?![a-z0-9%])")),
    ("VALUE", _alternatives(list(COLORS))),
    ("NAME", _alternatives([name for names in NAMES.values() for name in names])),
)  # fmt: skip
BEFORE = r"^(could you please|please|can you|could you|would you|hey,|i want you to|i'd like you to|go and) "
AFTER = r"( please| for me|, thanks|\?)+$"
POLITENESS = re.compile(f"{BEFORE}|{AFTER}")


def skeleton(turn: str) -> str:
    """Recompute the phrasing from the words alone: politeness off, every slot replaced by its kind."""
    for slot, pattern in SLOTS:
        turn = pattern.sub(slot, turn)
    return POLITENESS.sub("", POLITENESS.sub("", turn))


def user_turns(example: Example) -> list[str]:
    return [message.content for message in example.messages if message.role == "user"]


def test_no_prompt_is_in_two_splits_or_twice_in_one(splits: dict[str, list[Example]]) -> None:
    prompts = [prompt_text(example) for rows in splits.values() for example in rows]
    assert len(prompts) == len(set(prompts))


def test_no_combination_of_the_test_split_occurs_in_another_split(splits: dict[str, list[Example]]) -> None:
    unseen = {write_answer(gold(example)) for example in splits["test"]}
    seen = {write_answer(gold(example)) for split in TRAINING_SPLITS for example in splits[split]}
    assert len(unseen) > 150
    assert not unseen & seen


def test_first_turns_of_the_training_splits_hold_no_combination_of_the_test_split(
    splits: dict[str, list[Example]],
) -> None:
    unseen = {write_answer(gold(example)) for example in splits["test"]}
    for split in TRAINING_SPLITS:
        answers = [m.content for row in splits[split] for m in row.prompt if m.role == "assistant"]
        assert answers
        assert not unseen & {write_answer(json.loads(answer)) for answer in answers}


def test_no_phrasing_of_the_test_split_occurs_in_another_split(splits: dict[str, list[Example]]) -> None:
    unseen = {skeleton(turn) for example in splits["test"] for turn in user_turns(example)}
    seen = {skeleton(turn) for split in TRAINING_SPLITS for example in splits[split] for turn in user_turns(example)}
    assert len(unseen) > 80
    assert not unseen & seen


def test_every_word_of_the_test_split_occurs_in_train(splits: dict[str, list[Example]]) -> None:
    def words(rows: list[Example]) -> set[str]:
        return {word for row in rows for turn in user_turns(row) for word in re.findall(r"[a-z']+|\d+", turn)}

    assert words(splits["test"]) <= words(splits["train"])


def test_the_home_is_as_large_as_promised(splits: dict[str, list[Example]]) -> None:
    answers = [gold(example) for example in splits["train"]]
    assert len({answer["device"] for answer in answers if "device" in answer}) >= 12
    assert len({answer["action"] for answer in answers}) >= 20
    assert {answer["action"] for answer in answers} == {*ACTIONS, "refuse", "undo"}
    assert {key for answer in answers for key in answer} == set(ANSWER_KEYS)
    reasons = {answer["reason"] for answer in answers if "reason" in answer}
    assert reasons == {"not_possible", "no_such_device", "no_such_room", "out_of_range"}


def test_the_test_split_asks_for_nearly_every_action(splits: dict[str, list[Example]]) -> None:
    asked = {gold(example)["action"] for example in splits["test"]}
    assert {*ACTIONS, "refuse", "undo"} - asked <= {"disarm"}  # one alarm: a single combination


def test_about_a_fifth_of_the_rows_have_two_turns(splits: dict[str, list[Example]]) -> None:
    for rows in splits.values():
        two = [row for row in rows if len(row.messages) == 4]
        assert 0.1 < len(two) / len(rows) < 0.3
        assert all([m.role for m in row.messages] == ["user", "assistant", "user", "assistant"] for row in two)


def test_answers_are_one_compact_json_object_with_keys_in_order(splits: dict[str, list[Example]]) -> None:
    for example in splits["train"]:
        answer = gold(example)
        assert list(answer) == [key for key in ANSWER_KEYS if key in answer]
        assert example.completion == json.dumps(answer, separators=(",", ":"))


def test_one_prompt_never_has_two_answers() -> None:
    answers: dict[str, str] = {}
    for seed in range(3):
        for example in generate("train", 5000, seed):
            assert answers.setdefault(prompt_text(example), example.completion or "") == example.completion


def test_what_is_said_for_a_time_means_one_time() -> None:
    said = dict(TIMES)
    assert len(said) == len(TIMES)
    expected = {
        "at eight": "20:00",
        "at 8 am": "08:00",
        "at 7:30 pm": "19:30",
        "at twelve": "12:00",
        "at 12 am": "00:00",
        "at noon": "12:00",
        "at midnight": "00:00",
        "in 10 minutes": "+10",
        "in half an hour": "+30",
    }
    assert {words: said[words] for words in expected} == expected


def test_numbers_are_said_in_words() -> None:
    assert [number_in_words(n) for n in (0, 13, 30, 21, 100, 180, 215)] == [
        *("zero", "thirteen", "thirty", "twenty one", "one hundred", "one hundred eighty", "two hundred fifteen"),
    ]


def test_the_issues_example_has_its_answer() -> None:
    answer = {"action": "set_brightness", "device": "light", "room": "kitchen", "value": 30, "time": "20:00"}
    assert write_answer(dict(reversed(answer.items()))) == json.dumps(answer, separators=(",", ":"))


def _digest(rows: list[Example]) -> str:
    return hashlib.sha256(json.dumps([row.to_row() for row in rows]).encode()).hexdigest()


def test_a_seed_gives_the_same_rows_in_every_process() -> None:
    program = (
        "import hashlib, json\nfrom edgestill.quickstart.generator import generate\n"
        "rows = generate('train', 50, 7) + generate('test', 50, 7)\n"
        "print(hashlib.sha256(json.dumps([row.to_row() for row in rows]).encode()).hexdigest())"
    )
    here = _digest(generate("train", 50, 7) + generate("test", 50, 7))
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
        assert there.stdout.decode().strip() == here


def test_another_seed_gives_other_rows() -> None:
    first, second = ({prompt_text(row) for row in generate("train", 200, seed)} for seed in (1, 2))
    assert len(first & second) < 20


def test_a_longer_split_begins_with_the_shorter_one() -> None:
    assert generate("fresh", 80, 3)[:30] == generate("fresh", 30, 3)


def test_a_split_too_small_for_the_count_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgestill.quickstart.generator._MAX_DRAWS_PER_ROW", 1)
    with pytest.raises(ValueError, match="test split holds fewer than 50 rows"):
        generate("test", 50, 0)


def test_the_data_set_is_four_files_and_the_fresh_prompts_have_no_answer(tmp_path: Path) -> None:
    write_dataset(tmp_path, train=30, validation=10, test=12, fresh=20, seed=5)
    rows = {path.name: list(read_examples(path)) for path in tmp_path.iterdir()}
    counts = {"train.jsonl": 30, "validation.jsonl": 10, "test.jsonl": 12, "prompts.jsonl": 20}
    assert {name: len(examples) for name, examples in rows.items()} == counts
    assert all(example.completion is None for example in rows["prompts.jsonl"])
    assert all(example.completion for example in rows["train.jsonl"])


def test_the_quickstarts_folder_is_a_recipe_with_its_data_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = write_quickstart(tmp_path / "first"), write_quickstart(tmp_path / "second")
    recipe = load_recipe(first)
    named = {recipe.data.train, recipe.data.validation, recipe.data.test, recipe.synthesize.prompts}
    assert all(path is not None and path.is_file() for path in named)
    assert sha256_folder(first.parent) == sha256_folder(second.parent)
