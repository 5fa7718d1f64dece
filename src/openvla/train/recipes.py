"""Runs that are worth repeating: functions that return the stages of a run, with what they cost and give.

Here are those for one machine, and the table of all. Any setting can be changed on the command line.
Source: the published fine-tuning script (vla-scripts/finetune.py), its notes on memory; Kim et al. 2024, section 5.3.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from openvla.train import pretraining, vlm
from openvla.train.config import TrainConfig
from openvla.train.stage import Cards, Demonstrations, Recipe, Stage

OPENVLA = "openvla/openvla-7b"


def lora(data: Path, output: Path) -> tuple[Stage, ...]:
    """OpenVLA 7 B learns one data set by LoRA, rank 32; one A100, 10 to 15 hours.

    Hardware: one A100 80 GB. Published: rank 32, 5e-4 constant, batch 16, random crops and colours, 110.8 M of 7,652 M
    weights; 10 to 15 hours for a new task, about 72 GB at batch 16 and 27 GB at the least with the published code.
    Success is that of full fine-tuning. Aim at an action-token accuracy above 95 %. `--dataset` names another data set.
    """
    return (_finetuning(data, output, method="lora", learning_rate=5e-4, weight_decay=0.01, steps=40_000),)


def full(data: Path, output: Path) -> tuple[Stage, ...]:
    """OpenVLA 7 B learns one data set with every weight; 8 A100, 5 to 15 hours.

    Hardware: 8 A100 80 GB. Published: 2e-5 constant, 32 examples per card, 5 to 15 hours for a new task: eight times
    the compute of LoRA. Activations are computed twice, without which so many examples do not fit. Start it with
    `torchrun --nproc-per-node 8`. `--dataset` names another data set.
    """
    cards, settings = pretraining.a100(8), {"batch_size": 256, "steps": 10_000, "checkpoint_activations": True}
    return (_finetuning(data, output, cards=cards, learning_rate=2e-5, **settings),)


def qlora_16gb(data: Path, output: Path) -> tuple[Stage, ...]:
    """OpenVLA 7 B learns one data set by QLoRA on a card of 16 GB.

    Hardware: one card with 16 GB that multiplies bfloat16. Four bits a weight with scales of eight, one example at a
    time, decoder activations computed twice. No success was published for QLoRA. `--dataset` names another data set.
    """
    card = Cards(1, 16.0, 97.0)
    return (_finetuning(data, output, cards=card, accumulate=16, double_quantization=True, **QLORA),)


def qlora_24gb(data: Path, output: Path) -> tuple[Stage, ...]:
    """OpenVLA 7 B learns one data set by QLoRA on a card of 24 GB.

    Hardware: one card with 24 GB, such as an RTX 4090. Four bits a weight, four examples at a time, decoder activations
    computed twice. No success was published for QLoRA. `--dataset` names another data set.
    """
    return (_finetuning(data, output, cards=Cards(1, 24.0, 165.0), accumulate=4, **QLORA),)


def nano_metaworld(data: Path, output: Path) -> tuple[Stage, ...]:
    """The shipped policy `nano`: ten Meta-World tasks, image and words only; 2 CPU cores, 2 hours.

    The second stage shows softer experts (`sim.demonstrations` says why). Hardware: 2 CPU cores with bfloat16
    instructions. Recording takes about 11 and 6 minutes, training 70 to 95 and 14 (70 to 100 examples a second). Of 250
    evaluation episodes 86 % succeed after the first stage and 97 % after the second (`docs/nano.md`).
    """
    first = TrainConfig(
        data=data / "1-experts",
        output=output / "1-experts",
        checkpoint="preset:nano",
        steps=12500,
        batch_size=32,
        learning_rate=6e-4,
        schedule="cosine",
        warmup_ratio=0.02,
        weight_decay=0.01,
        precision="bf16",
        validate_every=1000,
        save_every=1000,
    )
    second = replace(
        first,
        data=data / "2-softer",
        output=output / "2-softer",
        checkpoint=str(first.output / "final"),
        steps=2000,
        learning_rate=3e-4,
    )
    experts = Demonstrations("metaworld", episodes=300, image_size=112, seed=0, noise=0.5)
    softer = Demonstrations("metaworld", episodes=160, image_size=112, seed=10_000, noise=0.5, gain=0.5)
    return Stage(first, experts, "nano"), Stage(second, softer, "nano")


QLORA = {
    "method": "qlora",
    "learning_rate": 5e-4,
    "weight_decay": 0.01,
    "steps": 40_000,
    "checkpoint_activations": True,
}


def _finetuning(data: Path, output: Path, cards: Cards | None = None, **settings: object) -> Stage:
    """From OpenVLA 7 B, with random crops and colours, as published."""
    plain = TrainConfig(data, output, OPENVLA, dataset="bridge_orig", augment=True, precision="bf16", save_every=5000)
    return Stage(replace(plain, **settings), preset="openvla-7b", cards=cards or pretraining.a100(1))  # type: ignore[arg-type]


RECIPES: dict[str, Recipe] = {
    "openvla-7b": pretraining.openvla_7b,
    "openvla-v0.1": pretraining.openvla_v01,
    "bridge-siglip-224": pretraining.bridge_siglip_224,
    "bridge-siglip-384": pretraining.bridge_siglip_384,
    "bridge-siglip-224-frozen": pretraining.bridge_siglip_224_frozen,
    "bridge-dinosiglip-224": pretraining.bridge_dinosiglip_224,
    "bridge-dinosiglip-384": pretraining.bridge_dinosiglip_384,
    "bridge-llava": pretraining.bridge_llava,
    "finetune-lora": lora,
    "finetune-full": full,
    "finetune-qlora-16gb": qlora_16gb,
    "finetune-qlora-24gb": qlora_24gb,
    "vlm": vlm.vlm,
    "vlm-align": vlm.vlm_align,
    "vlm-finetune": vlm.vlm_finetune,
    "co-finetune": vlm.co_finetune,
    "nano-metaworld": nano_metaworld,
}
