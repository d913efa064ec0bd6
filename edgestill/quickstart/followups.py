"""Second turns: a request, its answer, and what the user says next ("and the hall too", "undo that").

What a second turn doesn't mention stays as the first answer has it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edgestill.quickstart.choice import pick
from edgestill.quickstart.holdout import Split, phrasings_for
from edgestill.quickstart.home import ACTIONS, DEVICES, NAMES, ROOMS, Answer, SlotValue, values_of
from edgestill.quickstart.requests import Request, say_slots
from edgestill.quickstart.spoken import TIMES, ways_to_say

_ALSO: Final = ("and {what}", "also {what}", "now {what}", "the same {what}", "do that {what}", "do the same {what}")
_TOO: Final = ("{also}", "{also} too", "{also} as well")
_CHANGE: Final = (
    *("make it {new}", "make that {new}", "no, {new}", "actually {new}", "sorry, {new}", "i meant {new}"),
    *("no, make it {new}", "actually, make it {new}"),
)
_INSTEAD: Final = ("{change}", "{change} instead")
_UNDO: Final = ("undo {it}", "cancel {it}", "take {it} back", "forget {it}", "drop {it}", "never mind {it}")
_IT: Final = ("that", "it", "the last one", "what i said")
_POLITELY: Final = ("{}", "{}", "{}", "{} please", "{}, thanks")


def _joined(outer: tuple[str, ...], slot: str, inner: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(around.replace(slot, within) for around in outer for within in inner)


def _also(*what: str) -> tuple[str, ...]:
    return _joined(_TOO, "{also}", _joined(_ALSO, "{what}", what))


def _instead(new: str) -> tuple[str, ...]:
    return _joined(_INSTEAD, "{change}", _joined(_CHANGE, "{new}", (new,)))


_CORES: Final[Mapping[str, tuple[str, ...]]] = {
    "room": (*_also("in the {room}"), *_joined(_TOO, "{also}", ("and the {room}", "also the {room}"))),
    "room and time": _also("in the {room} {time}", "{time} in the {room}"),
    "device": _also("with the {device}"),
    "value": _instead("{value}"),
    "name": _instead("{name}"),
    "time": (*_instead("{time}"), *_also("{time}")),
    "undo": _joined(("{undo}", "no, {undo}", "actually, {undo}"), "{undo}", _joined(_UNDO, "{it}", _IT)),
}


def draw_follow_up(rng: random.Random, split: Split, first: Request) -> Request | None:
    """Return a second turn that fits the first request, or None where the split has none."""
    kind = pick(rng, tuple(kind for kind, fits in _FITS.items() if fits(first.answer)))
    core = pick(rng, phrasings_for(split, _CORES[kind]))
    if kind == "undo":
        kept = {key: value for key, value in first.answer.items() if key in ("device", "room", "name")}
        return Request(_polite(rng, core), core, {"action": "undo", "wanted": first.answer["action"], **kept})
    changes = _changes(rng, kind, first.answer)
    if changes is None:
        return None
    said = say_slots(rng, {"action": first.answer["action"], **changes})
    if "value" in changes:
        said["value"] = pick(rng, (said["value"], *ways_to_say(changes["value"], "bare")))
    return Request(_polite(rng, core.format(**said)), core, {**first.answer, **changes})


def _polite(rng: random.Random, turn: str) -> str:
    return pick(rng, _POLITELY).format(turn)


def _changes(rng: random.Random, kind: str, first: Answer) -> dict[str, SlotValue] | None:
    """Return the slots that the second turn changes, each to something else than before."""
    action = ACTIONS[str(first["action"])]
    match kind:
        case "device":
            options = [device for device in action.devices if device != first["device"] and _can(device, first)]
            return {"device": pick(rng, options)} if options else None
        case "value":
            return {"value": _another(rng, values_of(action.name, _device(first)), first["value"])}
        case "name":
            return {"name": _another(rng, NAMES[str(action.names)], first["name"])}
        case "room":
            return {"room": _another(rng, tuple(ROOMS), first["room"])}
        case "time":
            return {"time": _another(rng, _CLOCK, first.get("time", ""))}
        case _:
            return {"room": _another(rng, tuple(ROOMS), first["room"]), "time": pick(rng, _CLOCK)}


_CLOCK: Final = tuple(time for _, time in TIMES)
_FITS: Final[Mapping[str, Callable[[Answer], bool]]] = {
    "room": lambda answer: "room" in answer,
    "room and time": lambda answer: "room" in answer and ACTIONS[str(answer["action"])].takes_time,
    "device": lambda answer: "device" in answer and len(ACTIONS[str(answer["action"])].devices) > 1,
    "value": lambda answer: "value" in answer,
    "name": lambda answer: "name" in answer,
    "time": lambda answer: ACTIONS[str(answer["action"])].takes_time,
    "undo": lambda answer: True,
}


def _another(rng: random.Random, options: Sequence[SlotValue], than: SlotValue) -> SlotValue:
    return pick(rng, [option for option in options if option != than])


def _device(answer: Answer) -> str | None:
    return str(answer["device"]) if "device" in answer else None


def _can(device: str, answer: Answer) -> bool:
    """Tell whether another device can do what the answer says, where it says it."""
    fits = "value" not in answer or answer["value"] in values_of(str(answer["action"]), device)
    return fits and ("room" not in answer or DEVICES[device].in_rooms)
