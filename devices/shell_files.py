"""The files of a device with a shell: listed, hashed, sent, read and deleted by programs that every system has."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Final

from edgestill.devices.contract import DeviceBusy, DriverError, JobFailed, JobTimeout, NoRoom, WrongHash
from edgestill.devices.file_scripts import (
    ALONE,
    BENCH_LOCK,
    BUSY,
    GONE,
    MARK,
    NO_PLACE,
    PUSH_LOCK,
    SEND_LOCK,
    SHORT,
    WRONG,
    mode_of,
    no_links,
    restoring,
    synced,
    taking_apart,
    without_empty,
)
from edgestill.devices.linux_probe import free_disk_bytes
from edgestill.devices.push import PARTIAL, Stored
from edgestill.devices.shell_words import quoted
from edgestill.devices.staging import REPLACED
from edgestill.devices.talk import Talk

if TYPE_CHECKING:
    from edgestill.devices.shell_device import Answer

_ARGUMENT_BYTES: Final = 16 << 10
"""Of names in one script: a whole script is one argument of a shell somewhere, of at most 128 KiB."""

_TOGETHER_ARGUMENT_BYTES: Final = 4 << 10
_TOGETHER_FILES: Final = 100

_HASH_SECONDS: Final = 1800.0
_BEAT_SECONDS: Final = 5.0
_ARRIVAL_SECONDS: Final = 20  # less than the caller waits for the lock


class ShellFiles:
    """File operations below ``root``; ``shell`` runs a script to its end, ``start`` leaves it running."""

    def __init__(self, name: str, root: str, shell: Callable[..., Answer], start: Callable[[str], Talk]) -> None:
        self.name = name
        self._root = root
        self._shell = shell
        self._start = start

    def listed(self, folder: str) -> frozenset[str]:
        answer = self._run(f"{self._enter(folder)} || exit 0\nfind . ! -type d -print0")
        names = answer.output.decode("utf-8", "surrogateescape").split("\0")
        return frozenset(name.removeprefix("./") for name in names if name)

    def stored(self, folder: str, names: Sequence[str]) -> dict[str, Stored]:
        found = {}
        for batch in _batches(names):
            script = f"""{self._enter(folder)} || exit 0
set -- {quoted(*batch)}
for f do
  f=./$f
  if [ -h "$f" ] || [ ! -f "$f" ]; then echo -; continue; fi
  x=-; [ -x "$f" ] && x=x
  h=$(sha256sum <"$f") && echo "$(wc -c <"$f") $x ${{h%% *}}" || echo -
done"""
            lines = self._run(script, seconds=_HASH_SECONDS).text.splitlines()
            for name, line in zip(batch, lines, strict=False):
                if len(words := line.split()) == 3 and words[0].isdigit():
                    found[name] = Stored(int(words[0]), words[2], words[1] == "x")
        return found

    def delete(self, folder: str, names: Sequence[str]) -> None:
        for batch in _batches(names):
            self._run(f"{self._enter(folder)} || exit 0\nrm -rf -- {quoted(*(f'./{name}' for name in batch))}")
        self._run(f"{self._enter(folder)} || exit 0\nfind . -depth -type d -exec rmdir {{}} \\; 2>/dev/null; exit 0")

    def free_bytes(self) -> int | None:
        place = quoted(self._root)
        script = f'd={place}; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; df -Pk "$d"'
        return free_disk_bytes(self._run(script).text)

    def send(
        self, folder: str, target: str, wanted: Stored, pieces: Iterator[bytes], *, offset: int,
        cancelled: Event | None, on_sent: Callable[[int], None],
    ) -> None:  # fmt: skip
        partial = quoted(f"{PARTIAL}/{wanted.sha256}")
        place = quoted(f"./{target}")
        parent = quoted(f"./{PurePosixPath(target).parent.as_posix()}")
        script = f"""{self._receiving(folder)}
[ "$(wc -c <{partial} 2>/dev/null || echo 0)" -eq {offset} ] || exit {BUSY}
cat >>{partial} || exit {NO_PLACE}
[ "$(wc -c <{partial})" -eq {wanted.size} ] || exit {SHORT}
h=$(sha256sum <{partial})
[ "${{h%% *}}" = {wanted.sha256} ] || {{ rm -f {partial}; exit {WRONG}; }}
if [ -d {place} ] && [ ! -h {place} ]; then rm -rf {place}; fi
{synced(partial)}
mkdir -p {parent} && chmod {mode_of(wanted)} {partial} && mv -f {partial} {place} || exit {NO_PLACE}
rmdir {PARTIAL} 2>/dev/null; exit 0"""
        answer = self._shell(script, stdin=pieces, seconds=None, cancelled=cancelled, on_sent=on_sent)
        what = f"{folder}/{target}"
        if answer.status == SHORT:
            size = f"{wanted.size} bytes"
            raise WrongHash(f"{self.name}: {what}: arrived with another size than {size}; did the file change?")
        self._see_to(answer, what)

    def send_small(
        self, folder: str, files: Sequence[tuple[str, Stored, bytes]], *,
        cancelled: Event | None, on_sent: Callable[[int], None],
    ) -> None:  # fmt: skip
        by_name = {name: (wanted, content) for name, wanted, content in files}
        for batch in _batches(list(by_name), _TOGETHER_ARGUMENT_BYTES, _TOGETHER_FILES):
            script = self._receiving(folder) + taking_apart([(name, by_name[name][0]) for name in batch])
            pieces = iter([by_name[name][1] for name in batch])
            answer = self._shell(script, stdin=pieces, seconds=None, cancelled=cancelled, on_sent=on_sent)
            if answer.status == SHORT:
                raise WrongHash(f"{self.name}: {folder}: small files arrived cut; run the same command again")
            self._see_to(answer, f"{folder}/{batch[0]} and what is sent with it")

    def _receiving(self, folder: str) -> str:
        """Return lines that go to a folder, which is made, and hold what is appended there for ourselves."""
        return f"""mkdir -p {quoted(self._root)} && cd {quoted(self._root)} || exit {NO_PLACE}
{ALONE}
{no_links(folder)}
mkdir -p {quoted(f"./{folder}/{PARTIAL}")} && cd {quoted(f"./{folder}")} || exit {NO_PLACE}"""

    def _see_to(self, answer: Answer, what: str) -> None:
        """Raise what the end of a script that writes files means."""
        if answer.status == 0:
            return
        what = f"{self.name}: {what}"
        if "no space left" in answer.errors.lower() or "quota exceeded" in answer.errors.lower():
            raise NoRoom(f"{what}: the device's disk is full; free some room there and run the same command again")
        if answer.status == BUSY:
            raise DeviceBusy(f"{what}: what an earlier push had under way was still arriving; run the command again")
        if answer.status == WRONG:
            raise WrongHash(f"{what}: arrived with another sha256 than was sent, deleted there; push again")
        raise DriverError(f"{what}: can't be written there ({answer.complaint}); see to the folder's rights")

    # One folder's files in another, and folders in each other's places.

    def link(self, source: str, folder: str, names: Sequence[str]) -> list[str]:
        unlinked: list[str] = []
        for batch in _batches(names):
            script = f"""{self._between(source, folder)}
set -- {quoted(*batch)}
n=0
for f do
  d=./$f
  mkdir -p "${{d%/*}}" || exit {NO_PLACE}
  ln -f "$source/$f" "./$f" 2>/dev/null || echo "$n"
  n=$((n+1))
done"""
            said = self._run(script).text.split()
            unlinked += [batch[int(word)] for word in said if word.isdigit() and int(word) < len(batch)]
        return unlinked

    def copy(self, source: str, folder: str, names: Sequence[str]) -> None:
        for batch in _batches(names):
            script = f"""{self._between(source, folder)}
set -- {quoted(*batch)}
for f do
  cp -p "$source/$f" "./$f" || exit {NO_PLACE}
done
for f do
  {synced('"./$f"')}
done
exit 0"""
            self._see_to(self._shell(script, seconds=_HASH_SECONDS), f"{folder}/{batch[0]}")

    def restore(self, folder: str) -> None:
        old = f"{REPLACED}/{folder}"
        self._run(
            f"""cd {quoted(self._root)} 2>/dev/null || exit 0
[ -e ./{REPLACED} ] || exit 0
{restoring([folder])}
rm -rf {quoted(f"./{old}")}
{without_empty(old)}
exit 0""",
            seconds=_HASH_SECONDS,
        )

    def replace(self, folders: Mapping[str, str]) -> None:
        """Put folders (keys) in the places of others (values), which are deleted. Raises DriverError."""
        before, moves, after = [], [], []
        for staged, folder in folders.items():
            here, place, old = (quoted(f"./{one}") for one in (staged, folder, f"{REPLACED}/{folder}"))
            parents = quoted(*(f"./{PurePosixPath(one).parent}" for one in (folder, f"{REPLACED}/{folder}")))
            before += [no_links(staged), no_links(folder), no_links(f"{REPLACED}/{folder}")]
            before += [f"[ -d {here} ] || exit {GONE}", restoring([folder])]
            before += [f"rm -rf {old}", f"mkdir -p {parents} || exit {NO_PLACE}"]
            moves.append(f"if [ -e {place} ]; then mv {place} {old} || exit {NO_PLACE}; fi")
            moves.append(f"mv {here} {place} || {{ mv {old} {place}; exit {NO_PLACE}; }}")
            after += [f"rm -rf {old}", without_empty(staged), without_empty(f"{REPLACED}/{folder}")]
        lines = "\n".join([*before, *moves, synced("."), *after])
        answer = self._shell(f"cd {quoted(self._root)} || exit {GONE}\n{ALONE}\n{lines}\nexit 0", seconds=_HASH_SECONDS)
        if answer.status == GONE:
            raise DriverError(f"{self.name}: another command removed what was staged there; run this one again")
        self._see_to(answer, ", ".join(folders.values()))

    def _between(self, source: str, folder: str) -> str:
        return f"""cd {quoted(self._root)} || exit {NO_PLACE}
{ALONE}
{no_links(source)}
{no_links(folder)}
source=$PWD/{quoted(source)}
mkdir -p {quoted(f"./{folder}")} && cd {quoted(f"./{folder}")} || exit {NO_PLACE}"""

    def read(self, path: str) -> bytes:
        answer = self._shell(f"cd {quoted(self._root)} && cat <{quoted(f'./{path}')}", seconds=None)
        if answer.status:
            raise JobFailed(f"{self.name}: {path} can't be read there ({answer.complaint})")
        return answer.output

    def remove(self, folder: str) -> None:
        ours = (MARK, PUSH_LOCK, SEND_LOCK, BENCH_LOCK)
        patterns = " ".join(f"-e {quoted(f'./{name}')}" for name in ours)
        if folder == ".":
            root = quoted(self._root)
            self._run(f"[ -e {root}/{MARK} ] || exit 0\nrm -rf {root}", seconds=_HASH_SECONDS)
            return
        self._run(
            f"""cd {quoted(self._root)} 2>/dev/null || exit 0
{no_links(folder)}
rm -rf {quoted(f"./{folder}")} || exit {NO_PLACE}
{without_empty(folder)}
n=$(find . ! -name . -print | grep -v -x -F {patterns} | wc -l)
[ "$n" -eq 0 ] && rm -f {quoted(*ours)} && cd / && rmdir {quoted(self._root)} 2>/dev/null
exit 0""",
            seconds=_HASH_SECONDS,
        )

    @contextlib.contextmanager
    def held(self, folder: str) -> Iterator[None]:
        """Hold the right to push on the device; where it has no ``flock`` nothing is held.

        The device lets go by itself half a minute after it last heard of us. Raises DeviceBusy.
        """
        talk = self._start(f"""mkdir -p {quoted(self._root)} && cd {quoted(self._root)} || exit {NO_PLACE}
[ -e {MARK} ] || {{ [ -z "$(ls -A)" ] || {{ echo foreign; exit {NO_PLACE}; }}; : >{MARK} || exit {NO_PLACE}; }}
if command -v flock >/dev/null; then
  exec 9>>{PUSH_LOCK} || exit {NO_PLACE}
  flock -n 9 || {{ sleep 1; flock -n 9; }} || {{ echo busy; exit {BUSY}; }}
  (exec 8>>{SEND_LOCK}; n=0; until flock -n 8; do n=$((n+1)); [ $n -lt {_ARRIVAL_SECONDS} ] || exit 1; sleep 1; done) ||
    {{ echo busy; exit {BUSY}; }}
fi
echo held
command -v timeout >/dev/null || {{ read -r x; exit 0; }}
while x=$(timeout 30 dd bs=1 count=1 2>/dev/null 9>&-) && [ -n "$x" ]; do :; done""")
        stopped = threading.Event()
        beat = threading.Thread(target=_beat, args=(talk, stopped), daemon=True)
        try:
            self._await_held(talk)
            beat.start()
            yield
        finally:
            stopped.set()
            if beat.is_alive():
                beat.join()
            talk.close_input()
            talk.finish(2.0)
            talk.close()

    def _await_held(self, talk: Talk) -> None:
        said, deadline = b"", time.monotonic() + 30
        while b"\n" not in said:
            piece = talk.read()
            if piece == b"":
                break
            if time.monotonic() > deadline:
                raise JobTimeout(f"{self.name}: no answer within 30 s; is it still there?")
            said += piece or b""
        if said.startswith(b"held"):
            return
        if said.startswith(b"foreign"):
            raise DriverError(f"{self.name}: {self._root} holds files that aren't ours; name an empty root for it")
        if said.startswith(b"busy"):
            raise DeviceBusy(f"{self.name}: another push is under way there; wait for it, or half a minute if it died")
        self._run("exit 0")  # says what is wrong with the connection
        raise DriverError(f"{self.name}: {self._root} can't be made there; see to its rights, or name another root")

    def _enter(self, folder: str) -> str:
        place = quoted(f"./{folder}")
        return f"cd {quoted(self._root)} 2>/dev/null || exit 0\n{no_links(folder)}\ncd {place} 2>/dev/null"

    def _run(self, script: str, seconds: float = 60.0) -> Answer:
        answer = self._shell(script, seconds=seconds)
        if answer.status == BUSY:
            raise DeviceBusy(f"{self.name}: what an earlier push had under way isn't done; run the command again")
        if answer.status:
            raise DriverError(f"{self.name}: {self._root}: {answer.complaint}; see to the folder's rights there")
        return answer


def _batches(names: Sequence[str], most_bytes: int = _ARGUMENT_BYTES, most: int | None = None) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and (size + len(quoted(name)) > most_bytes or len(batch) == most):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += len(quoted(name).encode("utf-8", "surrogateescape")) + 3
    if batch:
        yield batch


def _beat(talk: Talk, stopped: threading.Event) -> None:
    while not stopped.wait(_BEAT_SECONDS):
        with contextlib.suppress(OSError):
            talk.send(b".", lambda: None)
