"""How people phrase a request: patterns per action, joined with noun phrases, orders and politeness.

A *core* is a pattern with its noun phrase and its order, slots still open, as in
``{time} set the {device} in the {room} to {value}``. Cores are what the splits hold back; politeness is
wrapped around them afterwards. A room that isn't said is left out of the noun phrase.
"""

from __future__ import annotations

import functools
from typing import Final

PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "turn_on": ("turn on {it}", "turn {it} on", "switch on {it}", "switch {it} on", "power up {it}", "get {it} going"),
    "turn_off": (
        *("turn off {it}", "turn {it} off", "switch off {it}", "switch {it} off", "power down {it}"),
        *("shut {it} off", "kill {it}"),
    ),
    "check": ("check {it}", "check on {it}", "tell me the state of {it}", "look up the state of {it}"),
    "set_brightness": (
        *("set {it} to {value}", "dim {it} to {value}", "brighten {it} to {value}", "bring {it} to {value}"),
        *("change the brightness of {it} to {value}", "set the brightness of {it} to {value}", "get {it} to {value}"),
    ),
    "set_color": (
        *("set {it} to {value}", "make {it} {value}", "turn {it} {value}", "change {it} to {value}"),
        *("change the color of {it} to {value}", "set the color of {it} to {value}"),
    ),
    "set_temperature": (
        *("set {it} to {value}", "bring {it} to {value}", "change {it} to {value}", "get {it} to {value}"),
        *("heat {it} to {value}", "cool {it} to {value}"),
        *("set the temperature of {it} to {value}", "change the temperature of {it} to {value}"),
    ),
    "set_speed": (
        *("set {it} to speed {value}", "put {it} on speed {value}", "run {it} at speed {value}"),
        *("set {it} to level {value}", "put {it} on level {value}", "run {it} at level {value}"),
    ),
    "open": ("open {it}", "open up {it}", "get {it} open", "have {it} opened"),
    "close": ("close {it}", "shut {it}", "get {it} closed", "have {it} closed"),
    "set_position": (
        *("set {it} to {value}", "open {it} to {value}", "lower {it} to {value}", "raise {it} to {value}"),
        *("bring {it} to {value}", "get {it} to {value}"),
    ),
    "lock": ("lock {it}", "lock up {it}", "get {it} locked", "have {it} locked"),
    "unlock": ("unlock {it}", "get {it} unlocked", "have {it} unlocked", "undo the lock of {it}"),
    "set_volume": (
        *("set {it} to {value}", "change the volume of {it} to {value}", "set the volume of {it} to {value}"),
        *("put the volume of {it} at {value}", "bring {it} to {value}", "turn {it} to {value}"),
    ),
    "mute": ("mute {it}", "silence {it}", "put {it} on mute", "cut the sound of {it}"),
    "unmute": ("unmute {it}", "take {it} off mute", "bring back the sound of {it}", "give {it} its sound back"),
    "pause": ("pause {it}", "put {it} on pause", "hold {it}", "freeze {it}"),
    "resume": ("resume {it}", "take {it} off pause", "let {it} play on", "continue {it}"),
    "set_channel": (
        *("set {it} to channel {value}", "put {it} on channel {value}", "switch {it} to channel {value}"),
        *("turn {it} to channel {value}", "change the channel of {it} to {value}"),
    ),
    "play": (
        *("play {name} on {it}", "put {name} on {it}", "have {it} play {name}", "let {it} play {name}"),
        *("start {name} on {it}", "play my {name} playlist on {it}", "put my {name} playlist on {it}"),
    ),
    "start": ("start {it}", "start up {it}", "run {it}", "begin with {it}", "let {it} run"),
    "stop": ("stop {it}", "end {it}", "have {it} stop", "make {it} stop"),
    "dock": ("dock {it}", "send {it} to its dock", "send {it} home", "bring {it} back to its dock"),
    "brew": (
        *("brew {value} of coffee with {it}", "make {value} of coffee with {it}", "have {it} brew {value}"),
        *("let {it} make {value}", "get {value} of coffee from {it}"),
    ),
    "record": ("record with {it}", "have {it} record", "start recording with {it}", "let {it} record"),
    "arm": ("arm {it} in {name} mode", "set {it} to {name} mode", "put {it} in {name} mode", "arm {it} for {name}"),
    "disarm": ("disarm {it}", "get {it} disarmed", "have {it} disarmed", "take {it} out of its mode"),
    "scene": (
        *("start the {name} scene{here}", "set the {name} scene{here}", "activate the {name} scene{here}"),
        *("switch to the {name} scene{here}", "put on the {name} scene{here}", "make it {name} time{here}"),
    ),
    "call": (
        "call {name}",
        "ring {name}",
        "start a call with {name}",
        "start a call to {name}",
        "make a call to {name}",
        "give {name} a call",
        "get {name} on the line",
    ),
    "message": (
        *("message {name}", "text {name}", "send a message to {name}", "send {name} a message", "write to {name}"),
        *("send a text to {name}", "send {name} a text"),
    ),
    "set_timer": (
        *("set a {name} timer for {value}", "set a timer for the {name} for {value}"),
        *("start a {name} timer for {value}", "start a timer for the {name} for {value}"),
        *("set a timer of {value} for the {name}", "for the {name}, set a timer of {value}"),
        *("start a timer of {value} for the {name}", "for the {name}, start a timer of {value}"),
    ),
    "cancel_timer": (
        *("cancel the {name} timer", "stop the {name} timer", "end the {name} timer"),
        *("cancel the timer for the {name}", "stop the timer for the {name}", "end the timer for the {name}"),
    ),
}

# Patterns that say what is wanted without a look at the device: only these ask for the impossible.
UNMISTAKABLE: Final[dict[str, tuple[str, ...]]] = {
    "set_brightness": ("dim {it} to {value}", "brighten {it} to {value}", "set the brightness of {it} to {value}"),
    "set_volume": ("set the volume of {it} to {value}", "put the volume of {it} at {value}"),
    "set_channel": ("put {it} on channel {value}", "switch {it} to channel {value}"),
    "open": ("open {it}", "open up {it}", "get {it} open"),
    "close": ("close {it}", "get {it} closed"),
    "lock": ("lock {it}", "lock up {it}", "get {it} locked"),
    "unlock": ("unlock {it}", "get {it} unlocked"),
    "mute": ("mute {it}", "silence {it}", "put {it} on mute"),
    "unmute": ("unmute {it}", "take {it} off mute"),
    "record": ("record with {it}", "have {it} record"),
    "dock": ("dock {it}", "send {it} to its dock"),
    "disarm": ("disarm {it}", "get {it} disarmed"),
    "pause": ("pause {it}", "put {it} on pause"),
    "turn_on": ("turn on {it}", "turn {it} on", "switch on {it}", "switch {it} on"),
    "turn_off": ("turn off {it}", "turn {it} off", "switch off {it}", "switch {it} off"),
    "start": ("start {it}", "run {it}"),
}

# Politeness around a request; one that begins with its room or time takes only the second list.
FRAMES: Final = (
    *("{}", "{}", "{}", "please {}", "{} please", "can you {}", "can you {}?", "could you {}?", "could you please {}?"),
    *("would you {}?", "hey, {}", "i want you to {}", "{} for me", "{}, thanks", "go and {}"),
)
FRAMES_AROUND_FRONTED: Final = ("{}", "{}", "{}", "{} please", "hey, {}", "{} for me", "{}, thanks")
FRONTED: Final = ("{time}", "in the {room}")

_WITH_ROOM: Final = ("the {room} {device}", "the {device} in the {room}")
_WITHOUT_ROOM: Final = "the {device}"
_HERE: Final = " in the {room}"
_ROOM_FIRST: Final = "in the {room}, {core}"
_TIMED: Final = ("{core} {time}", "{time}, {core}")
_UNTIMED: Final = ("{core}",)


@functools.cache
def cores(action: str, *, room: bool, time: bool, unmistakable: bool = False) -> tuple[str, ...]:
    """Return every core of an action that says (or doesn't say) a room and a time of day."""
    patterns = (UNMISTAKABLE if unmistakable else PATTERNS)[action]
    return tuple(
        order.replace("{core}", phrase)
        for pattern in patterns
        for phrase in _with_place(pattern, room)
        for order in (_TIMED if time else _UNTIMED)
    )


def _with_place(pattern: str, room: bool) -> tuple[str, ...]:
    """Return a pattern with its noun phrase filled in, once for each place where the room can be said."""
    bare = pattern.replace("{it}", _WITHOUT_ROOM).replace("{here}", "")
    if not room:
        return (bare,)
    first = _ROOM_FIRST.replace("{core}", bare)
    if "{here}" in pattern:
        return (pattern.replace("{here}", _HERE), first)
    return (*(pattern.replace("{it}", phrase) for phrase in _WITH_ROOM), first)
