"""``wbvla video hands``: set up the detector of hands and faces, for the gate that tells a wearer's own view from a film of people.

What is looked for is what can be seen: somebody's own hands, which manipulation needs, and faces, which a film from the wearer's eyes shows
seldom and a talk, a play or a cartoon nearly always. People who walk past tell nothing.

The detector is MediaPipe's, whose wheel carries its models. It needs numpy 1 and half a gigabyte, so it lives in an environment of its
own and is asked as a process; nothing else here needs it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tyro

from wbvla_core.checkpoint import write_json
from wbvla_core.console import program
from wbvla_core.errors import WbvlaError

SERVER = Path(__file__).with_name("people_server.py")
READY = "wbvla_hands.json"
# All that the two detectors import, installed without further dependencies: what MediaPipe names beside these (jax, sentencepiece, sounddevice) is
# for other parts of it and twice as large.
PACKAGES = (
    *("mediapipe==0.10.21", "numpy==1.26.4", "opencv-contrib-python==4.11.0.86", "protobuf==4.25.9", "absl-py==2.5.1", "attrs==26.1.0"),
    *("flatbuffers==25.12.19", "matplotlib==3.10.9", "contourpy==1.3.2", "cycler==0.12.1", "fonttools==4.68.0", "kiwisolver==1.5.1"),
    *("packaging==26.4", "pillow==12.3.0", "pyparsing==3.3.3", "python-dateutil==2.9.0.post0", "six==1.17.0"),
)
PYTHONS = ((3, 10), (3, 12))  # for which there is a wheel of that MediaPipe
PICTURES = (4, 10)  # fewest and most pictures of a clip that are looked at
PEOPLE, NO_HANDS = "people", "no_hands"


def default_folder() -> Path:
    """Where the environment lies if nothing else is said: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wbvla" / "hands"


@dataclass(frozen=True)
class HandsConfig:
    """Options of ``wbvla video hands``.

    Attributes:
        environment: folder of the detector's environment, about 460 MB; default: wbvla/hands in the user's cache.
        python: interpreter for it, 3.10 to 3.12; default: the one that runs wbvla.
    """

    environment: Path | None = None
    python: Path | None = None


@dataclass(frozen=True)
class Limits:
    """Thresholds of the gate. Ours, set on the four films of Debian's ``opencv-doc``: too few to trust them far.

    Attributes:
        face_height: faces smaller than this share of the picture's height are passers-by.
        face_share: share of a clip's pictures with such a face above which it is a film of people.
        hand_share: share of a manipulation clip's pictures with a hand below which it is none.
        working_share: share of the pictures with a hand above which what moves before a plain wall is that hand.
    """

    face_height: float = 0.1
    face_share: float = 0.5
    hand_share: float = 0.15
    working_share: float = 0.5


@dataclass(frozen=True)
class Seen:
    """What was found in a clip: of ``looked`` pictures how many show a hand, and how many a face that is not small."""

    looked: int
    hands: int
    faces: int

    def verdict(self, domain: str, limits: Limits) -> tuple[str, float, float]:
        """Reason to leave a clip out ("" for none), what was measured and its limit."""
        if self.looked == 0:
            return "", 0.0, 0.0
        faces, hands = self.faces / self.looked, self.hands / self.looked
        if faces > limits.face_share:
            return PEOPLE, faces, limits.face_share
        if domain == "mani" and hands < limits.hand_share:
            return NO_HANDS, hands, limits.hand_share
        return "", 0.0, 0.0


class Watcher:
    """The detector's process. One per process of the ingest, started when it is first asked."""

    def __init__(self, folder: Path) -> None:
        if not (folder / READY).is_file():
            raise WbvlaError(f"no detector of hands in {folder}; set it up once with: wbvla video hands")
        self.folder = folder
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {"GLOG_minloglevel": "2"}
        self._process = subprocess.Popen(
            [str(folder / "bin" / "python"), str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise, env=environment
        )
        atexit.register(self.close)
        self.version = self._answer()["mediapipe"]

    def look(self, pictures: list[np.ndarray], limits: Limits) -> Seen:
        """Ask about pictures [H, W, 3] uint8 RGB of one clip.

        Raises:
            WbvlaError: the detector ended.
        """
        if not pictures:
            return Seen(0, 0, 0)
        height, width = pictures[0].shape[:2]
        head = json.dumps({"frames": len(pictures), "height": height, "width": width}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # the answer says it
            self._process.stdin.write(head.encode() + b"".join(np.ascontiguousarray(picture).tobytes() for picture in pictures))
            self._process.stdin.flush()
        found = self._answer()
        faces = sum(any(tall >= limits.face_height for _, tall in seen["faces"]) for seen in found)
        return Seen(len(pictures), sum(bool(seen["hands"]) for seen in found), faces)

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._noise.seek(0)
            said = self._noise.read().decode(errors="replace").strip().splitlines()
            last = said[-1] if said else "it said nothing"
            raise WbvlaError(
                f"the detector of hands in {self.folder} ended with status {status}: {last}; set it up again: wbvla video hands, or go without --hands"
            )
        return json.loads(line)


@lru_cache(maxsize=1)
def watcher(folder: Path) -> Watcher:
    """The detector of this process: started once."""
    return Watcher(folder)


def chosen(length: int) -> list[int]:
    """Which of ``length`` pictures of a clip are looked at: evenly spread, the first and the last among them."""
    count = min(max(PICTURES[0], length // 3), PICTURES[1], length)
    return sorted({int(i) for i in np.linspace(0, length - 1, count).round()}) if length else []


def set_up(config: HandsConfig, log=print) -> int:
    """Make the environment, install into it, and ask it about one picture; what is there already is used.

    Raises:
        WbvlaError: an interpreter for which there is no MediaPipe, an index that cannot be reached, a disk that is full.
    """
    folder = Path(os.path.abspath(config.environment or default_folder()))
    if (folder / READY).is_file():
        try:
            log(f"video hands: MediaPipe {Watcher(folder).version} answers in {folder}")
            return 0
        except WbvlaError as error:
            log(f"video hands: {error}; it is made again")
    (folder / READY).unlink(missing_ok=True)
    python = Path(config.python or sys.executable)
    asked = subprocess.run([str(python), "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False)
    version = tuple(int(part) for part in asked.stdout.split()) if asked.returncode == 0 else ()
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        what = f"is Python {version[0]}.{version[1]}" if version else "does not run"
        raise WbvlaError(
            f"the detector of hands needs Python {PYTHONS[0][0]}.{PYTHONS[0][1]} to {PYTHONS[1][0]}.{PYTHONS[1][1]}, {python} {what}; give --python"
        )
    log(f"video hands: making {folder} (about 460 MB)")
    try:
        if config.python is None:
            venv.create(folder, clear=True, with_pip=True)
        else:
            subprocess.run([str(python), "-m", "venv", "--clear", str(folder)], check=True, capture_output=True, text=True)
        subprocess.run(
            [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", *PACKAGES],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = [line for line in ((error.stderr or "") + (error.stdout or "")).splitlines() if line.strip()] or [str(error)]
        errors = [line for line in said if line.startswith("ERROR")]
        raise WbvlaError(f"the detector of hands could not be set up in {folder}: {(errors or said)[-1]}") from None
    except OSError as error:
        raise WbvlaError(f"the detector of hands could not be set up in {folder}: {error.strerror}") from None
    write_json(folder / READY, {"packages": list(PACKAGES)})
    log(f"video hands: MediaPipe {Watcher(folder).version} answers; use it with: wbvla video ingest FOLDER --hands")
    return 0


def main(argv: list[str] | None = None) -> int:
    return set_up(tyro.cli(HandsConfig, args=argv, description=__doc__), log=lambda text: print(text, flush=True))


if __name__ == "__main__":
    program(main)
