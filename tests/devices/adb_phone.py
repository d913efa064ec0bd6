"""The phone behind the ADB device: a folder, the few programs that Android has, and an invented machine.

Commands run by mksh, which is Android's shell (BusyBox's where there is none), with a PATH that holds only tools that
Android's toybox has, as BusyBox's. A path below ``/data/local/tmp`` in a command means the phone's folder, and the
cores that a command sees in ``/sys`` are the phone's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

# What toybox has on Android 8, as far as BusyBox has it too. No awk, no tac, no nohup's relatives.
TOOLS = """basename base64 cat chgrp chmod chown cksum cmp comm cp cut date dd df dirname du echo env expand expr
    fallocate false find fold free getopt grep egrep fgrep gunzip gzip head hostname id ionice kill killall ls
    lsmod md5sum mkdir mkfifo mknod mktemp more mount mv nice nl nohup od paste patch pgrep pidof pkill printenv
    printf ps pwd readlink realpath renice rev rm rmdir sed seq setsid sha1sum sha256sum sleep sort split stat
    strings sync tail tar taskset tee test time touch tr true truncate tty uname uniq unlink uptime usleep
    wc which whoami xargs xxd yes zcat [
"""

TEMPORARY = "/data/local/tmp"
SDK = "ro.build.version.sdk"
CPUS = "/sys/devices/system/cpu"

ENV = shutil.which("env") or "env"  # coreutils'

# toybox's flock takes open files only: no path, no command, no time limit.
FLOCK = """#!{sh}
for given in "$@"; do
    case $given in -[sxun]*) ;; *[!0-9]*) echo "flock: bad '$given'" >&2; exit 1 ;; esac
done
exec {flock} "$@"
"""

# Android's rules let nobody but the system make hard links below /data/local/tmp.
LN = """#!{sh}
case $1 in -*s*) exec {ln} ln "$@" ;; esac
echo "ln: cannot create hard link: Permission denied" >&2
exit 1
"""

# toybox's timeout waits beside its command, which is a process of its own; newer ones begin a group for the two.
TIMEOUT = """#!{python} -ISs
import os, signal, sys
words, number = sys.argv[1:], signal.SIGTERM
while words[0] == "-s":
    number, words = getattr(signal, "SIG" + words[1]), words[2:]
if {group}:
    os.setpgid(0, 0)
child = os.fork()
if child == 0:
    try:
        os.execvp(words[1], words[1:])
    except OSError as error:
        sys.stderr.write(f"timeout: exec {{words[1]}}: {{error.strerror}}\\n")
        os._exit(126)
late = []
def kill(*_):
    late.append(137 if number == 9 else 124)
    os.kill(child, number)
signal.signal(signal.SIGALRM, kill)
signal.setitimer(signal.ITIMER_REAL, float(words[0]))
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(late[0] if late else status if status >= 0 else 128 - status)
"""

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Max charging current: 500000
  status: {status}
  health: 2
  present: true
  level: {level}
  scale: 100
  voltage: 4123
  temperature: {temperature}
  technology: Li-ion
"""

THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
Thermal Status: {thermal}
Cached temperatures:
\tTemperature{{mValue=31.2, mType=2, mName=battery, mStatus=0}}
\tTemperature{{mValue=38.4, mType=3, mName=skin, mStatus={thermal}}}
HAL Ready: true
"""


@dataclass
class Phone:
    """One invented phone whose storage is ``folder``; change its fields, then ``write`` again."""

    folder: Path  # stands for /data/local/tmp
    system: Path  # its programs and faked files
    properties: dict[str, str] = field(
        default_factory=lambda: {
            "ro.product.model": "Edge Phone 7",
            "ro.product.manufacturer": "Still",
            "ro.product.device": "still7",
            "ro.product.cpu.abi": "x86_64",
            "ro.product.cpu.abilist": "x86_64",
            "ro.build.version.release": "13",
            SDK: "33",
            "ro.soc.model": "SM0000",
        }
    )
    max_khz: tuple[int, ...] = (1800000, 2841600)  # of each core
    level: int = 83
    temperature: int = 271  # tenths of a degree
    charging: bool = False
    thermal: int | None = 0  # None: dumpsys knows no such service (before Android 10)

    def __post_init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def shell(self) -> Path:
        return self.system / "bin" / "sh"

    def write(self) -> None:
        """(Re)write the phone's programs and cores from its fields."""
        programs = self.system / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        busybox = shutil.which("busybox")
        assert busybox is not None, "needs BusyBox (Debian: busybox-static)"
        known = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for tool in set(TOOLS.split()).intersection(known):
            if not (programs / tool).is_symlink():
                (programs / tool).symlink_to(busybox)
        if not self.shell.is_symlink():
            self.shell.symlink_to(shutil.which("mksh") or busybox)
        cases = " ".join(f"{name}) echo '{value}' ;;" for name, value in self.properties.items())
        self._program("getprop", f'#!{self.shell}\ncase $1 in {cases} *) echo "" ;; esac\n')
        battery = BATTERY.format(
            usb=str(self.charging).lower(),
            status=2 if self.charging else 3,
            level=self.level,
            temperature=self.temperature,
        )
        thermal = "Can't find service: thermalservice\n"
        if self.thermal is not None:
            thermal = THERMAL.format(thermal=self.thermal)
        here = f"battery) cat <<'END'\n{battery}END\n;; thermalservice) cat <<'END'\n{thermal}END\n;;"
        self._program("dumpsys", f'#!{self.shell}\ncase $1 in {here} *) echo "Can\'t find service: $1" ;; esac\n')
        flock = shutil.which("flock")
        assert flock is not None, "needs flock (Debian: util-linux)"
        self._program("flock", FLOCK.format(sh=self.shell, flock=flock))
        self._program("ln", LN.format(sh=self.shell, ln=busybox))
        self._program("timeout", TIMEOUT.format(python=sys.executable, group=int(self.properties[SDK]) >= 31))
        shutil.rmtree(self.system / "cpu", ignore_errors=True)
        for number, khz in enumerate(self.max_khz):
            place = self.system / "cpu" / f"cpu{number}" / "cpufreq"
            place.mkdir(parents=True)
            (place / "cpuinfo_max_freq").write_text(f"{khz}\n")

    def real_path(self, path: str) -> Path:
        """Where a path of the phone is on this machine."""
        return Path(self._mapped(path))

    def start(self, command: str, stderr: int) -> subprocess.Popen[bytes]:
        """Start ``command`` as the phone's daemon does: by the shell, in a session of its own.

        A hang-up ends it there even where the tests run under nohup, whose children ignore it.
        """
        process = subprocess.Popen(
            [ENV, "--default-signal=HUP", self.shell, "-c", self._mapped(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=self.folder,
            env={"PATH": str(self.shell.parent), "HOME": "/", "TMPDIR": TEMPORARY, "ANDROID_DATA": "/data"},
            start_new_session=True,
            bufsize=0,
        )
        self._started = [one for one in self._started if one.poll() is None] + [process]
        return process

    def is_quiet(self) -> bool:
        """Whether every command that was started has ended."""
        return all(one.poll() is not None for one in self._started)

    def _program(self, name: str, text: str) -> None:
        path = self.shell.parent / name
        path.write_text(text)
        path.chmod(0o755)

    def _mapped(self, text: str) -> str:
        return text.replace(TEMPORARY, os.fspath(self.folder)).replace(CPUS, os.fspath(self.system / "cpu"))
