"""Classifiers: their labels, their batches, what they refuse; and eval of them side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgestill.artifact import Artifact
from edgestill.cli import app
from edgestill.errors import DataError, InputError, ModelFileError
from edgestill.runtime.classifier import Classifier, is_classifier
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.session import Session
from tests.conftest import LABELS, TEXTS


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five rows with a text and a label each, in columns of other names."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [
        f'"{text.splitlines()[0].replace(chr(34), "")}",{label}' for text, label in zip(TEXTS, LABELS, strict=False)
    ]
    path.write_text("\n".join(["text,category", *lines]) + "\n", encoding="utf-8")
    return path


def test_a_classifier_is_known_by_its_configuration(
    classifier_folders: dict[str, Path], portable_classifiers: dict[str, Artifact], tiny_checkpoint: Path
) -> None:
    assert is_classifier(locate_model(classifier_folders["bert"]))
    assert is_classifier(locate_model(portable_classifiers["bert"].folder))
    assert is_classifier(locate_model(portable_classifiers["bert"].folder / "model.onnx"))
    assert not is_classifier(locate_model(tiny_checkpoint))


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_torch_and_onnxruntime_give_the_same_label(
    kind: str, classifier_folders: dict[str, Path], portable_classifiers: dict[str, Artifact]
) -> None:
    with Classifier.open(classifier_folders[kind]) as torch, Classifier.open(portable_classifiers[kind].folder) as onnx:
        assert (torch.network.name, onnx.network.name) == ("torch", "onnxruntime")
        assert torch.labels == onnx.labels == LABELS
        assert [torch.label(text) for text in TEXTS] == [onnx.label(text) for text in TEXTS]
        assert onnx.logits(TEXTS).shape == (len(TEXTS), len(LABELS))
        assert onnx.logits(TEXTS).dtype == np.float32


def test_texts_token_ids_and_a_batch_of_them_are_one(portable_classifiers: dict[str, Artifact]) -> None:
    with Classifier.open(portable_classifiers["bert"].folder) as classifier:
        ids = [classifier.encode(text).ids for text in TEXTS]
        batch = classifier.logits(TEXTS)
        np.testing.assert_array_equal(batch, classifier.logits(ids))
        alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
        np.testing.assert_allclose(batch, alone, atol=1e-5)


def test_a_long_text_is_cut_with_its_last_special_token_kept(portable_classifiers: dict[str, Artifact]) -> None:
    with Classifier.open(portable_classifiers["bert"].folder) as classifier:
        assert classifier.longest == 64
        read = classifier.encode(TEXTS[0] * 20)
        assert read.cut
        assert len(read.ids) == 64
        assert read.ids[-1] == classifier.encode("x").ids[-1] == 3
        assert not classifier.encode(TEXTS[0]).cut
    with Classifier.open(portable_classifiers["roberta"].folder) as classifier:
        assert classifier.longest == 63  # its first position is the one after the padding token's
        classifier.logits([TEXTS[0] * 20])
    with Classifier.open(portable_classifiers["bert"].folder, context_length=8) as classifier:
        assert len(classifier.encode(TEXTS[0]).ids) == 8


def test_bad_input_is_refused(portable_classifiers: dict[str, Artifact]) -> None:
    with Classifier.open(portable_classifiers["bert"].folder) as classifier:
        for wrong, says in (
            ([], "no texts"),
            ([[]], "empty"),
            ([[1, 9999]], "outside the vocabulary"),
            ([[5] * 65], "65 tokens"),
        ):
            with pytest.raises(InputError, match=says):
                classifier.logits(wrong)  # type: ignore[arg-type]


def test_labels_that_do_not_fit_the_graph_are_refused(
    portable_classifiers: dict[str, Artifact], tmp_path: Path
) -> None:
    folder = shutil.copytree(portable_classifiers["bert"].folder, tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "yes", "1": "no"}}))
    with pytest.raises(ModelFileError, match="id2label names 2 labels and the model gives 5"):
        Classifier.open(folder)
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "id2label"}))
    with Classifier.open(folder) as classifier:
        assert classifier.labels[4] == "LABEL_4"


def test_it_is_no_session_and_a_decoder_is_no_classifier(
    classifier_folders: dict[str, Path], tiny_checkpoint: Path
) -> None:
    with pytest.raises(InputError, match="writes no text; score it with edgestill eval --task classification"):
        Session.open(classifier_folders["llama"])
    with pytest.raises(InputError, match="not a sequence classifier"):
        Classifier.open(tiny_checkpoint)


def run(*words: str | Path) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, [str(word) for word in words])
    return found.exit_code, found.stdout, found.stderr if not found.exception else f"{found.stderr} {found.exception}"


def test_checkpoint_and_files_are_scored_side_by_side(
    classifier_folders: dict[str, Path], portable_classifiers: dict[str, Artifact], rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "files"
    status, text, _ = run("quantize", portable_classifiers["bert"].folder, "--to", "int8", "--out", out, "--json")
    assert status == 0
    made = json.loads(text)["artifacts"][0]
    assert (made["name"], made["format"], made["precision"]) == ("onnx-portable-int8", "onnx-portable", "int8")
    models = [classifier_folders["bert"], portable_classifiers["bert"].folder, Path(made["path"])]
    columns = ("--column", "prompt=text", "--column", "completion=category")
    words = ["eval", *models, "--task", "classification", "--data", rows, *columns, "--predictions", tmp_path, "--json"]
    status, text, errors = run(*words)
    assert status == 0, errors
    results = json.loads(text)["results"]
    assert [one["engine"] for one in results] == ["torch", "onnxruntime", "onnxruntime"]
    for one in results:
        assert {"accuracy", "macro_f1", "valid_label", "answer_seconds"} <= one["metrics"].keys()
        assert one["metrics"]["accuracy"]["n"] == len(TEXTS)
        assert one["peak_rss_bytes"]["value"] > 0
    assert results[0]["metrics"]["accuracy"] == results[1]["metrics"]["accuracy"]
    assert results[1]["retention"] is not None or results[0]["metrics"]["accuracy"]["value"] == 0
    with Classifier.open(models[1]) as classifier:
        written = [json.loads(line) for line in (tmp_path / "2.jsonl").read_text().splitlines()]
        first = TEXTS[0].splitlines()[0]
        assert written[0]["text"] == classifier.label(first)
        assert written[0]["gold"] == [LABELS[0]]


def test_what_a_classifier_cannot_do_is_one_line(portable_classifiers: dict[str, Artifact], rows: Path) -> None:
    model = portable_classifiers["bert"].folder
    asked = [
        (("chat", model, "--prompt", "hello"), "writes no text"),
        (("bench", model, "--repetitions", "3"), "writes no text"),
        (("eval", model, "--task", "text", "--data", rows), "can't be scored on task 'text'"),
    ]
    for words, says in asked:
        status, _, errors = run(*words)
        assert status != 0
        assert says in errors, words


def test_labels_of_another_set_are_refused(portable_classifiers: dict[str, Artifact]) -> None:
    from edgestill.dataset import Example, Message
    from edgestill.runtime.evaluate_classifier import check_task, evaluate_classifier
    from edgestill.runtime.tasks import get_task

    task = check_task("model", "classification", get_task("classification"))
    example = Example((Message("user", "hello"), Message("assistant", "greeting")), None, "rows.csv:2")
    instructed = Example((Message("system", "Be brief."), *example.messages), None, "rows.csv:3")
    with Classifier.open(portable_classifiers["bert"].folder) as classifier:
        with pytest.raises(DataError, match=r"rows\.csv:2: label 'greeting' is not one of m's .*id2label"):
            evaluate_classifier(classifier, task, [example], model_name="m")
        with pytest.raises(DataError, match=r"rows\.csv:3: 2 messages"):
            evaluate_classifier(classifier, task, [instructed], model_name="m")
