"""The command ``wbvla``: one table of verbs, each carried out by a module that is imported only when its verb is called.

A verb's module has ``main(argv) -> int`` and parses ``argv`` itself (tyro on a frozen dataclass), so that ``wbvla --help``
needs neither torch nor ROS and answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from wbvla_core.console import REFUSED, run
from wbvla_core.errors import WbvlaError


@dataclass(frozen=True)
class Verb:
    """A verb of the command.

    Attributes:
        words: what the operator types, e.g. ("eval", "walk-to").
        module: module with ``main(argv) -> int``.
        help: one line, no full stop.
        extra: which ``pip install 'wbvla[...]'`` brings what the module needs.
    """

    words: tuple[str, ...]
    module: str
    help: str
    extra: str

    @property
    def name(self) -> str:
        return " ".join(self.words)


VERBS = (
    Verb(("demo",), "wbvla_cli.demo_command", "the X2 carries out a sentence in simulation; writes video, bag and report", "sim,vla"),
    Verb(("run",), "wbvla_cli.runner", "start nodes of config/nodes.yaml without ROS launch, and take them down again", "robot"),
    Verb(("stop",), "wbvla_cli.stop", "e-stop of a stack that runs: every joint damps, latched, until `wbvla rearm`", "robot"),
    Verb(("rearm",), "wbvla_cli.rearm", "leave a latched damping: the robot stands again, and control must be taken anew", "robot"),
    Verb(("serve",), "wbvla_cli.serve", "a policy on a GPU machine, asked over the network by the 10 Hz node on the robot", "robot,vla"),
    Verb(("teleop",), "wbvla_cli.teleop", "keyboard, gamepad or script on the robot or the simulator, with or without recording", "sim"),
    Verb(("record",), "wbvla_cli.record_command", "record topics to MCAP: one bag or a session of episodes; audit, mend", "sim"),
    Verb(("dataset",), "wbvla_cli.dataset", "recordings to LeRobot v3: convert, check, info, merge, split, filter", "sim,train"),
    Verb(("view",), "wbvla_cli.view_command", "look at a recording or a data set: HTML summary, or rerun", "sim,train,view"),
    Verb(("doctor",), "wbvla_cli.doctor", "what is installed, which ROS, which GL, which checkpoints, what is missing", "robot"),
    Verb(("inspect",), "wbvla_cli.inspect", "print a checkpoint's manifest and lineage", "robot"),
    Verb(("tasks",), "wbvla_cli.tasks", "the sentences that a policy carries out", "robot"),
    Verb(("eval", "walk-to"), "wbvla_eval.walk_to", "walk-to-box trials on unseen seeds: success, falls, Wilson intervals", "sim,vla"),
    Verb(("eval", "instructions"), "wbvla_eval.instructions", "success of every instruction on unseen seeds", "sim,vla"),
    Verb(("eval", "lmo"), "wbvla_eval.lmo.options", "benchmark of a leg controller: accuracy, stability, arrival, switching, stress, squats, cart", "sim"),
    Verb(("video", "ingest"), "wbvla_train.data.film.ingest_command", "films from any camera: gated, sorted, cut into clips for training", "train"),
    Verb(("video", "review"), "wbvla_train.data.film.review_command", "contact sheet of ingested films for the browser; take over its decisions", "train"),
    Verb(("video", "info"), "wbvla_train.data.film.info_command", "what a film is and what the gates would say of it", "train"),
    Verb(("video", "hands"), "wbvla_train.data.film.people", "set up the detector of hands and faces that `video ingest --hands` asks", "train"),
    Verb(("data", "video"), "wbvla_train.data.video_command", "render action-free egocentric video", "train"),
    Verb(("data", "demos"), "wbvla_train.data.demos_command", "record demonstrations by the scripted teleoperator", "train"),
    Verb(("import", "prismatic"), "wbvla_cli.import_prismatic", "check published Prismatic or OpenVLA weights; write them as a checkpoint", "train"),
    Verb(("import", "image-text"), "wbvla_cli.import_image_text", "check a published SmolVLM, Idefics3, InternVL or LLaVA as a backbone; write it", "train"),
    Verb(("train", "lmo"), "wbvla_train.lmo.command", "leg policy: PPO in batched MuJoCo", "train"),
    Verb(("train", "lam"), "wbvla_train.lam.command", "latent action model from video", "train"),
    Verb(("train", "vla"), "wbvla_train.vla.command", "vision-language model that predicts latent actions", "train"),
    Verb(("train", "decoder"), "wbvla_train.decoder.command", "decoder from latent actions to robot commands", "train"),
    Verb(("train", "plan"), "wbvla_train.plan", "what a training preset takes of each GPU's memory", "train"),
    Verb(("label",), "wbvla_train.lam.label_command", "label clips and data sets with the codes of the latent action models", "train"),
    Verb(("annotate",), "wbvla_train.data.annotate_command", "give action-free clips their sentences: in a terminal, from templates, from a table", "train"),
)
BY_WORDS = {verb.words: verb for verb in VERBS}
GROUPS = tuple(dict.fromkeys(verb.words[0] for verb in VERBS if len(verb.words) > 1))

INTRO = """usage: wbvla VERB [options]      (wbvla VERB --help for the options of one verb)

Whole-body vision-language-action control of a humanoid on ROS 2."""


def usage(group: str | None = None) -> str:
    """The help text: all verbs, or those of one group."""
    verbs = [verb for verb in VERBS if group is None or verb.words[0] == group]
    width = max(len(verb.name) for verb in verbs)
    lines = [f"  wbvla {verb.name:<{width}}  {verb.help}" for verb in verbs]
    return "\n".join((INTRO if group is None else f"usage: wbvla {group} VERB [options]", "", *lines))


def find_verb(argv: Sequence[str]) -> tuple[Verb, list[str]] | None:
    """The verb that ``argv`` begins with and what is left for it, or None."""
    for count in (2, 1):
        verb = BY_WORDS.get(tuple(argv[:count]))
        if verb is not None:
            return verb, list(argv[count:])
    return None


def suggestion(argv: Sequence[str]) -> str:
    """A sentence that names the nearest verbs to what was typed."""
    typed = " ".join(argv[:2]) if argv[0] in GROUPS else argv[0]
    names = [verb.name for verb in VERBS] + list(GROUPS)
    near = difflib.get_close_matches(typed, names, n=3, cutoff=0.5) or difflib.get_close_matches(" ".join(argv[:2]), names, n=3, cutoff=0.5)
    text = f"wbvla: there is no verb {typed!r}."
    return f"{text} Did you mean {' or '.join(repr(name) for name in near)}?" if near else f"{text} `wbvla --help` lists all."


def explain_import(error: ModuleNotFoundError, verb: Verb) -> str | None:
    """What to install when a verb's module could not be imported, or None where the missing module is our own (a bug, not a set-up problem)."""
    missing = (error.name or "").split(".")[0]
    if missing in ("rclpy", "wbvla_msgs"):
        return f"`wbvla {verb.name}` needs ROS 2, but {missing} does not import. Run `make setup`, or source ROS 2 and the workspace that holds wbvla_msgs."
    if missing.startswith("wbvla") or not missing:
        return None
    return f"`wbvla {verb.name}` needs {missing}, which is not installed. Run `make setup`, or `pip install 'wbvla[{verb.extra}]' -c requirements/pins.txt`."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. Refusals are one sentence on stderr, never a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    found = find_verb(argv)
    if found is None:
        return run("wbvla", lambda: answer(argv))
    verb, rest = found
    return run(f"wbvla {verb.name}", lambda: call(verb, rest))


def answer(argv: Sequence[str]) -> int:
    """Help, version, or what was meant by words that are no verb."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
    elif argv[0] == "--version":
        print(_version())
    elif argv[0] in GROUPS and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print(usage(argv[0]))
    else:
        print(suggestion(argv), file=sys.stderr)
        return REFUSED
    return 0


NOT_TO_SHADOW = ("numpy", "yaml", "tyro", "torch", "mujoco", "PIL", "av", "cv2")


def require_no_shadows() -> None:
    """Raise WbvlaError where a folder of PYTHONPATH holds a module of the name of one that we need and that is installed, too."""
    own = Path(__file__).resolve().parents[1]
    folders = [folder for folder in map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))) if folder.is_dir() and folder.resolve() != own]
    if not folders:
        return
    others = [entry for entry in sys.path if entry and not any(Path(entry) == folder for folder in folders)]
    for folder, name in itertools.product(folders, NOT_TO_SHADOW):
        found = PathFinder.find_spec(name, [str(folder)])
        if found is not None and found.origin and PathFinder.find_spec(name, others) is not None:
            raise WbvlaError(f"PYTHONPATH holds {folder}, whose {name} would be imported in place of the one that is installed; run: unset PYTHONPATH")


def call(verb: Verb, rest: list[str]) -> int:
    """Import a verb's module and hand it the words after the verb; 3 where a package that it needs is missing."""
    require_no_shadows()
    try:
        module = importlib.import_module(verb.module)
        # tyro takes the program's name from here, so that a verb's help shows how it was called
        sys.argv = [f"wbvla {verb.name}", *rest]
        return int(module.main(rest) or 0)
    except ModuleNotFoundError as error:
        text = explain_import(error, verb)
        if text is None:
            raise
        print(f"wbvla: {text}", file=sys.stderr)
        return 3


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"wbvla {version('wbvla')}"
    except PackageNotFoundError:
        return "wbvla (not installed)"


if __name__ == "__main__":
    sys.exit(main())
