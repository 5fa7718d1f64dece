"""The published model registry: every vision-language model and every vision-language-action run, one literal row each.

Settings that all rows share are the defaults below; a row says only what sets it apart.
Source: Prismatic (`prismatic/conf/models.py`), OpenVLA and MiniVLA (`prismatic/conf/vla.py`); `line` is where in the
file the row is defined.
"""

from __future__ import annotations

from dataclasses import dataclass

TWO_STAGE, ONE_STAGE, FUSED = "gelu-mlp", "no-align+gelu-mlp", "no-align+fused-gelu-mlp"
OPENVLA, MINI = "openvla", "openvla-mini"


@dataclass(frozen=True)
class VLM:
    """A vision-language model: its parts, how its images are brought to size, and its second training stage.

    arch: the published arch_specifier; the prefix "no-align+" says that the projector is not trained on its own first.
    epochs, max_steps: of the fine-tuning stage (batch 128, learning rate 2e-5, cosine with 3 % warm-up, decay 0.1).
    """

    vision: str
    llm: str
    arch: str
    resize: str
    line: int | None
    epochs: int = 1
    max_steps: int | None = None
    repository: str = OPENVLA
    llm_max_length: int = 2048

    @property
    def source(self) -> str:
        """Where the row comes from."""
        return f"{self.repository}, prismatic/conf/models.py" + (f":{self.line}" if self.line else "")


@dataclass(frozen=True)
class VLA:
    """A vision-language-action run: the model it starts from, what it trains, and on what.

    Every run has a constant learning rate of 2e-5, no decay, gradients clipped at 1 and 32 examples per GPU.
    method: a key of `train.methods`. images: per example; with `wrist`, every second one is the wrist camera's.
    """

    base: str
    method: str
    data: str
    gpus: int
    line: int
    repository: str = OPENVLA
    action_tokenizer: str = "action_tokenizer"
    images: int = 1
    wrist: bool = False

    @property
    def source(self) -> str:
        """Where the row comes from."""
        return f"{self.repository}, prismatic/conf/vla.py:{self.line}"


VLMS: dict[str, VLM] = {
    # id: vision backbone, language model, arch_specifier, resize strategy, line, epochs, max_steps
    "reproduction-llava-v15+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", TWO_STAGE, "letterbox", 78),
    "reproduction-llava-v15+13b": VLM("clip-vit-l-336px", "vicuna-v15-13b", TWO_STAGE, "letterbox", 118),
    "one-stage+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 128),
    "one-stage+13b": VLM("clip-vit-l-336px", "vicuna-v15-13b", ONE_STAGE, "letterbox", 134),
    "full-ft-multi-stage+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", TWO_STAGE, "letterbox", 142),
    "full-ft-one-stage+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 147),
    "in1k-224px+7b": VLM("in1k-vit-l", "vicuna-v15-7b", ONE_STAGE, "letterbox", 156),
    "dinov2-224px+7b": VLM("dinov2-vit-l", "vicuna-v15-7b", ONE_STAGE, "letterbox", 162),
    "clip-224px+7b": VLM("clip-vit-l", "vicuna-v15-7b", ONE_STAGE, "letterbox", 168),
    "siglip-224px+7b": VLM("siglip-vit-so400m", "vicuna-v15-7b", ONE_STAGE, "letterbox", 174),
    "clip-336px-resize-crop+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "resize-crop", 181),
    "clip-336px-resize-naive+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "resize-naive", 187),
    "siglip-384px-letterbox+7b": VLM("siglip-vit-so400m-384px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 193),
    "siglip-384px-resize-crop+7b": VLM("siglip-vit-so400m-384px", "vicuna-v15-7b", ONE_STAGE, "resize-crop", 200),
    "siglip-384px-resize-naive+7b": VLM("siglip-vit-so400m-384px", "vicuna-v15-7b", ONE_STAGE, "resize-naive", 207),
    "dinoclip-336px-letterbox+7b": VLM("dinoclip-vit-l-336px", "vicuna-v15-7b", FUSED, "letterbox", 215),
    "dinoclip-336px-resize-naive+7b": VLM("dinoclip-vit-l-336px", "vicuna-v15-7b", FUSED, "resize-naive", 223),
    "dinosiglip-384px-letterbox+7b": VLM("dinosiglip-vit-so-384px", "vicuna-v15-7b", FUSED, "letterbox", 231),
    "dinosiglip-384px-resize-naive+7b": VLM("dinosiglip-vit-so-384px", "vicuna-v15-7b", FUSED, "resize-naive", 239),
    "llama2+7b": VLM("clip-vit-l-336px", "llama2-7b-pure", ONE_STAGE, "letterbox", 251),
    "llama2+13b": VLM("clip-vit-l-336px", "llama2-13b-pure", ONE_STAGE, "letterbox", 257),
    "llama2-chat+7b": VLM("clip-vit-l-336px", "llama2-7b-chat", ONE_STAGE, "letterbox", 264),
    "llama2-chat+13b": VLM("clip-vit-l-336px", "llama2-13b-chat", ONE_STAGE, "letterbox", 270),
    "mistral-v0.1+7b": VLM("clip-vit-l-336px", "mistral-v0.1-7b-pure", ONE_STAGE, "letterbox", 276),
    "mistral-instruct-v0.1+7b": VLM("clip-vit-l-336px", "mistral-v0.1-7b-instruct", ONE_STAGE, "letterbox", 282),
    "phi-2+3b": VLM("clip-vit-l-336px", "phi-2-3b", ONE_STAGE, "letterbox", 288),
    "vicuna-no-cotraining+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 296),
    "llama2-no-cotraining+7b": VLM("clip-vit-l-336px", "llama2-7b-pure", ONE_STAGE, "letterbox", 301),
    "train-1.25-epochs+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 311, 1, 6500),
    "train-1.5-epochs+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 317, 1, 7800),
    "train-2-epochs+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 323, 2),
    "train-3-epochs+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 329, 3),
    "llava-lvis4v+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 337),
    "llava-lrv+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 343),
    "llava-lvis4v-lrv+7b": VLM("clip-vit-l-336px", "vicuna-v15-7b", ONE_STAGE, "letterbox", 349),
    "prism-clip-controlled+7b": VLM("clip-vit-l-336px", "llama2-7b-pure", ONE_STAGE, "resize-naive", 358),
    "prism-clip-controlled+13b": VLM("clip-vit-l-336px", "llama2-13b-pure", ONE_STAGE, "resize-naive", 366),
    "prism-clip+7b": VLM("clip-vit-l-336px", "llama2-7b-pure", ONE_STAGE, "resize-naive", 375, 2),
    "prism-clip+13b": VLM("clip-vit-l-336px", "llama2-13b-pure", ONE_STAGE, "resize-naive", 385, 2),
    "prism-siglip-controlled+7b": VLM("siglip-vit-so400m-384px", "llama2-7b-pure", ONE_STAGE, "resize-naive", 395),
    "prism-siglip-controlled+13b": VLM("siglip-vit-so400m-384px", "llama2-13b-pure", ONE_STAGE, "resize-naive", 403),
    "prism-siglip+7b": VLM("siglip-vit-so400m-384px", "llama2-7b-pure", ONE_STAGE, "resize-naive", 412, 2),
    "prism-siglip+13b": VLM("clip-vit-l-336px", "llama2-13b-pure", ONE_STAGE, "resize-naive", 422, 2),
    "prism-dinosiglip-controlled+7b": VLM("dinosiglip-vit-so-384px", "llama2-7b-pure", FUSED, "resize-naive", 432),
    "prism-dinosiglip-controlled+13b": VLM("dinosiglip-vit-so-384px", "llama2-13b-pure", FUSED, "resize-naive", 441),
    "prism-dinosiglip+7b": VLM("dinosiglip-vit-so-384px", "llama2-7b-pure", FUSED, "resize-naive", 451, 2),
    "prism-dinosiglip+13b": VLM("dinosiglip-vit-so-384px", "llama2-13b-pure", FUSED, "resize-naive", 462, 2),
    "dinosiglip-224px-resize-naive+7b": VLM("dinosiglip-vit-so-224px", "vicuna-v15-7b", FUSED, "resize-naive", 473),
    "prism-dinosiglip-224px-controlled+7b": VLM(
        "dinosiglip-vit-so-224px", "llama2-7b-pure", FUSED, "resize-naive", 481
    ),
    "prism-dinosiglip-224px+7b": VLM("dinosiglip-vit-so-224px", "llama2-7b-pure", FUSED, "resize-naive", 491, 2),
    "prism-qwen25-dinosiglip-224px+0_5b": VLM(
        "dinosiglip-vit-so-224px", "qwen25-0_5b-pure", FUSED, "resize-naive", None, 2, None, MINI, 32768
    ),
    "prism-qwen25-extra-dinosiglip-224px+0_5b": VLM(
        "dinosiglip-vit-so-224px", "qwen25-0_5b-extra", FUSED, "resize-naive", None, 2, None, MINI, 32768
    ),
}

VLAS: dict[str, VLA] = {
    # id: base, method, data mixture, GPUs, line, repository, action tokenizer, images, wrist camera
    "siglip-224px+mx-bridge": VLA("siglip-224px+7b", "full", "bridge", 8, 65),
    "prism-dinosiglip-224px+mx-bridge": VLA("prism-dinosiglip-224px+7b", "full", "bridge", 8, 104),
    "siglip-224px-icy+mx-bridge": VLA("siglip-224px+7b", "frozen-vision", "bridge", 8, 96),
    "siglip-224px+mx-oxe-magic-soup": VLA("siglip-224px+7b", "full", "oxe_magic_soup", 64, 113),
    "prism-dinosiglip-224px+mx-oxe-magic-soup-plus": VLA(
        "prism-dinosiglip-224px+7b", "full", "oxe_magic_soup_plus_minus", 64, 126
    ),
    "siglip-224px+mx-tdroid_carrot_in_bowl": VLA("siglip-224px+7b", "full", "tdroid_carrot_in_bowl", 8, 144),
    "siglip-224px+mx-tdroid_pour_corn_in_pot": VLA("siglip-224px+7b", "full", "tdroid_pour_corn_in_pot", 8, 152),
    "siglip-224px-icy+mx-tdroid_carrot_in_bowl": VLA(
        "siglip-224px+7b", "frozen-vision", "tdroid_carrot_in_bowl", 8, 161
    ),
    "siglip-224px-last_layer+mx-tdroid_carrot_in_bowl": VLA(
        "siglip-224px+7b", "last-layer", "tdroid_carrot_in_bowl", 8, 171
    ),
    "siglip-224px-sandwich+mx-tdroid_carrot_in_bowl": VLA(
        "siglip-224px+7b", "sandwich", "tdroid_carrot_in_bowl", 8, 182
    ),
    "siglip-224px+mx-droid_wipe": VLA("siglip-224px+7b", "full", "droid_wipe", 8, 194),
    "prism-dinosiglip-224px+mx-libero-90": VLA(
        "prism-dinosiglip-224px+7b", "full", "libero_90", 8, 189, MINI, "action_tokenizer", 1, False
    ),
    "prism-qwen25-dinosiglip-224px+0_5b+mx-oxe-magic-soup": VLA(
        "prism-qwen25-extra-dinosiglip-224px+0_5b",
        "full",
        "oxe_magic_soup",
        8,
        136,
        MINI,
        "extra_action_tokenizer",
        1,
        False,
    ),
    "prism-qwen25-dinosiglip-224px+0_5b+mx-libero-90": VLA(
        "prism-qwen25-extra-dinosiglip-224px+0_5b",
        "full",
        "libero_90",
        8,
        149,
        MINI,
        "extra_action_tokenizer",
        1,
        False,
    ),
    "prism-qwen25-dinosiglip-224px-t2+0_5b+mx-libero-90": VLA(
        "prism-qwen25-extra-dinosiglip-224px+0_5b",
        "full",
        "libero_90",
        8,
        160,
        MINI,
        "extra_action_tokenizer",
        2,
        False,
    ),
    "prism-qwen25-dinosiglip-224px-wrist+0_5b+mx-libero-90": VLA(
        "prism-qwen25-extra-dinosiglip-224px+0_5b", "full", "libero_90", 8, 166, MINI, "extra_action_tokenizer", 2, True
    ),
    "prism-qwen25-dinosiglip-224px+0_5b+mx-bridge": VLA(
        "prism-qwen25-extra-dinosiglip-224px+0_5b",
        "full",
        "bridge_dataset",
        8,
        176,
        MINI,
        "extra_action_tokenizer",
        1,
        False,
    ),
}
