from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from openvla.codec.batch import IGNORE_INDEX
from openvla.model.checkpoint import Checkpoint, load_checkpoint
from openvla.model.presets import PRESETS
from openvla.model.prismatic import OpenVLA

Golden = tuple[Checkpoint, dict[str, Tensor], NDArray[np.uint8]]

ENCODERS = [
    {"dim": 45, "depth": 2, "num_heads": 3, "mlp_dim": 50, "prefix_tokens": 3, "layer_scale": True},
    {"dim": 28, "depth": 3, "num_heads": 4, "mlp_dim": 31, "prefix_tokens": 0, "layer_scale": False},
]


@pytest.fixture(scope="module", params=["micro", "tiny"])
def reference(request: pytest.FixtureRequest, golden: Path) -> Golden:
    """A published-format checkpoint, the numbers that the published code got from it, and the image it saw."""
    folder = golden / "micro" if request.param == "micro" else request.getfixturevalue("shared") / "golden" / "tiny"
    image = np.asarray(Image.open(folder / "image.png").convert("RGB"))
    return load_checkpoint(folder), load_file(folder / "golden.safetensors"), image


def assert_relative(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """Within `tolerance` of the largest stored value, everywhere."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("strategy", ["resize-naive", "letterbox", "resize-crop"])
def test_pixels_agree_with_the_published_code(reference: Golden, strategy: str) -> None:
    checkpoint, stored, image = reference
    transform = dataclasses.replace(checkpoint.codec.images, strategy=strategy)
    name = "pixel_values" if strategy == "resize-naive" else f"pixel_values.{strategy}"
    assert_relative(torch.from_numpy(transform(image))[None], stored[name])


def test_encoders_and_projector_agree_with_the_published_code(reference: Golden) -> None:
    model, stored = reference[0].model, reference[1]
    dino, siglip = stored["pixel_values"].split(3, dim=1)
    with torch.inference_mode():
        assert_relative(model.vision_backbone.featurizer(dino), stored["dino_features"])
        assert_relative(model.vision_backbone.fused_featurizer(siglip), stored["siglip_features"])
        assert_relative(model.projector(model.vision_backbone(stored["pixel_values"])), stored["projected"])


def test_every_hidden_state_agrees_with_the_published_code(reference: Golden) -> None:
    model, stored = reference[0].model, reference[1]
    if "hidden.0" not in stored:
        pytest.skip("no hidden states are stored")
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: states.append(out))
        for layer in model.language_model.model.layers
    ]
    with torch.inference_mode():
        fused = model.embed(stored["input_ids"], stored["pixel_values"])
        final = model.hidden_states(stored["input_ids"], stored["pixel_values"])
    for hook in hooks:
        hook.remove()
    ours = [fused, *states[:-1], final]
    assert len(ours) == sum(name.startswith("hidden.") for name in stored)
    for index, state in enumerate(ours):
        assert_relative(state, stored[f"hidden.{index}"])


def test_logits_loss_and_gradients_agree_with_the_published_code(reference: Golden) -> None:
    model, stored = reference[0].model, reference[1]
    output = model(stored["input_ids"], stored["pixel_values"], labels=stored["labels"])
    assert_relative(output.logits[:, -stored["logits"].shape[1] :], stored["logits"])
    assert_relative(output.loss[None], stored["loss"])
    names = [name.removeprefix("grad.") for name in stored if name.startswith("grad.")]
    assert len(names) == 4
    gradients = torch.autograd.grad(output.loss, [model.get_parameter(name) for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        assert_relative(gradient, stored[f"grad.{name}"])


def test_a_right_padded_batch_agrees_with_the_published_code(reference: Golden) -> None:
    checkpoint, stored, image = reference
    ids, labels = stored["batch.input_ids"], stored["batch.labels"]
    pixels = torch.from_numpy(np.stack([checkpoint.codec.encode_image(view) for view in (image, image[:, ::-1])]))
    mask = ids != checkpoint.codec.pad_token_id
    with torch.inference_mode():
        output = checkpoint.model(ids, pixels, mask, labels)
        as_numbers = checkpoint.model(ids, pixels, mask.long(), labels)
    assert torch.equal(as_numbers.logits, output.logits)
    assert_relative(output.loss[None], stored["batch.loss"])
    kept = stored["batch.logits"].shape[1]
    real = checkpoint.model.insert_patches(mask, True)[:, -kept:]
    assert_relative(output.logits[:, -kept:][real], stored["batch.logits"][real])


def randomised(preset: str = "micro") -> OpenVLA:
    torch.manual_seed(0)
    model = OpenVLA(PRESETS[preset].model).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def ragged_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, pixels, mask and labels of three examples of 9, 5 and 7 tokens; the padding is arbitrary ids."""
    torch.manual_seed(1)
    ids, pixels = torch.randint(3, 1536, (3, 9)), torch.randn(3, 6, 28, 28)
    mask = torch.arange(9) < torch.tensor([[9], [5], [7]])
    labels = ids.where(mask & (torch.arange(9) >= 3), IGNORE_INDEX)
    return ids, pixels, mask, labels


def test_rows_of_a_right_padded_batch_equal_each_row_alone() -> None:
    model = randomised()
    ids, pixels, mask, _ = ragged_batch()
    together = model(ids, pixels, mask).logits
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model(ids[row : row + 1, :length], pixels[row : row + 1]).logits
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


def test_the_loss_of_supervised_positions_alone_is_the_loss_with_the_same_gradients() -> None:
    model = randomised()
    ids, pixels, mask, labels = ragged_batch()
    whole = model(ids, pixels, mask, labels).loss
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(whole, parameters, allow_unused=True)
    logits, targets = model.supervised_logits(ids, pixels, labels)
    assert len(targets) == (labels != IGNORE_INDEX).sum()
    loss = F.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, whole)
    for ours, theirs in zip(torch.autograd.grad(loss, parameters, allow_unused=True), expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_patches_stand_right_after_the_first_token() -> None:
    model = randomised()
    ids, pixels, *_ = ragged_batch()
    fused = model.embed(ids, pixels)
    tokens = model.language_model.model.embed_tokens(ids)
    assert torch.equal(fused[:, 0], tokens[:, 0])
    assert torch.equal(fused[:, 5:], tokens[:, 1:])
    assert torch.equal(fused[:, 1:5], model.projector(model.vision_backbone(pixels)))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "image_size"), [(4, 2, 70), (8, 1, 60), (4, 4, 56)], ids=["gqa", "mqa", "mha"]
)
def test_a_checkpoint_of_other_sizes_agrees_with_transformers(
    published: Callable[..., Path], heads: int, kv_heads: int, image_size: int
) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    encoders = [encoder | {"patch_size": 14} for encoder in ENCODERS]
    changes = {"encoders": encoders, "image_sizes": [image_size] * 2, "pad_token_id": None}
    directory = published(changes, **sizes, vocab_size=448)
    model = load_checkpoint(directory).model
    text = json.loads((directory / "config.json").read_text())["text_config"]
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text, attn_implementation="eager")).eval()
    theirs.load_state_dict(model.language_model.state_dict())
    ids, pixels = torch.randint(3, 300, (2, 8)), torch.randn(2, 6, image_size, image_size)
    with torch.inference_mode():
        output = model(ids, pixels)
        expected = theirs(inputs_embeds=model.embed(ids, pixels)).logits
    assert output.logits.shape == (2, 8 + (image_size // 14) ** 2, 448)
    assert output.loss is None
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["openvla-7b", "openvla-v01-7b", "nano"])
def test_the_operations_counted_are_those_of_the_linear_layers(preset: str) -> None:
    with torch.device("meta"):
        model = OpenVLA(PRESETS[preset].model)
    counted = 0

    def count(module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        nonlocal counted
        assert isinstance(module, nn.Linear)
        counted += 2 * module.weight.numel() * (inputs[0].numel() // module.in_features)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    side, channels = PRESETS[preset].model.encoders[0].image_size, 3 * len(PRESETS[preset].model.encoders)
    model.hidden_states(
        torch.ones(1, 30, dtype=torch.long, device="meta"), torch.empty(1, channels, side, side, device="meta")
    )
    assert model.forward_flops(30) == pytest.approx(counted, rel=1e-3)
