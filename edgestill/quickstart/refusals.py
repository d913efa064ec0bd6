"""Requests that no device can do, near misses included, and the reason that the answer gives.

``not_possible``: the device can't do that ("dim the fridge"). ``no_such_device`` and ``no_such_room``:
the home has no such thing; its name is repeated. ``out_of_range``: the device doesn't go that far.
"""

from __future__ import annotations

import random
from typing import Final

from edgestill.quickstart.choice import chance, pick
from edgestill.quickstart.holdout import Split
from edgestill.quickstart.home import ACTIONS, DEVICES, ROOMS, SlotValue, values_of
from edgestill.quickstart.phrasings import UNMISTAKABLE
from edgestill.quickstart.requests import Request, draw_core, say, say_slots
from edgestill.quickstart.spoken import TIMES

# Nearly everything can be switched or started somehow: asking for it is no near miss.
_ALWAYS_POSSIBLE: Final = ("turn_on", "turn_off", "start")
MISSING_DEVICES: Final = (
    *("jacuzzi", "toaster", "microwave", "elevator", "piano", "aquarium", "drone", "printer", "treadmill"),
    *("blender", "lawn mower", "hair dryer", "sewing machine", "fountain"),
)
MISSING_ROOMS: Final = ("attic", "sauna", "library", "wine cellar", "greenhouse", "balcony", "gym", "pool house")
_TOO_FAR: Final[dict[str, tuple[int, ...]]] = {
    "set_brightness": (110, 120, 150, 200, 300),
    "set_position": (110, 120, 150, 200, 300),
    "set_volume": (110, 120, 150, 200, 300),
    "set_temperature": (300, 400, 500, 600, 700),
    "set_speed": (10, 12, 15, 20, 30),
}
_ROOM_SAID: Final = 0.5
_TIME_SAID: Final = 0.2


def draw_refusal(rng: random.Random, split: Split) -> Request | None:
    """Return a request to refuse, or None where the split has no phrasing for what was drawn."""
    return pick(rng, (_not_possible, _not_possible, _no_such_device, _no_such_room, _out_of_range))(rng, split)


def _not_possible(rng: random.Random, split: Split) -> Request | None:
    wanted = pick(rng, tuple(action for action in UNMISTAKABLE if action not in _ALWAYS_POSSIBLE))
    device = pick(rng, tuple(device for device in DEVICES if device not in ACTIONS[wanted].devices))
    answer: dict[str, SlotValue] = {"action": "refuse", "reason": "not_possible", "wanted": wanted, "device": device}
    return _refused(rng, split, answer, _asked(rng, wanted, device), unmistakable=True)


def _no_such_device(rng: random.Random, split: Split) -> Request | None:
    wanted = pick(rng, tuple(UNMISTAKABLE))
    thing = pick(rng, MISSING_DEVICES)
    answer: dict[str, SlotValue] = {"action": "refuse", "reason": "no_such_device", "wanted": wanted, "name": thing}
    return _refused(rng, split, answer, _asked(rng, wanted, None), unmistakable=True, device=thing)


def _no_such_room(rng: random.Random, split: Split) -> Request | None:
    action = pick(rng, tuple(action for action in ACTIONS.values() if action.devices and action.names is None))
    devices = tuple(device for device in action.devices if DEVICES[device].in_rooms)
    if not devices:
        return None
    device = pick(rng, devices)
    place = pick(rng, MISSING_ROOMS)
    answer: dict[str, SlotValue] = {"action": "refuse", "reason": "no_such_room", "device": device, "name": place}
    asked = {**_asked(rng, action.name, device), "room": place}
    return _refused(rng, split, answer, asked, room=place)


def _out_of_range(rng: random.Random, split: Split) -> Request | None:
    wanted = pick(rng, tuple(_TOO_FAR))
    device = pick(rng, ACTIONS[wanted].devices)
    value = pick(rng, _TOO_FAR[wanted])
    answer: dict[str, SlotValue] = {
        "action": "refuse",
        "reason": "out_of_range",
        "wanted": wanted,
        "device": device,
        "value": value,
    }
    return _refused(rng, split, answer, {**_asked(rng, wanted, device), "value": value})


def _asked(rng: random.Random, wanted: str, device: str | None) -> dict[str, SlotValue]:
    """Return the slots that the request mentions, possible or not."""
    action = ACTIONS[wanted]
    asked: dict[str, SlotValue] = {"wanted": wanted}
    if device is not None:
        asked["device"] = device
    if (device is None or DEVICES[device].in_rooms) and chance(rng, _ROOM_SAID):
        asked["room"] = pick(rng, tuple(ROOMS))
    if action.unit is not None:
        asked["value"] = pick(rng, values_of(wanted, device))
    if action.takes_time and chance(rng, _TIME_SAID):
        asked["time"] = pick(rng, TIMES)[1]
    return asked


def _refused(
    rng: random.Random,
    split: Split,
    answer: dict[str, SlotValue],
    asked: dict[str, SlotValue],
    *,
    unmistakable: bool = False,
    device: str | None = None,
    room: str | None = None,
) -> Request | None:
    """Return the request that mentions ``asked``; ``device`` and ``room`` are nouns that the home lacks."""
    core = draw_core(rng, split, str(asked["wanted"]), asked, unmistakable=unmistakable)
    if core is None:
        return None
    known = {key: value for key, value in asked.items() if not (key == "room" and room)}
    said = say_slots(rng, known)
    said.update({key: noun for key, noun in (("device", device), ("room", room)) if noun is not None})
    return Request(say(rng, core, said), core, answer)
