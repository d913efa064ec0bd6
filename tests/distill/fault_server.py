"""A server that fails on purpose, in a process of its own; its log says what it answered.

It speaks OpenAI's chat completions, and under /v1/messages Anthropic's messages.

``python fault_server.py PORT_FILE LOG RULES_JSON``. Rules: ``rate`` (requests a second) and ``burst`` (a token
bucket), or ``window`` (seconds) and ``quota`` (a fixed window); ``retry_after`` (seconds: number, "exact" or
null); ``delay`` (seconds an answer takes); ``faults``: name -> every n-th request: error500, slow, cut,
truncated, empty, filtered, overloaded (529), refusal. ``model`` and ``key`` are the only ones it accepts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any


class Server:
    def __init__(self, log: Path, rules: dict[str, Any]) -> None:
        self.log = log.open("a", buffering=1)
        self.rules = rules
        self.requests = 0
        self.tokens = float(rules.get("burst", 1))
        self.filled = time.monotonic()
        self.window_start, self.window_used = time.monotonic(), 0
        self.once: set[str] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                lines = head.decode().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
                body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
                if not await self.answer(lines[0].split()[1], headers, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, headers: dict[str, str], body: Any, writer: asyncio.StreamWriter) -> bool:
        rules = self.rules
        wait = self.refused_for()
        if wait is not None:
            self.note("refused", body)
            after = rules.get("retry_after", "exact")
            extra = {} if after is None else {"Retry-After": str(wait if after == "exact" else after)}
            return await self.send(writer, 429, {"error": {"message": "slow down", "code": "rate_limit"}}, extra)
        messages = path.endswith("/messages")
        # Anthropic's clients of before 2026 send x-api-key.
        shown = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if rules.get("key") and shown != rules["key"]:
            return await self.send(writer, 401, {"error": {"message": f"wrong key {shown}"}})
        if rules.get("model") and body.get("model") != rules["model"]:
            return await self.send(writer, 404, {"error": {"message": "no such model", "code": "model_not_found"}})
        self.requests += 1
        prompt = body["messages"][-1]["content"]
        fault = next((name for name, n in rules.get("faults", {}).items() if self.requests % n == 0), None)
        if fault == "error500":
            return await self.send(writer, 500, {"error": {"message": "oops"}})
        if fault == "overloaded":
            return await self.send(writer, 529, {"type": "error", "error": {"type": "overloaded_error", "message": ""}})
        if fault == "filtered":
            self.note("filtered", body)
            return await self.send(writer, 400, {"error": {"message": "no", "code": "content_filter"}})
        await asyncio.sleep(30.0 if fault == "slow" else rules.get("delay", 0.0))
        text = "" if fault == "empty" else f"echo {prompt}"
        tokens = len(prompt.split()), len(text.split())
        payload = _message(body, text, tokens, fault) if messages else _completion(body, text, tokens)
        if fault in ("cut", "truncated"):
            data = json.dumps(payload).encode()
            length = len(data) if fault == "cut" else len(data) // 2
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
            )
            writer.write(data[: len(data) // 2])
            await writer.drain()
            return False
        sent = await self.send(writer, 200, payload)
        self.note("empty" if fault == "empty" else "answered", body, tokens)
        return sent

    def refused_for(self) -> float | None:
        rules, now = self.rules, time.monotonic()
        if "rate" in rules:
            self.tokens = min(float(rules["burst"]), self.tokens + (now - self.filled) * rules["rate"])
            self.filled = now
            if self.tokens < 1:
                return (1 - self.tokens) / float(rules["rate"])
            self.tokens -= 1
        if "window" in rules:
            passed = now - self.window_start
            if passed >= rules["window"]:
                self.window_start, self.window_used, passed = now, 0, 0.0
            if self.window_used >= rules["quota"]:
                return float(rules["window"] - passed)
            self.window_used += 1
        return None

    async def send(
        self, writer: asyncio.StreamWriter, status: int, body: object, extra: dict[str, str] | None = None
    ) -> bool:
        data = json.dumps(body).encode()
        head = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(data)}"]
        head += [f"{name}: {value}" for name, value in (extra or {}).items()]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        await writer.drain()
        return True

    def note(self, what: str, body: Any, tokens: tuple[int, int] = (0, 0)) -> None:
        entry = {"what": what, "time": time.time(), "prompt": body["messages"][-1]["content"], "tokens": tokens}
        self.log.write(json.dumps(entry) + "\n")


def _completion(body: Any, text: str, tokens: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


def _message(body: Any, text: str, tokens: tuple[int, int], fault: str | None) -> dict[str, Any]:
    system = f"{body['system']}: " if body.get("system") else ""
    return {
        "id": "x",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": system + text}] if text else [],
        "stop_reason": "refusal" if fault == "refusal" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }


async def main(port_file: Path, log: Path, rules: dict[str, Any]) -> None:
    server = await asyncio.start_server(Server(log, rules).handle, "127.0.0.1", 0, limit=1 << 20)
    partial = port_file.with_suffix(".partial")
    partial.write_text(str(server.sockets[0].getsockname()[1]))
    partial.rename(port_file)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
