"""Tensor names: those of Prismatic-native runs to the published Hugging Face ones, which are the model's, and back.

    native                                          published
    vision_backbone.featurizer.X                    vision_backbone.featurizer.X            one encoder
    vision_backbone.dino_featurizer.X               vision_backbone.featurizer.X            two encoders
    vision_backbone.{siglip,clip}_featurizer.X      vision_backbone.fused_featurizer.X
        ... lsN.gamma                                   ... lsN.scale_factor
    projector.projector.{0,2,4}.X                   projector.fc{1,2,3}.X
    projector.projector.X                           projector.X                             `linear`
    llm_backbone.llm.X                              language_model.X

The published conversion forgets the layer scales of a lone DINOv2 and the CLIP of DinoCLIP; here every name has a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

FIRST, SECOND = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
VISION = "vision_backbone."
EMBEDDING, TIED_HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
"""The output head is the embedding itself in models that tie the two, and then has no tensor under its own name."""

_TO_PUBLISHED = (
    (r"vision_backbone\.(?:dino_)?featurizer\.(.+)", FIRST + r"\1"),
    (r"vision_backbone\.(?:siglip|clip)_featurizer\.(.+)", SECOND + r"\1"),
    (r"projector\.projector\.0\.(.+)", r"projector.fc1.\1"),
    (r"projector\.projector\.2\.(.+)", r"projector.fc2.\1"),
    (r"projector\.projector\.4\.(.+)", r"projector.fc3.\1"),
    (r"projector\.projector\.(weight|bias)", r"projector.\1"),
    (r"llm_backbone\.llm\.(.+)", r"language_model.\1"),
)


def _native_layer(found: re.Match[str]) -> str:
    return f"projector.projector.{2 * int(found[1]) - 2}.{found[2]}"


_TO_NATIVE: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"projector\.fc([123])\.(.+)", _native_layer),
    (r"projector\.(weight|bias)", r"projector.projector.\1"),
    (r"language_model\.(.+)", r"llm_backbone.llm.\1"),
)
_GAMMA = re.compile(r"(\.ls\d+)\.gamma$")
_SCALE_FACTOR = re.compile(r"(\.ls\d+)\.scale_factor$")


def published_name(native: str) -> str | None:
    """The published name of a tensor of a native run, or None where no row fits.

    >>> published_name("vision_backbone.dino_featurizer.blocks.0.ls1.gamma")
    'vision_backbone.featurizer.blocks.0.ls1.scale_factor'
    """
    for pattern, replacement in _TO_PUBLISHED:
        found = re.fullmatch(pattern, native)
        if found:
            return _GAMMA.sub(r"\1.scale_factor", found.expand(replacement))
    return None


def native_name(published: str, timm_ids: Iterable[str]) -> str:
    """The name that a native run has for a published tensor of a model with these encoders.

    >>> native_name("projector.fc3.bias", [])
    'projector.projector.4.bias'
    """
    ids = list(timm_ids)
    if published.startswith(FIRST):
        prefix = "dino_featurizer" if len(ids) == 2 else "featurizer"
        return _SCALE_FACTOR.sub(r"\1.gamma", f"{VISION}{prefix}.{published.removeprefix(FIRST)}")
    if published.startswith(SECOND):
        prefix = "clip_featurizer" if "clip" in ids[1].split("_siglip")[0] else "siglip_featurizer"
        return _SCALE_FACTOR.sub(r"\1.gamma", f"{VISION}{prefix}.{published.removeprefix(SECOND)}")
    for pattern, replacement in _TO_NATIVE:
        name, count = re.subn(rf"^{pattern}$", replacement, published)
        if count:
            return name
    return published
