"""How the VLA's forward pass is carried out: device, number format, quantisation, and with how little Python around it.

One image at a time leaves a processor waiting for Python. On a CPU the pass is a recorded graph (:mod:`wbvla_vla.trace`), on an NVIDIA GPU a CUDA graph:
all kernels of one pass, replayed by a single call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from wbvla_core.errors import WbvlaError
from wbvla_vla.lora import linear_layers
from wbvla_vla.model import Vla, VlaOutput
from wbvla_vla.trace import Plain, example_inputs, record

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
Forward = Callable[[torch.Tensor, torch.Tensor], VlaOutput]


@dataclass(frozen=True)
class EngineConfig:
    """Options of the forward pass.

    Attributes:
        device: "cpu" or "cuda".
        dtype: of weights and activations; the decoder behind the VLA stays in float32.
        quantize: weights of language model and projector, by torchao: "int8" per channel (any device), "int4" in groups of 128 (bf16 on cuda only).
        compile: recorded graph on the CPU (float32), CUDA graph on the GPU, there with quantised weights through torch.compile, which fuses the
            unpacking into the products.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bf16"] = "float32"
    quantize: Literal["none", "int8", "int4"] = "none"
    compile: bool = True

    def require(self) -> EngineConfig:
        """Return self, or raise WbvlaError for what this machine cannot do: before gigabytes are read."""
        require_device(self.device)
        if self.quantize != "none":
            _torchao()
        if self.quantize == "int4" and (self.device, self.dtype) != ("cuda", "bf16"):
            raise WbvlaError(f"int4 needs --device cuda --dtype bf16, got {self.device} and {self.dtype}; int8 runs anywhere")
        return self


def require_device(device: str) -> None:
    """Refuse a device that torch does not have here.

    Raises:
        WbvlaError: naming the device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise WbvlaError(f"expected a device like cpu, cuda or cuda:1, got {device!r}") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise WbvlaError(f"device {device} was asked for, but torch {torch.__version__} sees no GPU; install torch for your CUDA, or use --device cpu")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise WbvlaError(f"device {device} was asked for, but there are {torch.cuda.device_count()} GPUs, counted from 0")
    if wanted.type not in ("cpu", "cuda"):
        raise WbvlaError(f"expected a device like cpu, cuda or cuda:1, got {device!r}, which nothing here was tried on")


def build(model: Vla, max_words: int, config: EngineConfig) -> Forward:
    """A function (pixel_values [1, C, S, S] float32, word_ids [1, max_words]), both on the CPU, -> VlaOutput in float32 on the engine's device, finished.

    ``model`` is moved, converted and quantised in place. Same arithmetic as the model itself; in float32 on a CPU, the same bits.

    Raises:
        WbvlaError: see :meth:`EngineConfig.require`.
    """
    config.require()
    model.to(config.device).eval().requires_grad_(False)
    for parameter in model.parameters():  # not the buffers: frequencies of rotary positions in bfloat16 turn by up to half a radian over 300 tokens
        parameter.data = parameter.data.to(DTYPES[config.dtype])
    quantize(model, config.quantize)
    if config.device == "cpu":
        return record(model, max_words) if config.compile and config.dtype == "float32" and config.quantize == "none" else _plain(model)
    return _cuda_graph(model, max_words, inductor=config.quantize != "none") if config.compile else _plain(model)


def quantize(model: Vla, kind: str) -> None:
    """Language model and projector to int8 or int4 weights; not the towers (a tenth of the 7B), nor the output head, whose rows are read one by one."""
    if kind == "none":
        return
    ao = _torchao()
    names = set(linear_layers(model, towers=False))
    # the packing whose kernel comes with torch
    settings = ao.Int8WeightOnlyConfig() if kind == "int8" else ao.Int4WeightOnlyConfig(group_size=128, int4_packing_format="tile_packed_to_4d")
    ao.quantize_(model, settings, filter_fn=lambda module, name: isinstance(module, nn.Linear) and name in names)


def _torchao():
    try:
        from torchao import quantization
    except ImportError as error:
        raise WbvlaError(f"--quantize needs torchao ({error}); `pip install 'wbvla[quantize]' -c requirements/pins.txt`, or use --quantize none") from error
    return quantization


def _plain(model: Vla) -> Forward:
    plain, device = Plain(model), next(model.parameters()).device

    def run(pixel_values: torch.Tensor, word_ids: torch.Tensor) -> VlaOutput:
        out = VlaOutput(*plain(pixel_values.to(device), word_ids.to(device)))
        _finish(device)
        return out

    return run


@torch.no_grad()
def _cuda_graph(model: Vla, max_words: int, inductor: bool) -> Forward:
    """All kernels of one pass, captured once. Inputs are copied to the places that were captured; outputs stay where they are until the next call."""
    device = next(model.parameters()).device
    forward = torch.compile(Plain(model), dynamic=False) if inductor else Plain(model)
    pixels, words = (tensor[0].to(device) for tensor in example_inputs(model, max_words))
    side = torch.cuda.Stream()  # capture wants everything allocated and chosen beforehand, on another stream than the default one
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            forward(pixels, words)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = forward(pixels, words)

    def run(pixel_values: torch.Tensor, word_ids: torch.Tensor) -> VlaOutput:
        pixels.copy_(pixel_values)
        words.copy_(word_ids)
        graph.replay()
        _finish(device)
        return VlaOutput(*outputs)

    return run


def _finish(device: torch.device) -> None:
    """Wait for the GPU, so that stages are timed where they are spent."""
    if device.type == "cuda":
        torch.cuda.synchronize()
