"""The published robot pre-training runs as recipes: a vision-language model learns to act on Open X-Embodiment data.

Common to all, as published: every weight is trained (unless said otherwise) at a constant 2e-5 without decay, gradients
clipped at 1, 32 examples per GPU, decoder activations computed twice, no augmentation, float32 master weights under
bfloat16. `--data` is the directory that holds each data set under its name. Start them under torchrun, one process per
card: `torchrun --nnodes 8 --nproc-per-node 8 ... --no-python openvla train openvla-7b --data DIR --output DIR`.

Hours that are published count for A100s of 80 GB; `openvla train RECIPE --dry-run` says what the plan expects.
Source: prismatic/conf/vla.py of the published code (the rows are in `model/registry.py`); Kim et al. 2024, section 3.
"""

from __future__ import annotations

from pathlib import Path

from openvla.model.registry import VLAS
from openvla.train.config import TrainConfig
from openvla.train.stage import Cards, Stage

PER_CARD = 32
VLM_REPOSITORY = "TRI-ML/prismatic-vlms"
"""Where the vision-language models are published, each in a folder of its own."""


def a100(count: int) -> Cards:
    """A100s with 80 GB."""
    return Cards(count, 80.0, 312.0)


def openvla_7b(data: Path, output: Path) -> tuple[Stage, ...]:
    """OpenVLA 7 B: DINOv2 and SigLIP, Llama 2, 25 data sets; 64 A100, 14 days.

    Hardware: 64 A100 80 GB, 14 days, 21,500 A100-hours. Published: 295,000 steps of 2,048 examples, 40 epochs as the
    published code counts them, final loss 0.22, action-token accuracy above 95 %. The first 70 % of that run drew from
    `oxe_magic_soup_plus`, DROID included (`--mixture oxe_magic_soup_plus`), the rest from this mixture.
    """
    return (_published("prism-dinosiglip-224px+mx-oxe-magic-soup-plus", data, output, steps=295_000),)


def openvla_v01(data: Path, output: Path) -> tuple[Stage, ...]:
    """OpenVLA v0.1: SigLIP alone, Vicuna 1.5, Octo's mixture; 64 A100.

    Hardware: 64 A100 80 GB. Its steps and hours were not published; as many steps as OpenVLA 7 B are set here, which at
    the same share of the cards' speed take 13 days. The paper's comparison of fine-tuning methods starts from it.
    """
    return (_published("siglip-224px+mx-oxe-magic-soup", data, output, steps=295_000),)


def bridge_siglip_224(data: Path, output: Path) -> tuple[Stage, ...]:
    """Bridge ablation: SigLIP at 224 px with Vicuna 1.5, the reference of the others; 8 A100.

    Hardware: 8 A100 80 GB. About 80,000 steps of 256 examples lead from the vision-language model to 95 % action-token
    accuracy; after one epoch 15 % is normal. The paper chose 224 px: 384 px were no better.
    """
    return (_published("siglip-224px+mx-bridge", data, output),)


def bridge_siglip_384(data: Path, output: Path) -> tuple[Stage, ...]:
    """Bridge ablation: SigLIP at 384 px, 2.7 times the work; 8 A100.

    Hardware: 8 A100 80 GB. Published: no better than 224 px, and three times as long.
    """
    return (_bridge("siglip-384px-resize-naive+7b", data, output),)


def bridge_siglip_224_frozen(data: Path, output: Path) -> tuple[Stage, ...]:
    """Bridge ablation: SigLIP at 224 px, its weights frozen; 8 A100.

    Hardware: 8 A100 80 GB. Published: training the vision encoder was crucial; frozen is clearly worse, unlike in
    vision-language training.
    """
    return (_published("siglip-224px-icy+mx-bridge", data, output),)


def bridge_dinosiglip_224(data: Path, output: Path) -> tuple[Stage, ...]:
    """Bridge ablation: DINOv2 and SigLIP at 224 px with Llama 2, the backbone chosen; 8 A100.

    Hardware: 8 A100 80 GB. Published: among the backbones it follows language best, ahead of LLaVA.
    """
    return (_published("prism-dinosiglip-224px+mx-bridge", data, output),)


def bridge_dinosiglip_384(data: Path, output: Path) -> tuple[Stage, ...]:
    """Bridge ablation: DINOv2 and SigLIP at 384 px with Vicuna 1.5; 8 A100.

    Hardware: 8 A100 80 GB. As for SigLIP alone: no better than 224 px, and three times as long.
    """
    return (_bridge("dinosiglip-384px-resize-naive+7b", data, output),)


def bridge_llava(data: Path, output: Path) -> tuple[Stage, ...]:
    """Bridge ablation: LLaVA 1.5's architecture, CLIP at 336 px with Vicuna 1.5; 8 A100.

    Hardware: 8 A100 80 GB. Published: behind the Prismatic backbone by about 10 points where language must choose
    among several objects.
    """
    return (_bridge("reproduction-llava-v15+7b", data, output),)


def _published(name: str, data: Path, output: Path, steps: int = 80_000) -> Stage:
    """A run of the registry."""
    row = VLAS[name]
    return _stage(row.base, row.method, row.data, row.gpus, steps, data, output)


def _bridge(base: str, data: Path, output: Path) -> Stage:
    """A run on Bridge from another vision-language model."""
    row = VLAS["siglip-224px+mx-bridge"]
    return _stage(base, row.method, row.data, row.gpus, 80_000, data, output)


def _stage(base: str, method: str, mixture: str, cards: int, steps: int, data: Path, output: Path) -> Stage:
    config = TrainConfig(
        data=data,
        output=output,
        checkpoint=f"{VLM_REPOSITORY}/{base}",
        mixture=mixture,
        method=method,  # type: ignore[arg-type]  # the registry's words are the methods'
        steps=steps,
        batch_size=PER_CARD * cards,
        learning_rate=2e-5,
        checkpoint_activations=True,
        precision="bf16",
        hold_out=0,
        save_every=2500,
    )
    return Stage(config, preset=base, cards=a100(cards))
