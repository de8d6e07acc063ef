"""Benchmarks run: each starts and offers its options, calls only what there is, and the fast ones and the training of decodings are run."""

from __future__ import annotations

import ast
import inspect
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from wbvla_train.loop import LoopConfig
from wbvla_train.vla.config import PRESETS
from wbvla_train.vla.train import build_model

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py"))}
OWN = "<benchmark>"

pytestmark = pytest.mark.usefixtures("as_a_script")


@pytest.fixture
def as_a_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Beside the other benchmarks; what a run sets is set back."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [""])
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def start(name: str, *options: str) -> int:
    """The benchmark as from a terminal; returns its exit status."""
    sys.argv = [str(BENCHMARKS[name]), *options]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def load(path: Path) -> dict[str, Any]:
    """What a benchmark defines and imports."""
    return runpy.run_path(str(path), run_name=OWN)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_starts_and_offers_its_options(name, capsys):
    if name == "recorder":
        pytest.importorskip("rclpy")
    assert "tyro.cli(" in BENCHMARKS[name].read_text(), "it would run"
    assert start(name, "--help") == 0
    offered = capsys.readouterr().out
    assert "usage:" in offered and offered.count("--") > 2
    assert start(name, "--no-such-option") == 2


# -- what they call ----------------------------------------------------------------------------------------------------
def faults(code: str, names: dict[str, Any]) -> list[str]:
    """Attributes of our modules and classes that do not exist, and calls of our functions with arguments that these do not take.

    Args:
        names: of the module that ``code`` is; those that ``code`` uses for its own variables, too, are left out.
    """
    tree, found = ast.parse(code), []
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    unsure = stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}

    def ours(thing: Any) -> bool:
        where = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or ""
        return where.startswith("wbvla_") or where in (OWN, *BENCHMARKS)

    def meant(node: ast.expr) -> Any:
        """The module, class or function that an expression names, or None."""
        if isinstance(node, ast.Name):
            return None if node.id in unsure else names.get(node.id)
        owner = meant(node.value) if isinstance(node, ast.Attribute) else None
        return getattr(owner, node.attr, None) if isinstance(owner, (ModuleType, type)) and ours(owner) else None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = meant(node.value)
            if isinstance(owner, (ModuleType, type)) and ours(owner) and not hasattr(owner, node.attr):
                found.append(f"line {node.lineno}: {ast.unparse(node)} does not exist")
        elif isinstance(node, ast.Call) and callable(called := meant(node.func)) and ours(called):
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            spread = len(keywords) < len(node.keywords) or any(isinstance(argument, ast.Starred) for argument in node.args)
            signature = inspect.signature(called)
            try:
                signature.bind_partial(**keywords) if spread else signature.bind(*node.args, **keywords)
            except TypeError as error:
                found.append(f"line {node.lineno}: {ast.unparse(node)}: {error}")
    return found


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_calls_only_what_exists_with_the_arguments_that_it_takes(name):
    if name == "recorder":
        pytest.importorskip("rclpy")
    path = BENCHMARKS[name]
    assert not faults(path.read_text(), load(path))


def test_calls_that_cannot_work_are_seen():
    names = load(BENCHMARKS["data_saving"])
    assert not faults("train_vla(base)\ndemos.make(recording)\nTrainLoop(*a, log=b)\ncells_of(options)", names)
    wrong = faults("train_vla()\ndemos.mak(recording)\nTrainLoop(*a, logg=b)\ncells_of(options, 1)\nTASKS.nothing\ntime.nothing", names)
    assert sorted(fault.split(":")[0] for fault in wrong) == ["line 1", "line 2", "line 3", "line 4"]


# -- small runs --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "options", "printed"),
    [
        ("vla", "--policy POLICY --frames 3 --period-s 0 --limit-ms inf", "image transform"),
        ("stream", "--episodes 2 --frames 40 --steps 4 --batch 4 --size 32", "frames/s"),
        ("gpu", "--part bf16 --preset debug --device cpu --frames 2", '"p99_ms"'),
        ("gpu", "--part LORA --preset debug --device cpu --batch 2", '"step_ms"'),
        ("lam_shared", "--only-table --output NOWHERE", "| RRG dev |"),
    ],
)
def test_a_benchmark_of_seconds_runs(name, options, printed, capsys, tmp_path):
    places = {"POLICY": str(ROOT / "checkpoints" / "policy" / "tiny"), "NOWHERE": str(tmp_path), "LORA": "LoRA step"}
    assert start(name, *(places.get(word, word) for word in options.split())) == 0
    assert printed in capsys.readouterr().out


def test_both_decodings_are_trained_on_image_tokens_and_only_the_language_model_changes():
    decoding = load(BENCHMARKS["decoding"])
    options = decoding["Options"](batch=4, loop=LoopConfig(steps=2, warmup_steps=1, bf16=False))
    for way in ("parallel", "autoregressive"):
        model, tokenizer = build_model(replace(PRESETS["debug"][1], decoding=way))
        config, before = model.config, {name: value.clone() for name, value in model.state_dict().items()}
        words = torch.from_numpy(tokenizer.encode_batch(["walk to the red box"] * 6))
        codes = torch.randint(config.codebook_size, (6, 2, config.tokens_per_kind))
        data = decoding["Data"](torch.randn(6, config.image_tokens, config.language.hidden_size), words, codes)
        decoding["train"](options, model, data, seed=0)
        changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"language"}
        assert decoding["right"](model.eval(), data).shape == tuple(codes.shape)
