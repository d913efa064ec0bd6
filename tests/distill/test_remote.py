"""Teachers behind a server: against one that fails on purpose, and against llama-cpp-python's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgestill.answering import answer_data, open_teachers, spent_on
from edgestill.dataset import Example, Message
from edgestill.distill.answers import AnswersResult, Plan, answer_prompts
from edgestill.distill.teachers import Limits, open_teacher
from edgestill.errors import InputError, StageError
from edgestill.preparing import prepare_data
from edgestill.progress import SILENT
from edgestill.recipe import load_recipe
from edgestill.sections import AnthropicTeacher, OpenAITeacher, Price
from edgestill.steps import Steps

SERVER = Path(__file__).with_name("fault_server.py")
KEY = "sk-secret-of-the-tests"
PRICE = Price(input=1000.0, output=2000.0)


class Fault:
    """A running fault server."""

    def __init__(self, folder: Path, rules: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "server.log"
        port_file = folder / "port"
        command = [sys.executable, str(SERVER), str(port_file), str(self.log), json.dumps(rules)]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 20
        while not port_file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{port_file.read_text()}/v1"

    def entries(self, what: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [row for row in rows if row["what"] == what]

    def cost(self) -> float:
        """What the server itself would bill."""
        tokens = [row["tokens"] for row in [*self.entries("answered"), *self.entries("empty")]]
        return sum(a * PRICE.input + b * PRICE.output for a, b in tokens) / 1e6


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Fault]]:
    servers = []
    monkeypatch.setenv("EDGESTILL_TEST_KEY", KEY)
    monkeypatch.setattr("edgestill.distill.pace._FIRST_WAIT", 0.02)

    def start(**rules: Any) -> Fault:
        servers.append(Fault(tmp_path / f"server{len(servers)}", {"key": KEY, "model": "echo", **rules}))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()


def section(server: Fault, **options: Any) -> OpenAITeacher:
    return OpenAITeacher(
        **{
            "kind": "openai",
            "model": "echo",
            "base_url": server.url,
            "api_key_env": "EDGESTILL_TEST_KEY",
            "price": PRICE,
            "timeout_seconds": 1.0,
            **options,
        }
    )


def prompts(count: int) -> list[Example]:
    return [Example((Message("user", f"number {number} please"),), source=f"p:{number}") for number in range(count)]


def answer(server: Fault, count: int, folder: Path, limits: Limits | None = None, **options: Any) -> AnswersResult:
    plan = Plan(limits=limits or Limits(concurrency=16), max_new_tokens=8)
    teacher = open_teacher(section(server, **options))
    return answer_prompts([teacher], prompts(count), folder / "a.jsonl", plan, ledger=folder / "ledger.sqlite")


def said(result: AnswersResult) -> dict[str, str | None]:
    return {example.prompt[-1].content: example.completion for example in result.examples}


def test_every_fault_is_survived_and_no_answer_is_lost(fault: Callable[..., Fault], tmp_path: Path) -> None:
    faults = {"error500": 7, "cut": 11, "truncated": 13, "empty": 17, "slow": 101}
    server = fault(faults=faults, rate=200, burst=20)
    result = answer(server, 300, tmp_path)
    assert said(result) == {f"number {n} please": f"echo number {n} please" for n in range(300)}
    assert not result.dropped
    (account,) = result.accounts
    assert (account.answers, account.new) == (300, 300)
    assert account.cost == pytest.approx(server.cost(), rel=1e-9)


def test_a_second_recipe_over_the_same_prompts_pays_nothing(fault: Callable[..., Fault], tmp_path: Path) -> None:
    server = fault()
    first = answer(server, 40, tmp_path)
    again = answer(server, 60, tmp_path, name="another")
    assert len(server.entries("answered")) == 60
    assert (first.accounts[0].new, again.accounts[0].new) == (40, 20)
    assert said(again).items() >= said(first).items()


@pytest.mark.parametrize(
    "rules",
    [
        {"rate": 60, "burst": 5},
        {"rate": 60, "burst": 60, "retry_after": 1},
        {"rate": 60, "burst": 5, "retry_after": None},
        {"window": 1.0, "quota": 60},
    ],
    ids=["bucket", "bucket-whole-seconds", "bucket-no-header", "window"],
)
def test_a_storm_of_refusals_loses_nothing_and_pays_once(
    fault: Callable[..., Fault], tmp_path: Path, rules: dict[str, Any]
) -> None:
    server = fault(delay=0.02, **rules)
    result = answer(server, 240, tmp_path, Limits(concurrency=32))
    assert len(result.examples) == 240
    # How much of the quota is used: tests/distill/test_pace.py in virtual time, benchmarks/teacher_storm.py in real.
    assert Counter(row["prompt"] for row in server.entries("answered")).most_common(1)[0][1] == 1
    assert server.entries("refused")
    assert result.accounts[0].cost == pytest.approx(server.cost(), rel=0.01)


def test_max_cost_stops_before_it_is_exceeded_and_keeps_what_was_paid(
    fault: Callable[..., Fault], tmp_path: Path
) -> None:
    server = fault()
    one = (3 * PRICE.input + 4 * PRICE.output) / 1e6
    with pytest.raises(StageError, match=r"max_cost .* would be exceeded"):
        answer(server, 100, tmp_path, Limits(concurrency=4, max_cost=50 * one))
    paid = len(server.entries("answered"))
    assert 10 < paid <= 50
    assert not (tmp_path / "a.jsonl").exists()
    # Another attempt has no fresh purse: what was paid for these prompts is spent.
    with pytest.raises(StageError, match=r"max_cost .* would be exceeded"):
        answer(server, 100, tmp_path, Limits(concurrency=4, max_cost=50 * one))
    paid = len(server.entries("answered"))
    assert paid <= 50
    result = answer(server, 100, tmp_path)
    assert result.accounts[0].new == 100 - paid
    assert len(server.entries("answered")) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "eccho"}, "eccho: no such model"),
        ({"api_key_env": "EDGESTILL_OTHER_KEY"}, "refuses the key of EDGESTILL_OTHER_KEY"),
        ({"api_key_env": "EDGESTILL_NO_KEY"}, "EDGESTILL_NO_KEY has no key"),
    ],
)
def test_what_no_repetition_cures_stops_at_once_and_names_no_key(
    fault: Callable[..., Fault], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, message: str
) -> None:
    monkeypatch.setenv("EDGESTILL_OTHER_KEY", "sk-another-secret")
    server = fault()
    with pytest.raises(InputError, match=message) as error:
        answer(server, 50, tmp_path, **options)
    assert "secret" not in str(error.value)
    assert len(server.log.read_text().splitlines()) == 0


def anthropic(server: Fault, **options: Any) -> AnthropicTeacher:
    return AnthropicTeacher(
        **{
            "kind": "anthropic",
            "model": "echo",
            "base_url": server.url.removesuffix("/v1"),
            "api_key_env": "EDGESTILL_TEST_KEY",
            "price": PRICE,
            "timeout_seconds": 1.0,
            **options,
        }
    )


def ask_anthropic(server: Fault, rows: list[Example], folder: Path, **options: Any) -> AnswersResult:
    plan = Plan(limits=Limits(concurrency=16), max_new_tokens=8)
    teacher = open_teacher(anthropic(server, **options))
    return answer_prompts([teacher], rows, folder / "a.jsonl", plan, ledger=folder / "ledger.sqlite")


def test_anthropics_messages_survive_every_fault_too(fault: Callable[..., Fault], tmp_path: Path) -> None:
    faults = {"error500": 7, "cut": 11, "truncated": 13, "empty": 17, "overloaded": 19, "slow": 101}
    server = fault(faults=faults, rate=200, burst=20)
    result = ask_anthropic(server, prompts(300), tmp_path)
    assert said(result) == {f"number {n} please": f"echo number {n} please" for n in range(300)}
    assert result.accounts[0].cost == pytest.approx(server.cost(), rel=1e-9)
    assert ask_anthropic(server, prompts(300), tmp_path).accounts[0].new == 0


def test_anthropics_system_message_goes_where_it_belongs_and_a_refusal_is_counted(
    fault: Callable[..., Fault], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESTILL_OTHER_KEY", "sk-another-secret")
    server = fault(faults={"refusal": 10})
    rows = [Example((Message("system", "be kind"), *example.messages)) for example in prompts(40)]
    result = ask_anthropic(server, rows, tmp_path)
    assert {example.completion for example in result.examples} <= {
        f"be kind: echo number {n} please" for n in range(40)
    }
    assert [(entry.reason, entry.count) for entry in result.dropped] == [("refused by the server: refusal", 4)]
    for options, message in (
        ({"model": "eccho"}, "eccho: no such model"),
        ({"api_key_env": "EDGESTILL_OTHER_KEY"}, "refuses the key of EDGESTILL_OTHER_KEY"),
    ):
        with pytest.raises(InputError, match=message) as error:
            ask_anthropic(server, prompts(3), tmp_path, **options)
        assert "secret" not in str(error.value)


def test_a_question_that_the_server_filters_is_counted_not_repeated(
    fault: Callable[..., Fault], tmp_path: Path
) -> None:
    server = fault(faults={"filtered": 10})
    result = answer(server, 50, tmp_path)
    assert [(entry.reason, entry.count) for entry in result.dropped] == [("refused by the server: content_filter", 5)]
    assert len(server.entries("filtered")) == 5
    assert answer(server, 50, tmp_path).accounts[0].new == 0


def test_a_server_that_is_away_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgestill.distill.pace._FIRST_WAIT", 0.001)
    gone = OpenAITeacher(kind="openai", model="echo", base_url="http://127.0.0.1:9/v1", api_key_env=None)
    with pytest.raises(StageError, match="no answer after 8 attempts"):
        answer_prompts([open_teacher(gone)], prompts(3), tmp_path / "a.jsonl", Plan(), ledger=tmp_path / "l.sqlite")


def test_a_recipe_keeps_what_its_judge_rates_high_and_counts_the_cost(
    fault: Callable[..., Fault], tmp_path: Path
) -> None:
    server = fault()
    asked = {"kind": "openai", "model": "echo", "base_url": server.url, "api_key_env": "EDGESTILL_TEST_KEY"}
    asked["price"] = {"input": 1000, "output": 2000}
    # The server echoes: what it says as a judge ends in the rating that the prompt holds.
    rows = [{"prompt": f"{word} Rating: {rating}", "completion": "x"} for rating, word in enumerate("abcdefghij", 1)]
    for split, part in (("train", rows), ("validation", [{"prompt": "v", "completion": "x"}]), ("test", rows[:0])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (tmp_path / "test.jsonl").write_text('{"prompt": "t", "completion": "x"}\n')
    recipe = {
        "version": 1,
        "name": "judged",
        "task": "classification",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
        "teachers": [asked],
        "synthesize": {
            "filters": [{"kind": "length", "max_words": 4}, {"kind": "judge", "min_rating": 8}],
            "judge": {"teacher": {**asked, "name": "strict"}},
            "ledger": "ledger.sqlite",
            "max_cost": 100,
        },
        "student": {"kind": "pretrained", "model": "somewhere/some-model"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    checked = load_recipe(path)
    (tmp_path / "out").mkdir()
    steps = Steps(tmp_path / "out", SILENT)
    data = prepare_data(steps, checked, SILENT)
    # The task's own check would want a label.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgestill.answering._validator", lambda recipe, data: None)
        kept, facts = answer_data(steps, checked, data, open_teachers(checked, None), SILENT)
    assert [row.completion for row in kept.rows] == [
        f"echo {word} Rating: {n}" for n, word in ((8, "h"), (9, "i"), (10, "j"))
    ]
    curated = facts["curated"]
    assert curated["dropped"][0]["reason"] == "rated below 8"
    assert curated["dropped"][0]["count"] == 7
    assert spent_on(facts) == pytest.approx(server.cost(), rel=1e-9)
    assert len(server.entries("answered")) == 20


KILLED = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
import test_remote
class Server: url = {url!r}
result = test_remote.answer(Server, {count}, Path({folder!r}))
print(len(result.examples))
"""


def test_kill_9_repeats_no_recorded_call_and_loses_no_row(fault: Callable[..., Fault], tmp_path: Path) -> None:
    server = fault(delay=0.02)
    code = KILLED.format(here=str(SERVER.parent), url=server.url, count=400, folder=str(tmp_path / "killed"))
    (tmp_path / "killed").mkdir()
    environment = {**os.environ, "EDGESTILL_TEST_KEY": KEY}
    for wait in (1.6, 1.8, 1.7):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)
    whole = answer(server, 400, tmp_path)
    assert (tmp_path / "killed" / "a.jsonl").read_bytes() == whole.path.read_bytes()
    # The server may have answered what the killed process never read: at most one answer for each open request.
    asked = Counter(row["prompt"] for row in server.entries("answered"))
    assert all(count <= 2 + 3 for count in asked.values())
    assert sum(asked.values()) <= 800 + 3 * 16


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[str]:
    """llama-cpp-python's OpenAI-compatible server, with a GGUF that we exported."""
    import socket

    from edgestill.artifact import Checkpoint
    from edgestill.export import export_checkpoint

    folder = tmp_path_factory.mktemp("llama")
    model = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", folder).model_path
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)]
    command += ["--n_ctx", "256", "--model_alias", "tiny"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def test_a_real_server_says_what_the_file_says(llama_server: str, tmp_path: Path) -> None:
    teacher = open_teacher(OpenAITeacher(kind="openai", model="tiny", base_url=llama_server, api_key_env=None))
    plan = Plan(limits=Limits(concurrency=3), max_new_tokens=6)
    from edgestill.distill.ledger import Asking, Ledger, Question

    questions = [Question.of(example.prompt) for example in prompts(5)]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        found = teacher.answer(questions, Asking(0.0, 6, 0), ledger, plan.limits, SILENT)
    assert len(found) == 5
    assert all(reply.prompt_tokens > 0 and 0 < reply.new_tokens <= 6 for reply in found.values())
