"""Actor and critic for stable-baselines3: the actor reads the first part of the observation, the critic all of it."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn


def weights_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What is evaluated and exported of a training state: the running mean of the weights (states from before there was one: the weights)."""
    return state.get("averaged", state["policy"])


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear + ELU per layer."""
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(a, b), nn.ELU()]
    return nn.Sequential(*layers)


class SplitExtractor(nn.Module):
    """[B, actor + critic part] -> (actor latent, critic latent)."""

    def __init__(self, actor_size: int, size: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.actor_size = actor_size
        self.policy_net = mlp([actor_size, *layers])
        self.value_net = mlp([size, *layers])
        self.latent_dim_pi = self.latent_dim_vf = layers[-1]

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return self.policy_net(features[:, : self.actor_size])

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return self.value_net(features)


class AsymmetricPolicy(ActorCriticPolicy):
    """Gaussian policy whose critic also sees what only simulation knows."""

    def __init__(self, *args, actor_size: int, layers: tuple[int, ...], **kwargs) -> None:
        self._actor_size, self._layers = actor_size, tuple(layers)
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = SplitExtractor(self._actor_size, self.features_dim, self._layers)

    def actor(self) -> nn.Sequential:
        """Deterministic actor: actor observation [B, D] -> mean action [B, A]."""
        return nn.Sequential(*self.mlp_extractor.policy_net, self.action_net)
