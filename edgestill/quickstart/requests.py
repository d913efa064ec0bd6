"""Single requests: an answer drawn from the home, said in one of the phrasings that a split may use."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgestill.quickstart.choice import chance, pick
from edgestill.quickstart.holdout import Split, phrasings_for
from edgestill.quickstart.home import ACTIONS, DEVICES, NAMES, ROOMS, Answer, SlotValue, values_of
from edgestill.quickstart.phrasings import FRAMES, FRAMES_AROUND_FRONTED, FRONTED, cores
from edgestill.quickstart.spoken import TIMES, ways_to_say

_ROOM_SAID: Final = 0.85
_TIME_SAID: Final = 0.3


@dataclass(frozen=True)
class Request:
    """What a user says, the phrasing behind it (slots open), and what the home should do."""

    text: str
    core: str
    answer: Answer


def draw_request(rng: random.Random, split: Split, action: str) -> Request | None:
    """Return a request for an action, or None where the split has no phrasing for what was drawn."""
    answer = draw_answer(rng, action)
    core = draw_core(rng, split, action, answer)
    return None if core is None else Request(say(rng, core, say_slots(rng, answer)), core, answer)


def draw_answer(rng: random.Random, name: str) -> dict[str, SlotValue]:
    """Return an action of the home with its slots filled in."""
    action = ACTIONS[name]
    answer: dict[str, SlotValue] = {"action": action.name}
    device = pick(rng, action.devices) if action.devices else None
    if device is not None:
        answer["device"] = device
    has_rooms = DEVICES[device].in_rooms if device is not None else action.takes_room
    if has_rooms and chance(rng, _ROOM_SAID):
        answer["room"] = pick(rng, tuple(ROOMS))
    if action.unit is not None:
        answer["value"] = pick(rng, values_of(action.name, device))
    if action.names is not None:
        answer["name"] = pick(rng, NAMES[action.names])
    if action.takes_time and chance(rng, _TIME_SAID):
        answer["time"] = pick(rng, TIMES)[1]
    return answer


def draw_core(
    rng: random.Random, split: Split, action: str, slots: Answer, *, unmistakable: bool = False
) -> str | None:
    """Return one of the split's phrasings of an action that says the room and the time if there are any."""
    every = cores(action, room="room" in slots, time="time" in slots, unmistakable=unmistakable)
    options = phrasings_for(split, every)
    return pick(rng, options) if options else None


def say(rng: random.Random, core: str, said: Mapping[str, str]) -> str:
    """Return a core with its slots filled in and politeness around it."""
    frames = FRAMES_AROUND_FRONTED if core.startswith(FRONTED) else FRAMES
    return pick(rng, frames).format(core.format(**said))


def say_slots(rng: random.Random, slots: Answer) -> dict[str, str]:
    """Return words for each slot, by the slot's name; ``wanted`` or ``action`` tells the value's unit."""
    action = ACTIONS[str(slots["wanted" if "wanted" in slots else "action"])]
    said: dict[str, str] = {}
    if "device" in slots:
        said["device"] = pick(rng, DEVICES[str(slots["device"])].nouns)
    if "room" in slots:
        said["room"] = pick(rng, ROOMS[str(slots["room"])])
    if "value" in slots and action.unit is not None:
        said["value"] = pick(rng, ways_to_say(slots["value"], action.unit))
    if "name" in slots:
        said["name"] = str(slots["name"])
    if "time" in slots:
        said["time"] = pick(rng, [words for words, time in TIMES if time == slots["time"]])
    return said
