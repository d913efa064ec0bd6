"""Typed access to a checkpoint's config.json."""

from __future__ import annotations

from typing import Final, NoReturn

from edgestill.errors import CheckpointError, UnsupportedError

_FLOAT32_END: Final = 3.4e38
_MOST_LAYERS: Final = 1024


class Config:
    """Typed access to a parsed config.json; every miss is a CheckpointError naming the key."""

    def __init__(self, values: dict[str, object], where: str) -> None:
        self._values = values
        self._where = where

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive integer (``default`` when the key is absent or null)."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value < 1 << 31:
            raise CheckpointError(f"{self._where}: {key} must be a positive integer, found {value!r}")
        return value

    def layers(self, key: str, default: int | None = None) -> int:
        """Return a number of layers; what no model has is refused before work is done for each."""
        value = self.integer(key, default)
        if value > _MOST_LAYERS:
            raise CheckpointError(f"{self._where}: {key} {value} is more than {_MOST_LAYERS}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number that float32 can hold (``default`` when the key is absent or null)."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _FLOAT32_END:
            raise CheckpointError(f"{self._where}: {key} must be a positive number of float32, found {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean (``default`` when the key is absent or null)."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise CheckpointError(f"{self._where}: {key} must be true or false, found {value!r}")
        return value

    def require(self, key: str, allowed: tuple[object, ...], default: object) -> None:
        """Refuse (UnsupportedError) a value that the architecture's description doesn't cover."""
        value = self._values.get(key, default)
        if value not in allowed:
            shown = ", ".join(repr(item) for item in allowed)
            raise UnsupportedError(f"{self._where}: {key} {value!r} is not supported (only {shown})")

    def refuse(self, reason: str) -> NoReturn:
        """Raise UnsupportedError that names the file."""
        raise UnsupportedError(f"{self._where}: {reason}")

    def value(self, key: str) -> object:
        """Return what stands under ``key`` unchecked, None when it is absent."""
        return self._values.get(key)

    def has(self, key: str) -> bool:
        """Whether the key is there, with something else than null."""
        return self._values.get(key) is not None

    def section(self, key: str) -> Config:
        """Return the object under ``key``, an empty one when it is absent or null."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{self._where}: {key} must be an object, found {value!r}")
        return Config(value or {}, f"{self._where}: {key}")

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Return a list of ``count`` positive finite numbers."""
        value = self._values.get(key)
        if not isinstance(value, list) or len(value) != count:
            raise CheckpointError(f"{self._where}: {key} must be a list of {count} numbers")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int | float) or not 0 < item < _FLOAT32_END:
                raise CheckpointError(f"{self._where}: {key} must have positive numbers only, found {item!r}")
        return tuple(float(item) for item in value)
