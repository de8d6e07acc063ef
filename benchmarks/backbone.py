"""What one decision costs on another backbone: parameters, image tokens, processor time of the VLA's pass.

python benchmarks/backbone.py --image-sizes 512 192
python benchmarks/backbone.py --source FOLDER

Without a source: random weights in SmolVLM-256M's sizes (SigLIP-B/16 at 512 px, SmolLM2-135M, 4 x 4 patches to a token); time does not depend on them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from wbvla_core.console import program
from wbvla_vla.config import ImageTextConfig, LanguageConfig, TowerConfig
from wbvla_vla.engine import EngineConfig, build
from wbvla_vla.image_text import MAX_WORDS, ImageTextVla, load_image_text
from wbvla_vla.model import parameter_count
from wbvla_vla.tokens import InstructionTokenizer, build_tokenizer

ROWS = 49_280  # of SmolVLM's vocabulary


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        source: published weights, a folder or owner/name@revision; None = random ones.
        image_sizes: edges of the policy image, px.
        decisions: how many are timed.
    """

    source: str | None = None
    image_sizes: tuple[int, ...] = (512, 192)
    decisions: int = 5
    threads: int = 1


def smolvlm_256m(image_size: int) -> ImageTextVla:
    """SmolVLM in its smallest published size, with random weights."""
    text = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "image_size": 512, "patch_size": 16}
    config = ImageTextConfig(
        {"model_type": "smolvlm", "scale_factor": 4, "text_config": {**text, "intermediate_size": 1536, "pad_token_id": None}, "vision_config": vision},
        TowerConfig(768, 12, 12, 3072, 16),
        LanguageConfig(576, 30, 9, 1536, max_words=MAX_WORDS),
        image_size,
        image_tokens=(image_size // 64) ** 2,
    )
    words = build_tokenizer([f"word{index}" for index in range(ROWS)], config.codebook_size, config.tokens_per_kind)
    return ImageTextVla(config, InstructionTokenizer(words, MAX_WORDS)).eval()


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    print("| image | image tokens | parameters | one decision, processor time |\n|---|---|---|---|")
    for size in options.image_sizes:
        model = load_image_text(options.source, image_size=size).model if options.source else smolvlm_256m(size)
        count = parameter_count(model)
        run, times = build(model, MAX_WORDS, EngineConfig()), []
        pixels, words = torch.randn(1, model.config.channels, size, size), torch.full((1, MAX_WORDS), 5)
        with torch.inference_mode():
            for _ in range(options.decisions):
                start = time.process_time()
                out = run(pixels, words)
                times.append(time.process_time() - start)
        print(f"| {size} px | {out.visual_hidden.shape[1]} | {count / 1e6:.1f} M | {1e3 * np.median(times):.0f} ms |")
    return 0


if __name__ == "__main__":
    program(main)
