"""The torch engine: a Hugging Face folder in float32, the reference that the others are compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgestill.bench_results import EngineBuild
from edgestill.runtime.engine import Logits, MemoryPart, check_room
from edgestill.runtime.engine_options import DEFAULTS, EngineOptions
from edgestill.runtime.engines import DEFAULT_CONTEXT, register, require
from edgestill.runtime.model_source import ModelSource
from edgestill.runtime.pagemap import anonymous_bytes
from edgestill.runtime.torch_model import load_torch_model

if TYPE_CHECKING:
    import torch


@register("torch", kinds=("transformers",))
def open_torch(
    source: ModelSource, threads: int, context_length: int | None, options: EngineOptions = DEFAULTS
) -> TorchEngine:
    """Load a Hugging Face folder on the CPU.

    ``threads`` is set for the whole process, as torch has no narrower setting. Raises CheckpointError
    when a file is damaged or a weight is missing (transformers alone would invent it).
    """
    del options  # it has none
    model = load_torch_model(source.path, "AutoModelForCausalLM", name=str(source))
    require("torch", engine="torch", extra="distill").set_num_threads(threads)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT
    return TorchEngine(model, threads, min(longest, context_length or DEFAULT_CONTEXT))


class TorchEngine:
    """A transformers model with a DynamicCache; see :class:`edgestill.runtime.engine.Engine`."""

    name = "torch"
    float32 = True
    kv_precision = "f32"
    settings: Mapping[str, bool | str] = {"kv_precision": kv_precision}

    def __init__(self, model: Any, threads: int, context_length: int) -> None:
        import torch
        import transformers

        self.vocab_size: int = model.config.get_text_config().vocab_size
        self.context_length = context_length
        self.threads = threads
        self.weights_bytes: int | None = sum(weight.nbytes for weight in model.parameters())
        self.model = model
        self._torch = torch
        self._new_cache: Callable[[], Any] = functools.partial(transformers.DynamicCache, config=model.config)
        self._cache = self._new_cache()
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def append(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        check_room(self, len(token_ids))
        with self._torch.inference_mode():
            output = self.model(
                input_ids=self._input(token_ids), past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        self._position += len(token_ids)
        logits: Logits = output.logits[0, -1].float().numpy()
        return logits

    def logits(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        self.rewind(0)
        check_room(self, len(token_ids))
        with self._torch.inference_mode():
            output = self.model(input_ids=self._input(token_ids), use_cache=False)
        logits: Logits = output.logits[0].float().numpy()
        return logits

    def rewind(self, position: int) -> None:
        if position <= 0:
            self._cache = self._new_cache()
            self._position = 0
        elif position < self._position:
            try:
                self._cache.crop(position - self._position)  # negative: that many tokens are removed
                self._position = position
            except (RuntimeError, ValueError, NotImplementedError):
                # A sliding window or a linear attention state forgets what it passed: back to the beginning.
                self.rewind(0)

    def describe(self) -> EngineBuild:
        torch = self._torch
        capability = torch.backends.cpu.get_cpu_capability().lower()
        return EngineBuild(
            version=torch.__version__,
            commit=torch.version.git_version,
            build=torch.__config__.show(),
            features=(capability,),
            architecture=self.model.config.model_type,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
        )

    def close(self) -> None:
        self.model = None
        self._cache = None

    def memory(self) -> tuple[MemoryPart, ...]:
        caches = [
            tensor
            for layer in self._cache.layers
            for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if tensor is not None
        ]
        return (
            _part("weights", "parameters in float32", self.model.parameters()),
            _part("kv_cache", "DynamicCache", caches),
        )

    def open_bare(self) -> Callable[[], None] | None:
        return None

    def _input(self, token_ids: Sequence[int] | NDArray[np.integer]) -> torch.Tensor:
        ids: torch.Tensor = self._torch.from_numpy(np.asarray(token_ids, dtype=np.int64)[None, :])
        return ids


def _part(kind: Literal["weights", "kv_cache"], name: str, tensors: Iterable[torch.Tensor]) -> MemoryPart:
    spans = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
    source = f"the addresses of {len(spans)} tensors"
    return MemoryPart(kind, name, sum(spans.values()), anonymous_bytes(spans.items()), source)
