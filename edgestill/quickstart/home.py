"""The world of the quickstart: rooms, devices, actions and the slots that each action takes.

An answer is one JSON object with short keys in the fixed order of ``ANSWER_KEYS``; a slot that the
request doesn't mention is left out (no room said: no ``room``). An answer combines its
action and all its slots; the splits hold some combinations back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

SlotValue = str | int
Answer = Mapping[str, SlotValue]
Unit = Literal["percent", "degrees", "level", "channel", "minutes", "cups", "color"]

ANSWER_KEYS: Final = ("action", "reason", "wanted", "device", "room", "value", "name", "time")


@dataclass(frozen=True)
class Device:
    """A kind of device, the nouns people use for it, and whether there is one in every room."""

    name: str
    nouns: tuple[str, ...]
    in_rooms: bool = False


@dataclass(frozen=True)
class Action:
    """What devices can do: ``unit`` names its value, ``names`` the list its name comes from."""

    name: str
    devices: tuple[str, ...] = ()
    unit: Unit | None = None
    names: str | None = None
    takes_room: bool = True
    takes_time: bool = True


# The first noun of a room is its name in answers.
ROOMS: Final[dict[str, tuple[str, ...]]] = {
    "kitchen": ("kitchen",),
    "living room": ("living room", "lounge"),
    "bedroom": ("bedroom",),
    "bathroom": ("bathroom",),
    "hall": ("hall", "hallway"),
    "office": ("office", "study"),
    "nursery": ("nursery",),
    "basement": ("basement",),
    "garage": ("garage",),
    "garden": ("garden",),
}

DEVICES: Final[dict[str, Device]] = {
    device.name: device
    for device in (
        Device("light", ("lights", "light"), in_rooms=True),
        Device("lamp", ("lamp", "lamps"), in_rooms=True),
        Device("blinds", ("blinds", "shades"), in_rooms=True),
        Device("window", ("window", "windows"), in_rooms=True),
        Device("fan", ("fan",), in_rooms=True),
        Device("heater", ("heater", "radiator"), in_rooms=True),
        Device("speaker", ("speaker", "speakers"), in_rooms=True),
        Device("tv", ("tv", "television"), in_rooms=True),
        Device("camera", ("camera",), in_rooms=True),
        Device("vacuum", ("vacuum", "robot vacuum"), in_rooms=True),
        Device("oven", ("oven",)),
        Device("fridge", ("fridge", "refrigerator")),
        Device("kettle", ("kettle",)),
        Device("coffee machine", ("coffee machine", "coffee maker")),
        Device("dishwasher", ("dishwasher",)),
        Device("washer", ("washer", "washing machine")),
        Device("sprinkler", ("sprinkler", "sprinklers")),
        Device("front door", ("front door",)),
        Device("back door", ("back door",)),
        Device("gate", ("gate",)),
        Device("alarm", ("alarm",)),
    )
}

_SWITCHED: Final = (*("light", "lamp", "fan", "heater", "speaker", "tv", "camera", "oven", "kettle", "coffee machine"),)
_OPENED: Final = ("blinds", "window", "gate", "front door", "back door")
_LOCKED: Final = ("window", "gate", "front door", "back door")
_PROGRAMMED: Final = ("dishwasher", "washer", "sprinkler", "vacuum")
_SOUNDING: Final = ("speaker", "tv")

ACTIONS: Final[dict[str, Action]] = {
    action.name: action
    for action in (
        Action("turn_on", _SWITCHED),
        Action("turn_off", _SWITCHED),
        Action("check", (*_SWITCHED, *_LOCKED), takes_time=False),
        Action("set_brightness", ("light", "lamp"), unit="percent"),
        Action("set_color", ("light", "lamp"), unit="color"),
        Action("set_temperature", ("heater", "oven", "fridge"), unit="degrees"),
        Action("set_speed", ("fan",), unit="level"),
        Action("open", _OPENED),
        Action("close", _OPENED),
        Action("set_position", ("blinds",), unit="percent"),
        Action("lock", _LOCKED),
        Action("unlock", _LOCKED),
        Action("set_volume", _SOUNDING, unit="percent"),
        Action("mute", _SOUNDING),
        Action("unmute", _SOUNDING),
        Action("pause", _SOUNDING),
        Action("resume", _SOUNDING),
        Action("set_channel", ("tv",), unit="channel"),
        Action("play", ("speaker",), names="playlist"),
        Action("start", _PROGRAMMED),
        Action("stop", _PROGRAMMED),
        Action("dock", ("vacuum",)),
        Action("brew", ("coffee machine",), unit="cups"),
        Action("record", ("camera",)),
        Action("arm", ("alarm",), names="mode"),
        Action("disarm", ("alarm",)),
        Action("scene", names="scene"),
        Action("call", names="person", takes_room=False),
        Action("message", names="person", takes_room=False),
        Action("set_timer", unit="minutes", names="timer", takes_room=False, takes_time=False),
        Action("cancel_timer", names="timer", takes_room=False, takes_time=False),
    )
}

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "playlist": ("jazz", "rock", "chill", "classical", "party hits", "workout", "lullabies", "road trip"),
    "mode": ("home", "away", "night", "party", "relax"),
    "scene": ("movie", "dinner", "reading", "relax", "party", "home", "away", "night"),
    "person": (
        *("anna", "ben", "clara", "david", "emma", "frank", "grace", "henry", "julia", "laura"),
        *("martin", "nora", "grandma", "grandpa", "mom", "dad"),
    ),
    "timer": ("pasta", "egg", "tea", "pizza", "laundry", "nap", "rice", "cake"),
}

COLORS: Final = ("red", "green", "blue", "white", "yellow", "orange", "purple", "pink")


def values_of(action: str, device: str | None) -> tuple[SlotValue, ...]:
    """Return the values that an action takes on a device."""
    match ACTIONS[action].unit:
        case "percent":
            return (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
        case "degrees":
            ranges = {"oven": range(140, 221, 20), "fridge": range(2, 7)}
            return tuple(ranges.get(device or "", range(17, 25)))
        case "level":
            return tuple(range(1, 6))
        case "channel":
            return tuple(range(1, 10))
        case "minutes":
            return (1, 2, 3, 5, 8, 10, 15, 20, 30, 45)
        case "cups":
            return tuple(range(2, 9))
        case "color":
            return COLORS
        case None:
            return ()


def write_answer(answer: Answer) -> str:
    """Return the answer as compact JSON, keys in the order of ``ANSWER_KEYS``."""
    return json.dumps({key: answer[key] for key in ANSWER_KEYS if key in answer}, separators=(",", ":"))
