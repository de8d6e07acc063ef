"""The command `wbvla`: help without heavy imports, refusals that name the way out, inspect and doctor."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wbvla_cli import doctor, inspect, main
from wbvla_core.checkpoint import find_checkpoint, save_manifest
from wbvla_core.errors import CommandError, ErrorCode
from wbvla_core.robot import load_robot

ROOT = Path(__file__).resolve().parents[2]


def write_checkpoint(root: Path, kind: str, name: str, robot=None, parents=None):
    directory = root / kind / name
    directory.mkdir(parents=True)
    (directory / "weights.bin").write_bytes(b"x" * 2_500_000)
    return save_manifest(
        directory,
        kind,
        name,
        robot,
        inputs={"image": {"dtype": "uint8", "shape": [96, 96, 3], "unit": "RGB"}},
        outputs={"codes": {"dtype": "int64", "shape": [4]}},
        rate_hz=10.0,
        files=["weights.bin"],
        parents=parents or {},
        extra={"codebook_size": 16},
    )


def test_help_lists_every_verb_once(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in main.VERBS:
        assert text.count(f"wbvla {verb.name} ") == 1, verb.name


def test_help_answers_without_loading_heavy_packages():
    code = "import sys, wbvla_cli.main as m; m.main(['--help']); print(*sorted({'torch','rclpy','mujoco','tyro','numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "", f"loaded: {done.stdout.splitlines()[-1]}"


HEAVY = ("torch", "mujoco", "rclpy", "transformers", "scipy", "av", "cv2", "pyarrow", "rosbags", "onnxruntime", "stable_baselines3", "peft", "accelerate")
ASK_ALL = """
import contextlib, io, sys
from wbvla_cli import main
heavy = sys.argv[1].split(",")
for verb in main.VERBS:
    words = [*verb.words, *({"train lam": ["loco"], "train vla": ["tiny"], "dataset": ["check"]}.get(verb.name, []))]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main.main([*words, "--help"])
    assert "usage:" in said.getvalue(), verb.name
    loaded = sorted(set(heavy) & set(sys.modules))
    assert not loaded, f"`wbvla {' '.join(words)} --help` loads {', '.join(loaded)}"
"""


def test_help_of_every_verb_answers_without_loading_what_its_work_needs():
    """Torch alone takes seconds; options are parsed before it is imported, so that help and a mistyped option are answered at once."""
    command = [sys.executable, "-c", ASK_ALL, ",".join(HEAVY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_a_group_alone_lists_its_verbs_only(capsys):
    assert main.main(["train"]) == 0
    text = capsys.readouterr().out
    assert "wbvla train lmo" in text and "wbvla demo" not in text


@pytest.mark.parametrize(("typed", "meant"), [("doktor", "'doctor'"), ("inspct", "'inspect'"), ("evil", "'eval'")])
def test_an_unknown_verb_is_refused_with_the_nearest_one(capsys, typed, meant):
    assert main.main([typed]) == 2
    assert f"there is no verb {typed!r}. Did you mean {meant}" in capsys.readouterr().err


def test_an_unknown_verb_of_a_group_is_refused_with_the_nearest_one(capsys):
    assert main.main(["eval", "walkto"]) == 2
    assert "'eval walk-to'" in capsys.readouterr().err


def test_a_word_like_no_verb_points_to_the_help(capsys):
    assert main.main(["xyzzy"]) == 2
    assert "`wbvla --help` lists all" in capsys.readouterr().err


def test_options_after_the_verb_reach_it_untouched():
    verb, rest = main.find_verb(["eval", "walk-to", "--trials", "50"])
    assert verb.name == "eval walk-to" and rest == ["--trials", "50"]


def test_a_missing_package_is_explained_and_a_missing_room_of_our_own_is_not():
    verb = main.BY_WORDS[("train", "lmo")]
    assert "pip install 'wbvla[train]'" in main.explain_import(ModuleNotFoundError("x", name="stable_baselines3.ppo"), verb)
    assert "source ROS 2" in main.explain_import(ModuleNotFoundError("x", name="rclpy"), verb)
    assert main.explain_import(ModuleNotFoundError("x", name="wbvla_train.lmo.nowhere"), verb) is None


def test_a_refusal_is_one_sentence_with_its_code_and_no_traceback(capsys, monkeypatch):
    def refuse(argv):
        raise CommandError("flags must be -1, 0 or 1, got 3", ErrorCode.COMMAND_FLAG_RANGE)

    monkeypatch.setattr(inspect, "main", refuse)
    assert main.main(["inspect", "x"]) == 2
    text = capsys.readouterr().err
    assert text == "wbvla inspect: flags must be -1, 0 or 1, got 3 [COMMAND_FLAG_RANGE 400]\n"


# Command line -> what its one sentence says. Options stand before the work: nothing is read or written, and no torch is loaded for most of them.
WRONG = {
    "demo --seed -1": "a seed of at least 0, got -1",
    "demo --robot nosuch": "no robot 'nosuch'",
    "demo --domain 500": "from 0 to 232, got 500",
    "demo --timeout-s nan": "timeout_s must lie in (0, 600], got nan",
    "demo --policy nosuch": "no checkpoint at",
    "demo --lmo vla/tiny": "holds a checkpoint of kind 'vla', but 'lmo' is needed",
    "run --set vla.policy": "--set wants node.parameter=value, got 'vla.policy'",
    "run --set nope.x=3": "parameters are given for ['nope'], but this stack has",
    "run --set sim.seed=[1": "--set sim.seed: '[1' is no value that YAML can read",
    "run --domain 500": "from 0 to 232, got 500",
    "run --domain -1": "from 0 to 232, got -1",
    "serve --threads 0": "--threads of at least 1, got 0",
    "serve --policy nosuch": "no checkpoint at",
    "record x --duration-s -3": "--duration-s of at least 0, got -3.0",
    "record x --domain 500": "from 0 to 232, got 500",
    "doctor --timeout-s 0": "--timeout-s above 0, got 0.0",
    "inspect nosuch": "or one that ships: lam/loco, lam/mani, lmo/x2, policy/tiny, vla/tiny",
    "dataset info nosuch": "nosuch is no LeRobot data set",
    "view nosuch": "nosuch does not exist",
    "eval walk-to --trials 0": "--trials of at least 1, got 0",
    "eval walk-to --seed-base 7310000": "scene seeds lie in [0, 3000000), got 7310000",
    "eval walk-to --seed-base 2999999 --trials 2": "got 3000000",
    "eval walk-to --seed-base -5": "got -5",
    "eval walk-to --timeout-s nan": "--timeout-s of at least 0.02, got nan",
    "eval walk-to --policy nosuch": "no checkpoint at",
    "eval instructions --processes 0": "--processes of at least 1, got 0",
    "eval instructions --kinds walk_to fly": "--kinds out of walk_to, turn, step, squat, stand, wave; got fly",
    "eval instructions --seed-base 7310000": "scene seeds lie in [0, 3000000), got 7310000",
    "eval lmo --controller ./mine.py:X": "package.module:factory, got './mine.py:X'; for the file ./mine.py that is mine:X",
    "eval lmo --controller a/mine.py:X": "that is mine:X, from the folder a",
    "eval lmo --controller collections:OrderedDict": "controller OrderedDict(robot, 1) raised TypeError",
    "eval lmo --controller nosuch:X": "cannot import 'nosuch'",
    "eval lmo --suites nosuch": "no suite nosuch; there are accuracy",
    "eval lmo --seed-base -1": "--seed-base between 0 and 2^63 - 1, got -1",
    "eval lmo --robot nosuch": "no robot 'nosuch'",
    "video ingest nosuch": "nosuch does not exist",
    "video ingest x --workers 0": "--workers of at least 1, got 0",
    "video ingest x --dev-share 2": "--dev-share between 0 and 1, got 2.0",
    "video ingest x --fovy-deg 400": "--fovy-deg between 1 and 180, got 400.0",
    "video info x --rate-hz nan": "--rate-hz of at least 0.1, got nan",
    "data video --frames 1": "--frames of at least 2, got 1",
    "data video --train-rooms -1": "--train-rooms of at least 0, got -1",
    "data video --image-size 0": "--image-size of at least 8, got 0",
    "data video --rate-hz 0": "--rate-hz of at least 0.1, got 0.0",
    "data video --robot-fraction 3": "--robot-fraction between 0 and 1, got 3.0",
    "data video --seed -1": "--seed between 0 and 2^63 - 1, got -1",
    "data demos --episodes -2": "--episodes of at least 1, got -2",
    "data demos --kinds fly": "--kinds out of walk_to, turn, step, squat, stand, wave; got fly",
    "data demos --walk-share 3": "--walk-share between 0 and 1, got 3.0",
    "data demos --timeout-s nan": "--timeout-s of at least 0.1, got nan",
    "data demos --duration-s 5 2": "--duration-s of two rising positive times, got 5.0 2.0",
    "data demos --seed 99999999999999999999": "--seed between 0 and 2^63 - 1",
    "data demos --lmo nosuch": "no checkpoint at",
    "import image-text x --image-size 0": "--image-size of at least 1, got 0",
    "train lmo --threads 0": "--threads of at least 1, got 0",
    "train lmo --ablation nosuch": "nosuch",
    "train lam loco debug --threads 0": "--threads of at least 1, got 0",
    "train lam loco debug --steps 0": "--steps of at least 1, got 0",
    "train lam loco debug --lr nan": "--lr above 0, got nan",
    "train lam loco debug --gap-s -1": "--gap-s above 0, got -1.0",
    "train lam loco debug --extra-share 3": "--extra-share between 0 and 1, got 3.0",
    "train vla debug --codes.loop.threads 0": "--codes.loop.threads of at least 1, got 0",
    "train vla debug --codes.batch 0": "--codes.batch of at least 1, got 0",
    "train vla debug --grounding.loop.save-every 0": "--grounding.loop.save-every of at least 1, got 0",
    "train vla debug --clip-share 3": "--clip-share between 0 and 1, got 3.0",
    "train decoder tiny --batch 0": "--batch of at least 1, got 0",
    "train decoder tiny --mirror-share 3": "--mirror-share between 0 and 1, got 3.0",
    "train decoder tiny --loop.lr nan": "--loop.lr above 0, got nan",
    "train plan tiny --processes 0": "--processes of at least 1, got 0",
    "train plan tiny --accumulate 0": "--accumulate of at least 1, got 0",
    "train plan tiny --device-gib -1": "--device-gib above 0, got -1.0",
    "label --threads 0": "--threads of at least 1, got 0",
    "label --shard 3/2": "--shard must be i/n with 0 <= i < n",
    "label --fovy-deg 400": "--fovy-deg between 1 and 180, got 400.0",
    "annotate nosuch": "no clips.json under nosuch",
}


@pytest.fixture
def signals():
    """Long commands take SIGINT and SIGTERM over for the rest of their process, which goes on here."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(("argv", "says"), WRONG.items())
def test_options_that_cannot_be_are_refused_in_one_sentence_before_anything_is_written(argv, says, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["wbvla"])
    monkeypatch.chdir(tmp_path)
    assert main.main(argv.split()) in (1, 2)
    text = capsys.readouterr().err
    assert says in text and text.count("\n") == 1 and text.startswith("wbvla "), text
    assert not list(tmp_path.iterdir())


def test_what_ships_is_found_by_name_from_any_working_directory(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("lmo/x2", "checkpoints/lmo/x2"):
        assert find_checkpoint(name) == ROOT / "checkpoints" / "lmo" / "x2"
    assert main.main(["inspect", "policy/tiny"]) == 0
    assert "policy/tiny" in capsys.readouterr().out
    (tmp_path / "lmo" / "x2").mkdir(parents=True)
    assert find_checkpoint("lmo/x2") == Path("lmo/x2"), "a folder that is here comes first"
    assert find_checkpoint("lmo/x3") == Path("lmo/x3"), "what is nowhere stays as given, for the sentence that says so"


def test_a_module_of_pythonpath_in_the_place_of_one_that_is_needed_is_named(tmp_path):
    """Imported, it would end in a traceback of somebody else's file."""
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "numpy.py").write_text("raise SystemExit('not numpy')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command = [sys.executable, "-m", "wbvla_cli", "inspect", "lmo/x2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == (
        f"wbvla inspect: PYTHONPATH holds {tmp_path}, whose numpy would be imported in place of the one that is installed; run: unset PYTHONPATH\n"
    )
    (tmp_path / "numpy.py").unlink()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0, "other modules are what PYTHONPATH is for"


def test_a_package_that_is_missing_only_where_the_work_begins_is_explained(capsys, monkeypatch):
    def work(argv):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(inspect, "main", work)
    assert main.main(["inspect", "x"]) == 3
    assert "needs torch, which is not installed" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named_in_one_sentence(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(inspect, "main", lambda argv: (tmp_path / "file" / "run").mkdir())
    assert main.main(["inspect", "x"]) == 2
    assert capsys.readouterr().err == f"wbvla inspect: Not a directory: {tmp_path / 'file' / 'run'}\n"


def test_a_full_disk_is_a_sentence_and_a_connection_that_breaks_a_traceback(capsys, monkeypatch):
    for error, status, says in (
        (OSError(errno.ENOSPC, "No space left on device"), 2, "wbvla inspect: No space left on device\n"),
        (ConnectionResetError(104, "x"), 1, "Traceback"),
    ):

        def fail(argv, error=error):
            raise error

        monkeypatch.setattr(inspect, "main", fail)
        assert main.main(["inspect", "x"]) == status
        assert capsys.readouterr().err.startswith(says)


def test_ctrl_c_ends_with_the_status_of_an_interrupt(capsys, monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "main", interrupted)
    assert main.main(["inspect", "x"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_inspect_prints_robot_tensors_files_and_the_whole_lineage(tmp_path, capsys):
    robot = load_robot("x2")
    lam = write_checkpoint(tmp_path, "lam", "mani")
    vla = write_checkpoint(tmp_path, "vla", "tiny", parents={"lam_manipulation": lam})
    write_checkpoint(tmp_path, "policy", "tiny", robot, parents={"vla": vla, "elsewhere": "f" * 64})
    assert main.main(["inspect", str(tmp_path / "policy" / "tiny")]) == 0
    text = capsys.readouterr().out
    assert f"{robot.name} {robot.version}, {robot.joint_count} joints" in text
    assert "uint8 [96, 96, 3] RGB" in text
    assert "2.50 MB" in text
    assert f"└ vla: {vla.hash[:12]}  vla/tiny" in text
    assert f"  └ lam_manipulation: {lam.hash[:12]}  lam/mani" in text, "the grandparent is shown below the parent"
    assert "└ elsewhere: ffffffffffff  not found" in text


def test_inspect_as_json_carries_the_hash_that_children_name(tmp_path, capsys):
    manifest = write_checkpoint(tmp_path, "lam", "mani")
    assert main.main(["inspect", str(tmp_path / "lam" / "mani"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hash"] == manifest.hash


def test_inspect_refuses_a_truncated_checkpoint_and_an_empty_place(tmp_path, capsys):
    write_checkpoint(tmp_path, "lam", "mani")
    (tmp_path / "lam" / "mani" / "weights.bin").write_bytes(b"x" * 1000)
    assert main.main(["inspect", str(tmp_path / "lam" / "mani")]) == 2
    assert "CHECKPOINT_CORRUPT" in capsys.readouterr().err
    assert main.main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "CHECKPOINT_MISSING" in capsys.readouterr().err


def test_doctor_names_damaged_missing_and_orphaned_checkpoints(tmp_path, monkeypatch):
    checkpoints = tmp_path / "checkpoints"
    write_checkpoint(checkpoints, "lam", "mani")
    write_checkpoint(checkpoints, "vla", "tiny", parents={"lam_manipulation": "a" * 64})
    write_checkpoint(checkpoints, "lam", "loco")
    (checkpoints / "lam" / "loco" / "weights.bin").write_bytes(b"")
    monkeypatch.setattr(doctor, "share_dir", lambda: tmp_path)
    found = {finding.what.split(":")[0]: finding for finding in doctor.check_checkpoints(doctor.Doctor())}
    assert found["lam/mani"].mark == "ok"
    assert found["lam/loco"].mark == "missing" and "does not match its manifest" in found["lam/loco"].what
    assert found["vla/tiny"].mark == "note" and "lam_manipulation aaaaaaaaaaaa" in found["vla/tiny"].what
    assert found["lmo/x2"].mark == "missing" and found["lmo/x2"].mend


def test_doctor_imports_what_it_calls_ok(tmp_path, monkeypatch):
    assert {name: doctor.modules_of(name) for name in ("pyyaml", "pillow", "numpy")} == {"pyyaml": ["yaml"], "pillow": ["PIL"], "numpy": ["numpy"]}
    assert doctor.import_faults({"pyyaml": ["yaml"], "numpy": ["numpy"]}, 60.0) == {}
    faults = doctor.import_faults({"pyyaml": ["yaml"], "gone": ["no_such_module"]}, 60.0)
    assert faults == {"gone": "no_such_module does not import (ModuleNotFoundError: No module named 'no_such_module')"}
    (tmp_path / "crash.py").write_text("import os; os.abort()")
    (tmp_path / "yaml.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    faults = doctor.import_faults({"pyyaml": ["yaml"], "torn": ["crash"]}, 60.0)
    assert faults["pyyaml"] == f"yaml comes from {tmp_path / 'yaml.py'}, which PYTHONPATH puts before it" and "does not import" in faults["torn"]


def test_doctor_reports_a_trial_that_crashes_or_hangs_instead_of_doing_so_itself():
    assert doctor.try_python("import os; os.abort()", 20.0)[0] is False
    worked, text = doctor.try_python("import time; time.sleep(30)", 0.5)
    assert not worked and "no answer" in text


def test_doctor_finds_rendering_that_works_here():
    """The tests need it too: on a machine without EGL this fails first and says what to install."""
    findings = list(doctor.check_rendering(doctor.Doctor()))
    assert findings[-1].mark in ("ok", "note") and "renders" in findings[-1].what, findings
