"""How many parameters a model has and a method trains, counted without allocating any of them.

The layers of a stack are alike except for the last, which some methods train alone; so the model is built with stacks
of two on the meta device, and what the first layer holds counts for all but the last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from openvla.model.prismatic import ModelConfig, OpenVLA
from openvla.nn.meta import on_meta
from openvla.train.methods import ADAPTERS, adapted_layers, adapter_size, check_rank, mark


@dataclass(frozen=True)
class Group:
    """Parameters of one name, in every layer of a stack.

    part: the name, without the layer that holds both layers and embedding; "adapters." and the layer's, of an adapter.
    trained: the method changes them. matrix: of a linear layer, rather than a norm, a bias or a table.
    runs: they take part in the forward pass; else they never have a gradient.
    """

    part: str
    count: int
    trained: bool
    matrix: bool
    runs: bool


@dataclass(frozen=True)
class Census:
    """The parameters of a model under one method, adapters included."""

    groups: tuple[Group, ...]

    def count(
        self, part: str = "", trained: bool | None = None, matrix: bool | None = None, runs: bool | None = None
    ) -> int:
        """Parameters of a part, such as "projector" or "language_model.layers", or of all."""
        return sum(
            group.count
            for group in self.groups
            if group.part.startswith(part)
            and trained in (None, group.trained)
            and matrix in (None, group.matrix)
            and runs in (None, group.runs)
        )


def census(config: ModelConfig, method: str, rank: int) -> Census:
    """Count. Raises UsageError for an unknown method and, where it has adapters, for a rank below 1."""
    with on_meta():
        model = OpenVLA(_shortened(config))
    mark(model, method)
    layers = adapted_layers(model)
    groups: list[Group] = []
    for name, parameter in model.named_parameters():
        matrix = name.endswith(".weight") and name.removesuffix(".weight") in layers
        count = parameter.numel() * _repeats(name, config)
        groups.append(Group(_part(name), count, parameter.requires_grad, matrix, _runs(name)))
    if method in ADAPTERS:
        check_rank(rank)
        for name, layer in layers.items():
            added = adapter_size(layer, rank) * _repeats(name, config)
            groups.append(Group(f"adapters.{_part(name)}", added, trained=True, matrix=True, runs=_runs(name)))
    return Census(tuple(groups))


def _part(name: str) -> str:
    return name.replace("language_model.model.", "language_model.")


def _runs(name: str) -> bool:
    """Patches are what the last block but one of an encoder gives: the last, the norm and the pooling never run."""
    return not re.search(r"^vision_backbone\.\w+\.(blocks\.1|norm|attn_pool)\.", name)


def _shortened(config: ModelConfig) -> ModelConfig:
    return replace(
        config,
        encoders=tuple(replace(encoder, depth=2) for encoder in config.encoders),
        decoder=replace(config.decoder, num_hidden_layers=min(2, config.decoder.num_hidden_layers)),
    )


def _repeats(name: str, config: ModelConfig) -> int:
    """How many parameters or layers of the whole model the one called `name` stands for."""
    if not re.search(r"\.(blocks|layers)\.0\.", name):
        return 1
    if name.startswith("language_model."):
        return max(1, config.decoder.num_hidden_layers - 1)
    return config.encoders["fused_featurizer" in name].depth - 1
