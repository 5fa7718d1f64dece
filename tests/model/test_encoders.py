from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from openvla.errors import CheckpointError
from openvla.model.encoders import read_encoder, resample
from openvla.nn.vit import VisionTransformer, ViTConfig

DINO = ViTConfig(28, 14, 24, 2, 2, 48, 5, True)
SIGLIP = ViTConfig(28, 14, 16, 2, 2, 32, attention_pool=True)
CLIP = ViTConfig(28, 14, 16, 2, 2, 32, 1, class_position=True, norm_pre=True, patch_bias=False)


def weights(config: ViTConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in VisionTransformer(config).state_dict().items()}


def check(path: Path, config: ViTConfig, wanted: dict[str, Tensor]) -> None:
    found = read_encoder(path, config)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name].mapped(), tensor), name
        assert found[name].shape == tuple(tensor.shape)


def test_timm_weights_are_read(tmp_path: Path) -> None:
    wanted = weights(DINO)
    save_file({name.replace("scale_factor", "gamma"): t for name, t in wanted.items()}, tmp_path / "timm.safetensors")
    check(tmp_path / "timm.safetensors", DINO, wanted)


def test_open_clip_weights_of_siglip_are_read_without_their_text_tower(tmp_path: Path) -> None:
    wanted = weights(SIGLIP)
    theirs = {f"visual.trunk.{name}": tensor for name, tensor in wanted.items()}
    torch.save(
        theirs | {"text.token_embedding.weight": torch.ones(3), "logit_scale": torch.ones(())}, tmp_path / "s.bin"
    )
    check(tmp_path / "s.bin", SIGLIP, wanted)


def test_openai_weights_of_clip_are_read(tmp_path: Path) -> None:
    wanted = weights(CLIP)
    theirs = {"visual.class_embedding": wanted["cls_token"].flatten(), "visual.proj": torch.ones(16, 8)}
    theirs["visual.positional_embedding"] = wanted["pos_embed"][0]
    for name, tensor in wanted.items():
        old = (
            name.replace("patch_embed.proj", "conv1")
            .replace("norm_pre", "ln_pre")
            .replace("blocks.", "transformer.resblocks.")
        )
        old = old.replace("norm1", "ln_1").replace("norm2", "ln_2").replace("attn.qkv.", "attn.in_proj_")
        old = old.replace("attn.proj", "attn.out_proj").replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        old = "ln_post" + old.removeprefix("norm") if old.startswith("norm") else old
        if name not in ("cls_token", "pos_embed"):
            theirs[f"visual.{old}"] = tensor
    torch.save({"state_dict": theirs}, tmp_path / "clip.bin")
    check(tmp_path / "clip.bin", CLIP, wanted)


def test_meta_weights_are_read_with_the_class_position_folded_in(tmp_path: Path) -> None:
    wanted = weights(DINO)
    position = torch.randn(1, 1, 24)
    theirs = {name.replace("scale_factor", "gamma"): tensor for name, tensor in wanted.items()}
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["pos_embed"] = torch.cat([position, wanted["pos_embed"]], 1)
    theirs["mask_token"] = torch.zeros(1, 24)
    torch.save(theirs, tmp_path / "meta.pth")
    check(tmp_path / "meta.pth", DINO, wanted | {"cls_token": wanted["cls_token"] + position})


@pytest.mark.parametrize("config", [DINO, CLIP])
def test_positions_of_another_image_size_are_resampled(config: ViTConfig, tmp_path: Path) -> None:
    wanted = weights(config)
    kept = int(config.class_position)
    wanted["pos_embed"] = torch.randn(1, kept + 25, config.dim).bfloat16()
    torch.save(wanted, tmp_path / "large.pt")
    found = read_encoder(tmp_path / "large.pt", config)["pos_embed"].mapped()
    assert found.shape == (1, kept + 4, config.dim)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found[:, :kept], wanted["pos_embed"][:, :kept])
    grid = wanted["pos_embed"][0, kept:, 0].float().view(1, 1, 5, 5)
    slow = F.interpolate(grid, (2, 2), mode="bicubic", antialias=True)
    assert torch.equal(found[0, kept:, 0], slow.flatten().bfloat16())


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    positions = torch.randn(1, 17, 6)
    torch.testing.assert_close(resample(positions, 1, 4, 4), positions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.bias"), r"lacks the tensor 'norm\.bias' of shape \[24\]: it holds another encoder"),
        (
            lambda w: w.update({"norm.bias": torch.ones(7)}),
            r"tensor 'norm\.bias' has shape \[7\], where \[24\] belongs",
        ),
        (
            lambda w: w.update(pos_embed=torch.ones(1, 7, 24)),
            r"position table has shape \[1, 7, 24\], which is no square",
        ),
        (lambda w: w.update(pos_embed=torch.ones(9)), r"position table has shape \[9\]"),
        (lambda w: w.clear(), r"lacks the tensor 'pos_embed'"),
    ],
)
def test_another_encoder_is_named(change, message: str, tmp_path: Path) -> None:
    theirs = weights(DINO)
    change(theirs)
    torch.save(theirs, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        read_encoder(tmp_path / "other.pt", DINO)
