"""A storm of 429s, and kills: how much of a server's quota is used, what is lost, what is paid twice.

    python benchmarks/teacher_storm.py            the quota, against four kinds of server
    python benchmarks/teacher_storm.py --kills 50 --prompts 2000

The server is the tests' fault server, in a process of its own on this machine; its log is the judge.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgestill.dataset import Example, Message
from edgestill.distill.answers import AnswersResult, Plan, answer_prompts
from edgestill.distill.teachers import Limits, open_teacher
from edgestill.sections import OpenAITeacher, Price

SERVER = Path(__file__).resolve().parents[1] / "tests" / "distill" / "fault_server.py"
PRICE = Price(input=1000.0, output=2000.0)
SERVERS: dict[str, dict[str, Any]] = {
    "token bucket, exact Retry-After": {"rate": 60, "burst": 10},
    "token bucket, whole seconds": {"rate": 60, "burst": 60, "retry_after": 1},
    "token bucket, no header": {"rate": 60, "burst": 10, "retry_after": None},
    "window of 5 s": {"window": 5.0, "quota": 300},
}


class Server:
    """The fault server, running."""

    def __init__(self, folder: Path, rules: dict[str, Any]) -> None:
        folder.mkdir()
        self.log = folder / "log"
        port = folder / "port"
        self.process = subprocess.Popen([sys.executable, SERVER, port, self.log, json.dumps(rules)])
        while not port.exists():
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{port.read_text()}/v1"

    def entries(self, what: str) -> list[dict[str, Any]]:
        """Return the log's lines of one kind."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [row for row in rows if row["what"] == what]

    def close(self) -> None:
        """Stop it."""
        self.process.kill()
        self.process.wait()


def answer(url: str, prompts: int, folder: Path, concurrency: int) -> AnswersResult:
    """Ask the server as a run does."""
    section = OpenAITeacher(kind="openai", model="echo", base_url=url, api_key_env=None, price=PRICE)
    rows = [Example((Message("user", f"number {number} please"),)) for number in range(prompts)]
    plan = Plan(limits=Limits(concurrency=concurrency), max_new_tokens=8)
    return answer_prompts([open_teacher(section)], rows, folder / "a.jsonl", plan, ledger=folder / "ledger.sqlite")


def storm(folder: Path, prompts: int) -> None:
    """Print the share of the quota that is used."""
    for number, (name, rules) in enumerate(SERVERS.items()):
        server = Server(folder / str(number), {"delay": 0.1, **rules})
        result = answer(server.url, prompts, folder / str(number), 32)
        server.close()
        answered = server.entries("answered")
        times = [row["time"] for row in answered]
        span = max(times) - min(times)
        if "rate" in rules:
            allowed = rules["rate"] * span + rules["burst"]
        else:  # whole windows, and the part of the last one that the run needed
            allowed = rules["quota"] * (1 + span / rules["window"])
        billed = sum(a * PRICE.input + b * PRICE.output for a, b in (row["tokens"] for row in answered)) / 1e6
        cost = result.accounts[0].cost or 0.0
        refused = len(server.entries("refused"))
        print(
            f"{name}: {len(result.examples)} of {prompts} answers, {prompts / allowed:.1%} of the quota used, "
            f"{refused} refusals, cost {cost:.3f} by our ledger, {billed:.3f} by the server"
        )


def kills(folder: Path, prompts: int, count: int) -> None:
    """Kill a run at random points; print what was asked twice and what was lost."""
    undisturbed = Server(folder / "undisturbed", {"delay": 0.05})
    whole = answer(undisturbed.url, prompts, folder / "undisturbed", 16).path.read_bytes()
    undisturbed.close()
    server = Server(folder / "killed", {"delay": 0.05})
    command = [sys.executable, __file__, "--child", server.url, str(prompts), str(folder / "killed")]
    # Random points of the work, not of the clock: a fast machine is killed as often as a slow one.
    points = sorted(random.Random(2).sample(range(1, prompts), count))
    ledger = folder / "killed" / "ledger.sqlite"
    done = 0
    recorded: dict[str, float] = {}  # prompt -> when it was first known to be recorded
    for point in points:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        known = len(recorded)
        while process.poll() is None and _count(ledger) < max(point, known + 1):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            done += process.wait() == -signal.SIGKILL
        for prompt in _recorded(ledger):
            recorded.setdefault(prompt, time.time())
    before = collections.Counter(row["prompt"] for row in server.entries("answered"))
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = (folder / "killed" / "a.jsonl").read_bytes()
    answered = server.entries("answered")
    server.close()
    repeated = sum(row["time"] > recorded.get(row["prompt"], float("inf")) for row in answered)
    unread = sum(before.values()) - len(recorded)
    print(
        f"{done} kills, {prompts} prompts: {len(rows.splitlines())} rows, identical data set: {rows == whole}; "
        f"recorded calls that were repeated: {repeated}; the server answered {len(answered)} calls, {unread} of them "
        f"to a process that was killed before it read them; {result.stdout.strip()}"
    )


def _count(path: Path) -> int:
    return len(_recorded(path))


def _recorded(path: Path) -> list[str]:
    """Return the prompts whose answers are in the ledger: they are echoed there."""
    if not path.exists():
        return []
    with sqlite3.connect(path) as file:
        try:
            return [text.removeprefix("echo ") for (text,) in file.execute("SELECT text FROM answers")]
        except sqlite3.Error:
            return []


def main() -> None:
    """Run the storm or the kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1200)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        url, prompts, folder = options.child
        result = answer(url, int(prompts), Path(folder), 16)
        print(f"the last run asked {result.accounts[0].new}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        if options.kills:
            kills(Path(temporary), options.prompts, options.kills)
        else:
            storm(Path(temporary), options.prompts)


if __name__ == "__main__":
    main()
