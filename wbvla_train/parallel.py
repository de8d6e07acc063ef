"""One training carried by many processes: ``accelerate launch`` or ``torchrun`` start them, torch joins them.

accelerate says how (device, process group, FSDP settings of ``config/accelerate/*.yaml``); sharding itself is torch's ``fully_shard``, so that the same
code runs on CPUs, which accelerate's own FSDP refuses. Without a launcher there is one process and nothing here does anything.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from wbvla_core.checkpoint import no_room, sha256_file, write_json
from wbvla_core.console import DISK_FULL
from wbvla_core.errors import WbvlaError

# Transformer blocks of the default VLA: what FSDP shards as a unit. The YAML files name the same ones; a test holds it.
BLOCKS = ("LlamaDecoderLayer", "Dinov2WithRegistersLayer", "SiglipEncoderLayer")
LOOP_FILE = "loop.json"  # beside torch's shards: step, seconds, settings, data, files
STATE_FILE = "state.pt"  # the state of a run whose weights lie whole in each process


@dataclass(frozen=True)
class Part:
    """Piece ``index`` of ``count`` equal pieces of a step's global batch.

    The global batch is the same whatever ``count`` is: every process draws its order from (seed, step) and takes its piece.
    """

    index: int = 0
    count: int = 1

    def of(self, batch: int) -> slice:
        """Which samples of a batch of ``batch``.

        Raises:
            WbvlaError: they cannot be shared out equally.
        """
        if batch % self.count:
            raise WbvlaError(f"a batch of {batch} cannot be shared out equally to {self.count} pieces (processes x accumulate); change batch or accumulate")
        size = batch // self.count
        return slice(self.index * size, (self.index + 1) * size)

    def require_whole(self, what: str) -> None:
        """Raise WbvlaError where the batch is in pieces and its losses are means over an uneven number of samples."""
        if self.count > 1:
            raise WbvlaError(
                f"{what} weighs samples within a whole batch and runs in one process without accumulation, not in {self.count} pieces; "
                "train from LeRobot data (--lerobot), or without launcher"
            )


WHOLE = Part()


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those that train one model.

    Attributes:
        launched: started by accelerate or torchrun; weights and batches then live on ``device``.
        rank, count: number of this process; how many there are. local_count: on this machine.
        blocks: names of the classes that FSDP shards one by one; empty = not sharded, each process holds all (DistributedDataParallel).
        reshard: give up gathered weights between a block's forward and backward pass (ZeRO-3), or keep them (ZeRO-2).
        offload: keep shards in host memory between uses.
    """

    launched: bool = False
    rank: int = 0
    count: int = 1
    local_count: int = 1
    device: torch.device = torch.device("cpu")
    blocks: tuple[str, ...] = ()
    reshard: bool = True
    offload: bool = False

    @classmethod
    def of_launcher(cls) -> Processes:
        """What ``accelerate launch`` or ``torchrun`` put into the environment; joins the process group.

        Raises:
            WbvlaError: FSDP settings that this code does not carry out.
        """
        if not {"LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or not torch.cuda.is_available())
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        here = cls(True, state.process_index, state.num_processes, local, state.device)
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true" or here.count == 1:
            return here
        return replace(here, **fsdp_settings())

    @property
    def sharded(self) -> bool:
        """Whether no process holds all weights."""
        return bool(self.blocks) and self.count > 1

    @property
    def main(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    def only_main(self, log: Callable[[str], None]) -> Callable[[str], None]:
        """``log`` on the main process, silence elsewhere."""
        return log if self.main else lambda _: None

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, values: Iterable[float]) -> list[float]:
        """Mean over all processes of each number."""
        values = list(values)
        if self.count == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(together)
        return (together / self.count).tolist()

    def prepare(self, module: nn.Module, bf16: bool) -> nn.Module:
        """What to call in place of ``module``: itself, moved, sharded in place (FSDP), or wrapped (DistributedDataParallel).

        Raises:
            WbvlaError: ``blocks`` names a class that the module has not.
        """
        if self.count == 1:
            return module.to(self.device) if self.launched else module
        if not self.blocks:
            ids = None if self.device.type == "cpu" else [self.device.index]
            # The towers' last blocks and mask tokens take no part in the loss (features of the penultimate layer): they get no gradient.
            options = {"find_unused_parameters": True, "forward_sync_buffers": False, "gradient_as_bucket_view": True}
            return DistributedDataParallel(module.to(self.device), device_ids=ids, **options)
        return self._shard(module, bf16)

    def _shard(self, module: nn.Module, bf16: bool) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        present = {type(part).__name__ for part in module.modules()}
        if not present & set(self.blocks):
            raise WbvlaError(f"FSDP is to shard {list(self.blocks)}, but {type(module).__name__} has none of them; name its transformer blocks")
        # Weights travel and multiply in bfloat16; gradients are summed over the processes in float32 (a thousand samples' sum in 8 bits would lose small ones).
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32)
        options = {"mesh": init_device_mesh(self.device.type, (self.count,)), "mp_policy": precision}
        options["offload_policy"] = CPUOffloadPolicy() if self.offload else OffloadPolicy()
        for part in module.modules():
            if type(part).__name__ in self.blocks:
                fully_shard(part, reshard_after_forward=self.reshard, **options)
        return fully_shard(module, **options)

    def unsynchronised(self, model: nn.Module):
        """Context of a backward pass whose gradients wait for the next one's. FSDP sums at once: waiting would keep whole gradients on each GPU."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def fsdp_settings() -> dict[str, Any]:
    """FSDP settings of the launcher's environment as fields of :class:`Processes`.

    Raises:
        WbvlaError: not FSDP 2, or no transformer blocks named.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2 or not plugin.transformer_cls_names_to_wrap:
        raise WbvlaError(
            f"fsdp_version: 2 with fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP and fsdp_transformer_layer_cls_to_wrap: {','.join(BLOCKS)} is expected, got "
            f"version {plugin.fsdp_version} and {plugin.transformer_cls_names_to_wrap}; config/accelerate has files that fit"
        )
    offload = os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true"
    return {"blocks": tuple(plugin.transformer_cls_names_to_wrap), "reshard": bool(plugin.reshard_after_forward), "offload": offload}


def is_block(module: nn.Module) -> bool:
    """Whether this is a transformer block: transformers makes all of them of one class (known by its name here: some stages train without transformers)."""
    return any(base.__name__ == "GradientCheckpointingLayer" for base in type(module).__mro__)


def checkpoint_blocks(module: nn.Module) -> int:
    """Compute the activations of transformer blocks again in the backward pass; returns how many blocks do.

    Inside of FSDP's hooks, so that a block's weights are gathered once per pass; independent of train() and eval().
    """
    found = [part for part in module.modules() if is_block(part)]
    for part in found:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)
    return len(found)


def to_device(batch: Any, device: torch.device) -> Any:
    """The tensors of a batch (tensor, tuple, dict or dataclass) on ``device``."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        return tuple(to_device(part, device) for part in batch)
    if isinstance(batch, dict):
        return {key: to_device(part, device) for key, part in batch.items()}
    if is_dataclass(batch):
        return replace(batch, **{part.name: to_device(getattr(batch, part.name), device) for part in fields(batch)})
    return batch


def copy_into(target: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy a whole tensor into ``target``, or this process's part of it where ``target`` is sharded."""
    with torch.no_grad():
        if hasattr(target, "device_mesh"):  # a DTensor; to ask by its class takes seconds of imports
            from torch.distributed.tensor import distribute_tensor

            mesh = target.device_mesh
            part = distribute_tensor(whole.to(mesh.device_type, target.dtype), mesh, target.placements, src_data_rank=None)
            target.to_local().copy_(part.to_local())
        else:
            target.copy_(whole)


def gather_weights(model: nn.Module, trained_only: bool = False) -> dict[str, torch.Tensor]:
    """Whole weights of a sharded or wrapped model, in host memory of rank 0 (elsewhere empty); all processes must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only))


# -- resumable state of sharded weights: each process writes its shards, any number of processes reads them ---------------------------
def save_shards(run_dir: Path, processes: Processes, tensors: dict[str, Any], about: dict[str, Any]) -> None:
    """``run_dir/state_<step>``, which appears whole by one rename; the one before goes then. All processes must call it.

    Args:
        tensors: nested dict of tensors, sharded or not.
        about: JSON, with ``step``.

    Raises:
        WbvlaError: the disk is full; the state before stays.
    """
    from torch.distributed import checkpoint as dcp

    final = run_dir / f"state_{about['step']:07d}"
    building = final.with_name(f".{final.name}")
    if processes.main:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
    processes.wait()
    try:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(building, overwrite=True), no_dist=processes.count == 1)
    except Exception as error:  # torch gathers what went wrong anywhere into one error of its own
        why = no_room(error) or next((os.strerror(code) for code in DISK_FULL if os.strerror(code) in str(error)), None)
        if processes.main:
            shutil.rmtree(building, ignore_errors=True)
        if why is None:
            raise
        raise WbvlaError(f"cannot write the training state {final}: {why}; the state before it stays. Make room and run the same command again") from error
    digests = _digests(building, processes)
    if processes.main:
        write_json(building / LOOP_FILE, {**about, "files": digests})
        shutil.rmtree(final, ignore_errors=True)
        os.rename(building, final)
        drop_states(run_dir, keep=final)
    processes.wait()


def drop_states(run_dir: Path, keep: Path) -> None:
    """Remove every state of a run but ``keep``, of either form: there is one at a time."""
    for older in (*run_dir.glob("state_*"), run_dir / STATE_FILE):
        if older != keep:
            shutil.rmtree(older) if older.is_dir() else older.unlink(missing_ok=True)


def find_shards(run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest finished state and what is said about it."""
    found = sorted(path for path in run_dir.glob("state_*") if (path / LOOP_FILE).is_file())
    if not found:
        return None
    try:
        return found[-1], json.loads((found[-1] / LOOP_FILE).read_text())
    except ValueError as error:
        raise _damaged(found[-1], f"{LOOP_FILE}: {error}") from error


def load_shards(folder: Path, processes: Processes, tensors: dict[str, Any], files: dict[str, str] | None = None) -> None:
    """Read a state into ``tensors``, in place.

    Args:
        files: names and sha256 of its files, None in a state from before they were written down.

    Raises:
        WbvlaError: it is damaged, or of another model.
    """
    from torch.distributed import checkpoint as dcp

    if files is not None and (found := _digests(folder, processes)) != files:
        changed = sorted(name for name in found.keys() | files.keys() if found.get(name) != files.get(name))
        raise _damaged(folder, f"{', '.join(changed)} is missing or does not match its checksum")
    try:
        dcp.load(tensors, checkpoint_id=folder, no_dist=processes.count == 1)
    except Exception as error:  # torch's own kinds, pickle's, the system's
        raise _damaged(folder, " ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _damaged(folder: Path, why: str) -> WbvlaError:
    return WbvlaError(f"{folder} is no training state or a damaged one ({why}); delete it to start anew")


def _digests(folder: Path, processes: Processes) -> dict[str, str]:
    """sha256 of every file of a sharded state but :data:`LOOP_FILE`; each process reads its share."""
    names = sorted(path.name for path in folder.iterdir() if path.name != LOOP_FILE)
    mine = {name: sha256_file(folder / name) for name in names[processes.rank :: processes.count]}
    if processes.count == 1:
        return mine
    shares: list[dict[str, str]] = [{}] * processes.count
    distributed.all_gather_object(shares, mine)
    return {name: value for share in shares for name, value in share.items()}
