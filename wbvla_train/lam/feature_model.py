"""The latent action model of the full size, in the space of frozen DINOv2 features.

    features a, b [B, C, h, w] --encoder--> z [B, T, D] --quantiser--> codes --decoder--> features of b
                                                       features a ------------^

Encoder: a space-time transformer whose tokens are tubelets of both frames, a patch of the first and the same patch of the later one
(prior work: ViViT, VideoMAE), beside the action tokens; every token sees every other. UniVLA encodes each frame's patches as tokens
of their own, joined by an attention over time in every block: twice the tokens and a third more weights per block. docs/lam.md has what that costs.
Decoder: a transformer over the first frame's patches and the codes that predicts the change of every patch.
"""

from __future__ import annotations

import torch
from torch import nn

from wbvla_train.lam.config import BACKBONES, ModelConfig
from wbvla_train.lam.features import FrozenFeatures, load_features
from wbvla_train.lam.model import Block, LatentActionModel, Prediction

EXPANSION = 4  # of the blocks' MLPs (U)


def tokens_of(features: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return features.flatten(2).transpose(1, 2)


class FeatureEncoder(nn.Module):
    """Features of both frames -> z [B, T, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = BACKBONES[config.backbone]["hidden_size"]
        self.project = nn.Linear(2 * channels, config.width)
        self.positions = nn.Parameter(torch.randn(1, config.patches, config.width) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, EXPANSION) for _ in range(config.blocks))
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.code_dim))

    def forward(self, first: torch.Tensor, later: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        x = self.project(tokens_of(torch.cat((first, later), dim=1))) + self.positions
        x = torch.cat((self.queries.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.head(self.blocks[-1](x, self.queries.shape[1]))  # only the action tokens are read


class FeatureDecoder(nn.Module):
    """Features of the first frame + code values -> features of the later frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = BACKBONES[config.backbone]["hidden_size"]
        self.project, self.actions = nn.Linear(channels, config.width), nn.Linear(config.code_dim, config.width)
        self.positions = nn.Parameter(torch.randn(1, config.patches, config.width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)  # of the codes: one book per token
        self.blocks = nn.Sequential(*(Block(config.width, config.heads, EXPANSION) for _ in range(config.decoder_blocks)))
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, channels))
        nn.init.zeros_(self.head[1].weight)  # start as a copy of the first frame, as in pixels
        nn.init.zeros_(self.head[1].bias)

    def forward(self, first: torch.Tensor, values: torch.Tensor, lens: torch.Tensor) -> Prediction:
        """first [B, C, h, w], values [B, T, D]; the lens is not used."""
        patches = self.project(tokens_of(first)) + self.positions
        x = self.blocks(torch.cat((self.actions(values) + self.places, patches), dim=1))
        change = self.head(x[:, self.places.shape[1] :])
        return Prediction(first + change.transpose(1, 2).unflatten(2, first.shape[2:]), None, None)


class FeatureActionModel(LatentActionModel):
    """:class:`LatentActionModel` behind a frozen extractor; features are standardised per channel.

    Attributes:
        extractor: moves with the model from device to device; not among its parameters or in its state.
    """

    def __init__(self, config: ModelConfig, extractor: FrozenFeatures) -> None:
        super().__init__(config, FeatureEncoder(config), FeatureDecoder(config))
        self._extractor = (extractor,)  # in a tuple: torch does not take it for a part
        shape = (BACKBONES[config.backbone]["hidden_size"], 1, 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    @property
    def extractor(self) -> FrozenFeatures:
        return self._extractor[0]

    def _apply(self, fn, recurse: bool = True):
        self.extractor._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        return self.standardise(self.extractor(frames))

    def standardise(self, features: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] from the extractor, or from disk, -> what the model encodes and predicts."""
        return (features.float() - self.mean) / self.std

    @torch.no_grad()
    def fit_standardisation(self, features: torch.Tensor) -> None:
        """Mean and spread per channel over patches [B, C, h, w] from the extractor."""
        self.mean.copy_(features.float().mean((0, 2, 3))[:, None, None])
        self.std.copy_(features.float().std((0, 2, 3)).clamp_min(1e-3)[:, None, None])


def new_model(config: ModelConfig, features: str = "") -> LatentActionModel:
    """An untrained model of the configuration's feature space.

    Args:
        features: where the frozen extractor's weights are (see :func:`~wbvla_train.lam.features.load_features`); none in pixel space.
    """
    if config.feature_space == "pixels":
        return LatentActionModel(config)
    return FeatureActionModel(config, load_features(features, config))
