"""The set-up notices what was damaged, knows what it made, builds in any path, and says in one sentence what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import intact  # noqa: E402
import setup_env  # noqa: E402
from steps import StepError, run_step  # noqa: E402

WHEELS = setup_env.Flavour("jazzy", sourced=False)


def add_package(venv: Path, name: str, version: str, *files: str) -> None:
    """A package as pip leaves it: its files, and a list of them."""
    site = intact.site_packages(venv)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("")
    rows = [*(f"{file},sha256=x,0" for file in files), f"{name}/__pycache__/__init__.cpython-311.pyc,,", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(rows) + "\n")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with pip's place taken and two packages, one of them with a command."""
    folder = tmp_path / "clone" / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--prompt", intact.MARK, str(folder)], check=True)
    add_package(folder, "pip", "26.3", "pip/__main__.py")
    add_package(folder, "Num_Py", "2.4.6", "numpy/__init__.py", "numpy/core.py")
    add_package(folder, "wbvla", "0.1.0", "../../../bin/wbvla")
    return folder


@pytest.fixture
def setup(venv: Path, monkeypatch: pytest.MonkeyPatch) -> setup_env.Setup:
    """A set-up of that environment in which every step is done."""
    monkeypatch.setattr(setup_env, "VENV", venv)
    done = setup_env.Setup(WHEELS)
    done.state.begin(done.key)
    for name in ("installer", "torch", "requirements", "messages", "package", "check"):
        done.state.mark(name, "x")
    done.state.note(packages=["num-py", "pip", "wbvla"])
    return done


def test_a_whole_environment_is_whole_though_caches_are_gone(venv):
    assert not intact.look(venv, ["num-py", "pip", "wbvla"])


def test_what_is_missing_is_named(venv):
    site = intact.site_packages(venv)
    (site / "numpy" / "core.py").unlink()
    (venv / "bin" / "wbvla").unlink()
    damage = intact.look(venv, ["num-py", "torch"])
    assert damage.packages == {"num-py": "2.4.6", "wbvla": "0.1.0"} and damage.files == 2 and damage.absent == ("torch",) and not damage.base
    assert str(damage) == "2 files of num-py, wbvla and the whole of torch"


def test_a_package_without_its_list_of_files_was_broken_off(venv):
    (intact.site_packages(venv) / "Num_Py-2.4.6.dist-info" / "RECORD").unlink()
    assert intact.look(venv).packages == {"num-py": "2.4.6"}


@pytest.mark.parametrize("gone", ["bin/python", "pyvenv.cfg", "pip/__main__.py"])
def test_without_python_or_pip_the_environment_itself_is_made_again(venv, gone):
    (intact.site_packages(venv) / gone if gone.startswith("pip") else venv / gone).unlink()
    assert intact.look(venv).base


def test_repair_does_again_what_the_damage_asks_for_and_nothing_else(setup, venv):
    assert not setup.damage()
    (intact.site_packages(venv) / "numpy" / "core.py").unlink()
    setup.repair()
    assert set(setup.state.data["done"]) == {"torch", "messages", "package"}
    assert not list(intact.site_packages(venv).glob("Num_Py-*")), "pip takes a package whose list is there for whole"


def test_repair_builds_lost_messages_again(setup, venv, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "ROOT", venv.parent)
    (venv / "message.py").write_text("")
    setup.state.note(message_files=[".venv/message.py"])
    assert not setup.damage()
    (venv / "message.py").unlink()
    assert str(setup.damage()) == "1 files of wbvla-msgs"
    setup.repair()
    assert "messages" not in setup.state.data["done"] and "requirements" in setup.state.data["done"]


def test_an_environment_of_ours_is_known_without_its_state_file_and_that_of_others_is_left_alone(setup, venv, monkeypatch):
    (venv / setup_env.STATE_FILE).unlink()
    again = setup_env.Setup(WHEELS)
    again.make_venv()
    assert again.state.key == again.key and (intact.site_packages(venv) / "numpy").is_dir()
    (venv / setup_env.STATE_FILE).unlink()
    (venv / "pyvenv.cfg").write_text("home = x\n")
    for info in intact.site_packages(venv).glob("wbvla-*"):
        (info / "RECORD").unlink()
        info.rmdir()
    with pytest.raises(setup_env.SetupError, match="was not made by this set-up"):
        setup_env.Setup(WHEELS).make_venv()


def test_an_environment_of_another_ros_does_not_fit(venv):
    assert intact.fits(venv, sourced=False) and not intact.fits(venv, sourced=True)


def test_the_state_is_written_before_the_environment_so_that_a_kill_in_between_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "VENV", tmp_path / ".venv")
    first = setup_env.Setup(WHEELS)
    seen = []
    monkeypatch.setattr(first, "make_python", lambda: seen.append(json.loads((tmp_path / ".venv" / setup_env.STATE_FILE).read_text())["key"]))
    first.make_venv()
    assert seen == [first.key]


def test_links_and_files_in_the_place_of_the_environment_are_sentences(monkeypatch, tmp_path):
    place = tmp_path / ".venv"
    place.symlink_to(tmp_path / "gone")
    with pytest.raises(setup_env.SetupError, match="is a link to .*gone, which does not exist"):
        setup_env.require_folder(place)
    place.unlink()
    place.write_text("")
    with pytest.raises(setup_env.SetupError, match="is not a folder"):
        setup_env.require_folder(place)


def test_an_environment_of_another_checkout_behind_a_link_is_not_deleted(venv, monkeypatch, tmp_path):
    setup_env.State(venv / setup_env.STATE_FILE).begin("wheels-jazzy python-3.11.7 at elsewhere")
    link = tmp_path / "other" / ".venv"
    link.parent.mkdir()
    link.symlink_to(venv)
    monkeypatch.setattr(setup_env, "VENV", link)
    with pytest.raises(setup_env.SetupError, match="is a link to .* which was made for wheels-jazzy python-3.11.7 at elsewhere"):
        setup_env.Setup(WHEELS).make_venv()
    assert (venv / "pyvenv.cfg").is_file()


def test_a_path_that_the_message_generator_cannot_read_is_reached_by_a_link(monkeypatch, tmp_path):
    clone = tmp_path / "Übung ü x"
    clone.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    assert setup_env.plain_root() == tmp_path
    monkeypatch.setattr(setup_env, "ROOT", clone)
    link = setup_env.plain_root()
    assert link.resolve() == clone and setup_env.PLAIN.fullmatch(str(link))
    assert setup_env.plain_root() == link, "the same one every time: paths in what was built stay valid"


def test_a_checkout_of_somebody_else_is_refused_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    monkeypatch.setattr(setup_env.os, "access", lambda *_: False)
    with pytest.raises(setup_env.SetupError, match="cannot be written by this user"):
        setup_env.require_writable()


def test_a_full_disk_is_refused_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    monkeypatch.setattr(setup_env, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1.2e9}))
    with pytest.raises(setup_env.SetupError, match="has 1.2 GB left, and the set-up takes at least 2.5 GB"):
        setup_env.require_writable()


def test_a_disk_that_fills_up_on_the_way_is_said_after_the_log(tmp_path):
    with pytest.raises(StepError, match="The disk is full"):
        run_step("a step", ["sh", "-c", "echo 'OSError: [Errno 28] No space left on device'; exit 1"], tmp_path / "log", cwd=tmp_path)


def test_modules_of_pythonpath_that_stand_before_the_right_ones_are_named(venv, tmp_path):
    junk = tmp_path / "junk"
    (junk / "yaml").mkdir(parents=True)
    for file in ("numpy.py", "json.py", "mine.py", "notes.txt", "yaml/__init__.py"):
        (junk / file).write_text("")
    (junk / "torch").mkdir()  # without __init__.py: stands behind the real one
    assert intact.shadows(str(junk), venv, ROOT) == [(junk, "json"), (junk, "numpy"), (junk, "yaml")]
    assert not intact.shadows(os.pathsep.join((str(ROOT), "", str(tmp_path / "nowhere"))), venv, ROOT)


def source(shell: str, checkout: Path, cwd: Path) -> subprocess.CompletedProcess:
    command = f'. "{checkout}/scripts/env.sh" && echo "$VIRTUAL_ENV"'
    return subprocess.run([shell, "-c", command], cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)


def test_the_environment_script_works_in_other_shells_from_the_checkout_and_says_so_elsewhere(tmp_path):
    clone = tmp_path / "a clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("env.sh", "setup_env.py"):
        (clone / "scripts" / name).write_text((ROOT / "scripts" / name).read_text())
    assert "run 'make setup'" in source("sh", clone, clone).stderr
    (clone / ".venv").symlink_to("gone")
    assert "is a link to gone, which does not exist" in source("bash", clone, tmp_path).stderr
    (clone / ".venv").unlink()
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    assert source("sh", clone, clone).stdout == f"{clone}/.venv\n" == source("bash", clone, tmp_path).stdout
    outside = source("sh", clone, tmp_path)
    assert outside.returncode != 0 and "go to the checkout first, or use bash" in outside.stderr
