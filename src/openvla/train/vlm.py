"""Recipes that make a vision-language model, and that keep one alive while it learns to act.

A vision-language model is trained in two stages (LLaVA) or in the second alone, which Prismatic found to be as good and
which its models, OpenVLA's base among them, were trained in. What comes out is a checkpoint that robot recipes start
from. `data` is LLaVA's JSON, or the directory that holds it and, below it, its images.

Source: Karamcheti et al. 2024 (Prismatic), sections 2 and 4.1, and its configuration; Brohan et al. 2023 (RT-2),
section 3.2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from openvla.train.config import TrainConfig
from openvla.train.pretraining import a100
from openvla.train.stage import Stage

BASE = "prism-dinosiglip-224px+7b"
ALIGN_EXAMPLES, FINETUNE_EXAMPLES = 558_128, 665_298
"""Of LLaVA v1.5: image-caption pairs, and conversations."""


def vlm_align(data: Path, output: Path) -> tuple[Stage, ...]:
    """Vision-language model, stage one: the projector learns from captions (LLaVA-Pretrain); 8 A100.

    Hardware: 8 A100 80 GB. One epoch of 558,128 pairs in batches of 256, 1e-3 with a cosine after 3 % of warm-up. It
    starts from published encoders and Llama 2 (--language-model and --vision-weights take them from disk) and a new
    projector.
    """
    return (
        Stage(
            TrainConfig(
                data=data,
                output=output,
                checkpoint=f"preset:{BASE}",
                image_text=data,
                image_text_ratio=1.0,
                captions=True,
                method="align",
                steps=ALIGN_EXAMPLES // 256,
                batch_size=256,
                accumulate=2,
                learning_rate=1e-3,
                schedule="cosine",
                warmup_ratio=0.03,
                checkpoint_activations=True,
                hold_out=1000,
            ),
            preset=BASE,
            cards=a100(8),
        ),
    )


def vlm_finetune(data: Path, output: Path) -> tuple[Stage, ...]:
    """Vision-language model, stage two or the only one: it learns to talk (LLaVA-Instruct); 8 A100.

    Hardware: 8 A100 80 GB. Projector and language model learn, the encoders stay. Two epochs of 665,298 conversations,
    text alone among them, in batches of 128, 2e-5 with a cosine after 3 % of warm-up, decay 0.1. So OpenVLA's own base
    was made, in one stage; --checkpoint, the result of `vlm-align`, makes it stage two.
    """
    [stage] = vlm_align(data, output)
    finetune = replace(
        stage.config,
        captions=False,
        method="frozen-vision",
        steps=2 * FINETUNE_EXAMPLES // 128,
        batch_size=128,
        accumulate=1,
        learning_rate=2e-5,
        weight_decay=0.1,
    )
    return (replace(stage, config=finetune),)


def vlm(data: Path, output: Path) -> tuple[Stage, ...]:
    """Vision-language model in two stages, on align/ and finetune/ below --data; 8 A100.

    Hardware: 8 A100 80 GB. As LLaVA 1.5 was made; see `vlm-align` and `vlm-finetune`.
    """
    [align] = vlm_align(data / "align", output / "align")
    [finetune] = vlm_finetune(data / "finetune", output / "finetune")
    aligned = str(align.config.output / "final")
    return align, replace(finetune, config=replace(finetune.config, checkpoint=aligned))


def co_finetune(data: Path, output: Path) -> tuple[Stage, ...]:
    """OpenVLA 7 B learns one data set, and goes on talking: frames and conversations half and half; 8 A100.

    Hardware: 8 A100 80 GB. What RT-2 did to keep what the language model knew, and OpenVLA left out. --data holds
    robot/ (--dataset and --mixture say what that is) and image-text/. --checkpoint, the result of `vlm-finetune`,
    starts from a model that has not acted yet. Nothing was published for this model; the run measures both, on held-out
    data.
    """
    return (
        Stage(
            TrainConfig(
                data=data / "robot",
                output=output,
                checkpoint="openvla/openvla-7b",
                dataset="bridge_orig",
                image_text=data / "image-text",
                image_text_ratio=0.5,
                augment=True,
                batch_size=256,
                accumulate=4,
                steps=20_000,
                learning_rate=2e-5,
                checkpoint_activations=True,
            ),
            preset="openvla-7b",
            cards=a100(8),
        ),
    )
