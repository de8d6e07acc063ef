"""``wbvla data demos``: its options. The simulator is imported when recording begins, so that help and refusals come at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from wbvla_core.checkpoint import load_manifest
from wbvla_core.robot import load_robot
from wbvla_perception.preprocess import ImageSpec


@dataclass(frozen=True)
class DemosConfig:
    """What to record.

    Attributes:
        world: "physics" needs ``lmo``; "kinematic" slides without legs (quick, for bringing the rest up).
        episodes, episodes_per_shard: how many, and how many per file.
        walk_share: share of walk-to tasks; the others share the rest (ours).
        kinds: only tasks of these kinds, for recordings of one skill; empty = all.
        turned_share: share of the episodes that begin after a second or more of random walking, so that boxes are out of sight or far aside.
        timeout_s: of a walk; duration_s: range of open-ended tasks.
        burst_rate: probability per step that a burst of random commands begins (ours: at the prototype's 0.035 walks hardly ever
            come to the two seconds of rest that end them); 0 = undisturbed.
        delay_ticks: most 20 ms ticks between image and effect, drawn per episode.
        policy: a policy bundle that drives instead of the teleoperator (DAgger round).
        held_out: record what no training may see: test scenes, surfaces and phrasings of the held-out families.
        seed: shifts scenes and everything else.
    """

    output: Path = Path("data/demos")
    robot: str = "x2"
    world: Literal["physics", "kinematic"] = "physics"
    lmo: Path = Path("checkpoints/lmo/x2")
    episodes: int = 400
    episodes_per_shard: int = 10
    walk_share: float = 0.7
    kinds: tuple[str, ...] = ()
    turned_share: float = 0.35
    timeout_s: float = 30.0
    duration_s: tuple[float, float] = (3.0, 6.0)
    burst_rate: float = 0.02
    delay_ticks: int = 4
    policy: Path | None = None
    held_out: bool = False
    seed: int = 0
    workers: int = 1

    def settings(self) -> dict:
        """What the content of a shard depends on."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("output", "workers", "episodes")}
        parents = {
            "lmo": load_manifest(self.lmo, kind="lmo").hash if self.world == "physics" else None,
            "policy": load_manifest(self.policy, kind="policy").hash if self.policy else None,
        }
        for key in ("kinds", "held_out"):  # options that came later
            if not kept[key]:
                del kept[key]
        return kept | parents | {"kind": "demos", "rows": 2, "image": ImageSpec.of(load_robot(self.robot).camera).to_json()}


def main(argv: list[str] | None = None) -> int:
    config = tyro.cli(DemosConfig, args=argv, description="Record demonstrations by the scripted teleoperator.")
    from wbvla_train.data.demos import make

    make(config)
    return 0
