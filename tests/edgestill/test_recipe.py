"""Recipes: what is written is read, and what is wrong is named with its cure."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from edgestill.errors import RecipeError
from edgestill.recipe import Recipe, load_recipe, parse_recipe

SOUND = """
version: 1
name: demo
task: json
data: {train: train.jsonl, test: test.jsonl}
teachers:
  - {kind: transformers, model: some/hub-name}
student: {kind: pruned, layers: 2}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


JUDGE = "judge: {teacher: {kind: openai, model: strict}}"


def test_paths_are_relative_to_the_recipes_own_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    recipe = load_recipe(write(tmp_path, SOUND.replace("some/hub-name", "model")))
    assert recipe.data.train == tmp_path / "train.jsonl"
    assert recipe.teachers[0].kind == "transformers"
    assert recipe.teachers[0].model == str(tmp_path / "model")


def test_a_hub_name_stays_a_hub_name(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SOUND))
    assert recipe.teachers[0].kind == "transformers"
    assert recipe.teachers[0].model == "some/hub-name"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("task: json", "task: json\nquantise: [onnx-int4]", "unknown key 'quantise'; did you mean 'quantize'?"),
        ("task: json", "task: jason", "task: Input should be"),
        ("layers: 2", "layers: two", "student.pruned.layers: must be how many layers, or their numbers"),
        ("layers: 2", "layers: 0", "must be how many layers"),
        ("layers: 2", "layers: [2, 0]", "must be how many layers"),
        ("layers: 2", "layers: []", "must be how many layers"),
        ("layers: 2", "layer: 2", "student.pruned"),
        ("task: json", "task: json\nsynthesize: {combine: judge}", "combine 'judge' needs synthesize.judge"),
        ("task: json", "task: json\nsynthesize: {filters: [{kind: judge}]}", "filter of kind 'judge' needs"),
        ("task: json", f"task: json\nsynthesize: {{combine: judge, {JUDGE}}}", "nothing to choose from"),
        ("task: json", f"task: json\nsynthesize: {{{JUDGE}}}", "synthesize.judge is never asked"),
        (
            "task: json",
            f"task: json\nsynthesize: {{max_cost: 1, filters: [{{kind: judge}}], {JUDGE}}}",
            "max_cost needs a price",
        ),
        ("version: 1", "version: 2", "version 2 is not 1"),
        ("name: demo", "name: ../demo", "name"),
        ("kind: pruned", "kind: magic", "student"),
        ("data: {train", "data: {tran", "data"),
        ("task: json", "task: json\nexport: [gguf]\nquantize: [onnx-int4]", "needs 'onnx' in export"),
        ("task: json", "task: json\ndistill: {learnig_rate: 0.1}", "did you mean 'learning_rate'?"),
        ("task: json", "task: json\ndistill: {epochs: -1}", "distill.epochs"),
        ("task: json", "task: json\ndistill: {losses: [{kind: kl, temprature: 2}]}", "did you mean 'temperature'?"),
        ("task: json", "task: json\nbundle: {ship: onnx-int2}", "onnx-int2"),
        ("task: json", "task: json\nexport: []", "export"),
        ("task: json", "task: json\nsynthesize: {samples: 3}", "needs a temperature above 0"),
        ("task: json", "task: json\nexport: [gguf, gguf]", "export: names one twice"),
        ("task: json", "task: json\nquantize: [gguf-q4_0, gguf-q4_0]", "quantize: names one twice"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in SOUND
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, SOUND.replace(old, new)))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_without_quantize_everything_is_made_of_what_is_exported(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SOUND + "export: [gguf]\n"))
    assert recipe.quantize == ("gguf-q8_0", "gguf-q4_0", "gguf-q4_k_m")
    assert len(load_recipe(write(tmp_path, SOUND)).quantize) == 5
    assert load_recipe(write(tmp_path, SOUND + "quantize: []\n")).quantize == ()


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\x00", "!!python/object/apply:os.system ['true']", "- version: 1"])
def test_what_is_not_a_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, text))


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="can't be read"):
        load_recipe(tmp_path / "none.yaml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(sorted(Recipe.model_fields)), value=json_values)
@example(key="task_options", value={"\n": None})
@example(key="data", value={"\u2028": 1})
@example(key="student", value={"kind": "a\nb"})
def test_any_value_under_a_known_key_is_read_or_refused(key: str, value: object) -> None:
    recipe = {**yaml.safe_load(SOUND), key: value}
    try:
        parse_recipe(recipe, Path("recipe.yaml"))
    except RecipeError as error:
        assert "\n" not in str(error)


def test_a_format_with_a_dash_in_its_name_is_told_from_its_precision(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SOUND + "export: [onnx-portable]\nbundle: {ship: onnx-portable-int8}\n"))
    assert recipe.quantize == ("onnx-portable-int8",)
    assert recipe.artifact_names() == ("onnx-portable-fp32", "onnx-portable-int8")
    assert all(not name.startswith("onnx-portable") for name in load_recipe(write(tmp_path, SOUND)).artifact_names())
    with pytest.raises(RecipeError, match="quantize 'onnx-portable-int8' needs 'onnx-portable' in export"):
        load_recipe(write(tmp_path, SOUND + "export: [onnx]\nquantize: [onnx-portable-int8]\n"))
