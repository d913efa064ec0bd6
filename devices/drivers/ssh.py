"""ssh: a Linux board, by the OpenSSH program: an agent or a key, host keys checked, no password anywhere.

One connection (ControlMaster) carries every command. Its far end waits for our stdin, so that it ends with this
process however that ends. Source: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field, field_validator

from edgestill.devices.contract import DeviceError, DeviceGone, DeviceSettings, DeviceUnreachable, DriverError
from edgestill.devices.registry import devices_file
from edgestill.devices.shell_device import ShellDevice, ShellSettings
from edgestill.devices.shell_words import quoted
from edgestill.devices.talk import Talk
from edgestill.storage import write_text

_READY: Final = b"edgestill-ready\n"
_SOCKETS: Final = "edgestill-ssh-"
_CONNECT_SECONDS: Final = 20.0
_WORD: Final = re.compile(r"[^\s\x00-\x1f-][^\s\x00-\x1f]*")


class SshSettings(ShellSettings):
    """The keys of an ssh device's table."""

    host: str
    """A name, an address or an alias of the user's ssh configuration."""
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str | None = None
    identity: Path | None = None
    """A private key's file; None is the agent and ssh's own choice."""
    jump: tuple[str, ...] = ()
    """Hosts on the way, ``user@host:port`` each, the nearest first."""
    known_hosts: Path | None = None
    """Another file of host keys than ssh's own and the one beside the file of devices."""

    @field_validator("host", "user")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not _WORD.fullmatch(value):
            raise ValueError("no spaces, and no - in front")
        return value

    @field_validator("jump")
    @classmethod
    def _plain_jumps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if not _WORD.fullmatch(one):
                raise ValueError(f"{one!r}: write user@host:port, no spaces")
        return value


class Ssh(ShellDevice):
    """A board that an SSH server makes reachable."""

    kind: ClassVar[str] = "ssh"
    summary: ClassVar[str] = "a Linux board over OpenSSH"
    settings_type: ClassVar[type[DeviceSettings]] = SshSettings

    def __init__(self, name: str, settings: SshSettings) -> None:
        super().__init__(name, settings)
        self._ssh = settings
        self._folder: Path | None = None
        self._master: Talk | None = None

    def close(self) -> None:
        super().close()
        self._hang_up()

    def _transport(self, script: str) -> list[str]:
        # The user's own shell reads this line; whichever that is, sh runs the script.
        return [*self._command(), *place_of(self._ssh), f"exec sh -c {quoted(script)}"]

    def _environment(self) -> Mapping[str, str] | None:
        return environment()

    def _command(self) -> list[str]:
        """Return ssh with every option, up to the host."""
        return ["ssh", "-T", *options_of(self._ssh, _hosts_files(self._ssh)), "-S", str(self._socket)]

    @property
    def _socket(self) -> Path:
        if self._folder is None:
            sweep(Path(tempfile.gettempdir()))
            # For this user alone, and its path is short.
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_SOCKETS}{os.getpid()}-"))
        return self._folder / "s"

    def _connect(self) -> None:
        if self._master is not None:
            if self._master.finish(0) is None:
                return
            self._hang_up()
        if shutil.which("ssh") is None:
            raise DeviceUnreachable(f"{self.name}: no ssh program here; install openssh-client")
        line = f"exec sh -c {quoted('echo edgestill-ready; exec cat >/dev/null')}"
        command = [*self._command(), "-M", "-o", "ControlPersist=no", *place_of(self._ssh), line]
        talk = Talk(command, self._environment())
        said = b""
        deadline = time.monotonic() + _CONNECT_SECONDS
        while _READY not in said:
            piece = talk.read()
            if piece == b"":
                talk.finish(5.0)
            elif time.monotonic() < deadline:
                said += piece or b""
                continue
            errors = talk.errors
            talk.close()
            self._hang_up()
            raise refused(self.name, self._ssh, errors)
        self._master = talk

    def _hang_up(self) -> None:
        if self._master is not None:
            self._master.close_input()
            self._master.finish(2.0)
            self._master.close()
            self._master = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _lost(self, status: int | None, errors: str) -> DriverError:
        said = [line for line in errors.splitlines() if line.strip()]
        why = f" ({said[-1].strip()})" if said else ""
        return DeviceGone(f"{self.name}: the connection to {self._ssh.host} was lost{why}; run the command again")


def sweep(folder: Path) -> None:
    """Delete the folders of sockets whose maker was killed."""
    for left in folder.glob(f"{_SOCKETS}*-*"):
        maker = left.name.removeprefix(_SOCKETS).partition("-")[0]
        with contextlib.suppress(OSError):
            if maker.isdigit() and left.stat().st_uid == os.getuid() and not _runs(int(maker)):
                shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def environment() -> dict[str, str]:
    """Return ssh's environment: no window asks for anything."""
    return {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}


def place_of(settings: SshSettings) -> list[str]:
    """Return ssh's words for where to."""
    port = [] if settings.port is None else ["-p", str(settings.port)]
    user = [] if settings.user is None else ["-l", settings.user]
    return [*port, *user, "--", settings.host]


def options_of(settings: SshSettings, hosts_files: list[Path], strict: str = "yes") -> list[str]:
    """Return ssh's options: nobody is asked, host keys are checked, and a dead line is noticed within 15 s."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": strict,
        "UserKnownHostsFile": " ".join(_escaped(path) for path in hosts_files),
        "UpdateHostKeys": "no",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
        "RemoteCommand": "none",
        "RequestTTY": "no",
        "PermitLocalCommand": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ControlMaster": "no",
    }
    if settings.identity is not None:
        options |= {"IdentityFile": _escaped(settings.identity.expanduser()), "IdentitiesOnly": "yes"}
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return [*words, *_through(words, settings.jump)]


def _through(options: list[str], jump: tuple[str, ...]) -> list[str]:
    """Return the option that goes by way of other hosts, with the same checks as the last one: ssh's -J has its own."""
    if not jump:
        return []
    place, _, port = jump[-1].partition(":")
    ported = ["-p", port] if port.isdigit() else []
    before = _through(options, jump[:-1])
    # ssh replaces % in it, and the user's shell reads it.
    words = ["ssh", "-T", *options, *before, *ported]
    line = f"{quoted(*words).replace('%', '%%')} -W '[%h]:%p' {quoted('--', place).replace('%', '%%')}"
    return ["-o", f"ProxyCommand={line}"]


def _hosts_files(settings: SshSettings) -> list[Path]:
    if settings.known_hosts is not None:
        return [settings.known_hosts.expanduser()]
    return [accepted_hosts_file(), Path("~/.ssh/known_hosts").expanduser()]


def accepted_hosts_file() -> Path:
    """Return the file of the host keys that were accepted by ``devices add --accept-host-key``."""
    return devices_file().with_name("known_hosts")


def _escaped(path: Path) -> str:
    """Return a path as a word of ssh_config."""
    text = str(path.absolute()).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"'


def refused(name: str, settings: SshSettings, errors: str) -> DeviceUnreachable:
    """Return the one-line error for a connection that ssh couldn't make, from what it said."""
    host = settings.host if settings.port is None else f"{settings.host}:{settings.port}"
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    text = errors.lower()
    if "host identification has changed" in text:
        found = re.search(r"SHA256:\S+", errors)
        key = f" ({found[0]})" if found else ""
        return DeviceUnreachable(
            f"{name}: the host key of {host} has changed{key}: someone is in between, or the board was set up anew; "
            "if you know why, run edgestill devices add with --replace --accept-host-key"
        )
    if "host key verification failed" in text or "host key is known" in text:
        return DeviceUnreachable(
            f"{name}: the host key of {host} is not known yet; edgestill devices add with --accept-host-key shows its "
            "fingerprint and keeps it, or connect once by ssh"
        )
    if "permission denied" in text or "too many authentication failures" in text:
        asked = "the agent's keys" if settings.identity is None else f"the key {settings.identity}"
        return DeviceUnreachable(
            f"{name}: {host} accepts none of {asked}; ssh-copy-id brings one there, identity = names another"
            if settings.identity is None
            else f"{name}: {host} doesn't accept {asked}; ssh-copy-id -i brings it there, identity = names another"
        )
    why = said[-1] if said else f"no answer within {_CONNECT_SECONDS:g} s"
    return DeviceUnreachable(f"{name}: {host} can't be reached ({why}); is it on, and are host and port right?")


def host_keys(name: str, settings: SshSettings) -> list[str]:
    """Ask a host for its key and return known_hosts' lines for it, unchecked: for a person to look at.

    Raises DeviceUnreachable.
    """
    with tempfile.TemporaryDirectory(prefix="edgestill-") as folder:
        found = Path(folder) / "known_hosts"
        options = options_of(settings, [found], strict="accept-new")
        talk = Talk(["ssh", "-T", *options, "-o", "HashKnownHosts=no", *place_of(settings), "exit"], environment())
        talk.close_input()
        talk.finish(_CONNECT_SECONDS)
        errors = talk.errors
        talk.close()
        lines = found.read_text(encoding="utf-8").splitlines() if found.is_file() else []
    if not lines:
        raise refused(name, settings, errors)
    return lines


def fingerprint(line: str) -> str:
    """Return a known_hosts line's kind of key and its SHA-256 fingerprint as ssh shows them."""
    words = line.split()
    if len(words) < 3:
        raise DeviceError(f"{line!r} is no line of a known_hosts file")
    digest = hashlib.sha256(base64.b64decode(words[2])).digest()
    return f"{words[1]} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def accept_host_keys(lines: list[str], settings: SshSettings) -> Path:
    """Keep a host's keys, in place of those that were kept for it; returns their file."""
    path = settings.known_hosts.expanduser() if settings.known_hosts is not None else accepted_hosts_file()
    hosts = {line.split()[0] for line in lines}
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in before if line.split()[:1] and line.split()[0] not in hosts]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join([*kept, *lines]) + "\n")
    return path
