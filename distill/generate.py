"""Answering a batch of prompts: one sequence per row, rows leave the batch as they finish.

Imports torch and transformers: import it inside a function. transformers' own generate keeps finished
rows in the batch and does per-step work that costs more than a tiny model's forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
import transformers  # noqa: TID253

_COMPACT_BELOW = 0.875


@dataclass(frozen=True)
class Generated:
    """New token ids of one row, without the end token; ``finished`` when an end token came."""

    ids: tuple[int, ...]
    finished: bool


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: frozenset[int],
    pad_id: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Generated]:
    """Continue each prompt until an end token or ``max_new_tokens``; temperature 0 is greedy.

    Prompts are padded on the left; without padding (equal lengths) no mask is built. The result
    depends on the batch's own prompts and ``seed`` alone.
    """
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(p)) + list(p) for p in prompts], device=device)
    pads = torch.tensor([longest - len(p) for p in prompts], device=device)
    masked = bool(pads.any())
    ends = torch.tensor(sorted(end_ids), device=device)
    random = torch.Generator(device=device).manual_seed(seed)
    cache = transformers.DynamicCache(config=model.config)
    rows = list(range(len(prompts)))  # which prompt each row of the batch answers
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    answers: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(prompts)
    columns = torch.arange(longest + max_new_tokens, device=device)
    at = 0
    for _ in range(max_new_tokens):
        width = ids.shape[1]
        mask = (columns[: at + width] >= pads[:, None]).long() if masked else None
        positions = (columns[at : at + width] - pads[:, None]).clamp(min=0)
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        at += width
        token = _choose(out.logits[:, -1].float(), temperature, random)
        ended = torch.isin(token, ends)
        for row, (id, end, live) in enumerate(zip(token.tolist(), ended.tolist(), alive.tolist(), strict=True)):
            if live and end:
                done[rows[row]] = True
            elif live:
                answers[rows[row]].append(id)
        alive &= ~ended
        left = int(alive.sum())
        if left == 0:
            break
        ids = token[:, None]
        if left < _COMPACT_BELOW * len(rows):
            keep = alive.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            ids, pads, alive = ids[keep], pads[keep], alive[keep]
            rows = [rows[row] for row in keep.tolist()]
    return [Generated(tuple(answer), end) for answer, end in zip(answers, done, strict=True)]


def _choose(logits: torch.Tensor, temperature: float, random: torch.Generator) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=random).squeeze(1)
