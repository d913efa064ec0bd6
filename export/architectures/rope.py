"""Rotary position embedding as transformers' configurations describe it (RoFormer, Su et al., 2021, and scalings)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgestill.export.architectures.config import Config


@dataclass(frozen=True)
class RopeScaling:
    """``linear`` (positions divided by factor), ``llama3`` (by wavelength) or ``longrope`` (by frequency).

    llama3: Llama 3.1's rule over ``low_freq_factor``, ``high_freq_factor`` and ``original_context``. longrope
    (Ding et al., 2024): frequencies are divided by ``short_factors``, in sequences longer than ``original_context``
    by ``long_factors``, and cos and sin multiplied by ``attention_factor``.
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of the first ``dims`` dimensions of each head, in pairs ``dims`` / 2 apart."""

    theta: float
    dims: int
    scaling: RopeScaling | None = None

    def frequencies(self, *, beyond_original: bool = False) -> NDArray[np.float64]:
        """Return the angle per position of each pair, radians, ``[dims / 2]`` float64.

        RoFormer, eq. 15; linear scaling (Chen et al., 2023, position interpolation); llama3 scaling by
        wavelength as published with Llama 3.1; longrope's long factors when ``beyond_original``.
        """
        frequencies: NDArray[np.float64] = 1.0 / self.theta ** (
            np.arange(0, self.dims, 2, dtype=np.float64) / self.dims
        )
        scaling = self.scaling
        if scaling is None:
            return frequencies
        if scaling.kind == "linear":
            return frequencies / scaling.factor
        if scaling.kind == "longrope":
            factors = scaling.long_factors if beyond_original else scaling.short_factors
            return frequencies / np.array(factors, np.float64)
        turns = scaling.original_context * frequencies / (2 * math.pi)
        smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        blended: NDArray[np.float64] = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
        return blended

    @property
    def attention_factor(self) -> float:
        """What cos and sin are multiplied by."""
        return 1.0 if self.scaling is None else self.scaling.attention_factor


def read_rope(
    config: Config, head_dim: int, layer_type: str | None = None, *, original_context: int | None = None
) -> Rope:
    """Read ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling``.

    ``layer_type`` names the section of ``rope_parameters`` where it has one for each type of layer.
    ``original_context`` is what the architecture has for ``original_max_position_embeddings`` where config.json doesn't
    say it outside of that section: transformers then doesn't look inside. Raises
    UnsupportedError for another scaling, CheckpointError for a value that can't be.
    """
    parameters = config.section("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
    if layer_type is not None and parameters.has(layer_type):
        parameters = parameters.section(layer_type)
    theta = parameters.number("rope_theta", config.number("rope_theta", 10000.0))
    share = parameters.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    dims = int(head_dim * share)
    if dims % 2 or not 0 < dims <= head_dim:
        config.refuse(f"rotary embedding of {dims} of a head's {head_dim} dimensions")
    kind = parameters.value("rope_type") or parameters.value("type") or "default"
    if kind == "default":
        return Rope(theta, dims)
    if kind == "linear":
        return Rope(theta, dims, RopeScaling("linear", parameters.number("factor")))
    if kind == "llama3":
        scaling = RopeScaling(
            "llama3",
            parameters.number("factor"),
            parameters.number("low_freq_factor"),
            parameters.number("high_freq_factor"),
            parameters.integer("original_max_position_embeddings"),
        )
        if scaling.high_freq_factor <= scaling.low_freq_factor:
            config.refuse("rope_parameters: high_freq_factor must be greater than low_freq_factor")
        return Rope(theta, dims, scaling)
    if kind in ("longrope", "su"):
        return Rope(theta, dims, _longrope(config, parameters, dims, original_context))
    config.refuse(f"rotary scaling {kind!r} is not supported (only linear, llama3, longrope)")


def _longrope(config: Config, parameters: Config, dims: int, original_context: int | None) -> RopeScaling:
    key = "original_max_position_embeddings"
    if config.has(key) or original_context is not None:
        original = config.integer(key, original_context)
    else:
        original = parameters.integer(key)
    factor = parameters.number("factor", config.integer("max_position_embeddings") / original)
    attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    return RopeScaling(
        "longrope",
        factor,
        original_context=original,
        short_factors=parameters.numbers("short_factor", dims // 2),
        long_factors=parameters.numbers("long_factor", dims // 2),
        attention_factor=parameters.number("attention_factor", attention),
    )
