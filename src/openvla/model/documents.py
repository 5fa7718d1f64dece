"""The small files of a published Hugging Face directory, written from a codec where the source has none.

preprocessor_config.json carries the normalisation constants that are in force (`tvf_normalize_params`, which win over
`means` and `stds` when the published processor loads it), so an export sees images as its source did.
Source: the files of openvla/openvla-7b; the published processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tokenizers import Tokenizer

from openvla.codec.codec import Codec
from openvla.codec.images import ImageTransform

PROCESSOR = "preprocessor_config.json"
STATISTICS = "dataset_statistics.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_HUB = "openvla/openvla-7b--"
_PROCESSING = f"{_HUB}processing_prismatic."
AUTO_MAP = {
    "AutoConfig": f"{_HUB}configuration_prismatic.OpenVLAConfig",
    "AutoModelForVision2Seq": f"{_HUB}modeling_prismatic.OpenVLAForActionPrediction",
}
_BICUBIC = 3


def documents_of(codec: Codec, config: dict[str, Any]) -> dict[str, Any]:
    """File name -> content of what the published classes read beside config.json and the weights."""
    documents: dict[str, Any] = {
        PROCESSOR: processor_of(codec.images),
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": codec.bos_token_id,
            "eos_token_id": codec.eos_token_id,
            "pad_token_id": codec.pad_token_id,
        },
    }
    if codec.statistics:
        documents[STATISTICS] = statistics_of(codec)
    if codec.tokenizer is not None:
        documents |= _tokenizer_documents(codec.tokenizer, codec, int(config.get("llm_max_length", 2048)))
    return documents


def statistics_of(codec: Codec) -> dict[str, Any]:
    """The statistics as `norm_stats` of config.json and dataset_statistics.json hold them."""
    return {key: entry.to_dict() for key, entry in codec.statistics.items()}


def processor_of(images: ImageTransform) -> dict[str, Any]:
    """preprocessor_config.json of an image transform."""
    letterbox = images.strategy == "letterbox"
    fill = list(images.fill or (int(value * 255) for value in images.means[-1])) if letterbox else None
    sizes = [[size, size] for size in images.sizes]
    return {
        "auto_map": {
            "AutoImageProcessor": f"{_PROCESSING}PrismaticImageProcessor",
            "AutoProcessor": f"{_PROCESSING}PrismaticProcessor",
        },
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": images.strategy,
        "input_sizes": [[3, *size] for size in sizes],
        "interpolations": ["bicubic"] * len(sizes),
        "means": [list(mean) for mean in images.means],
        "stds": [list(std) for std in images.stds],
        "tvf_crop_params": [{"output_size": size} for size in sizes],
        "tvf_do_letterbox": letterbox,
        "tvf_letterbox_fill": fill,
        "tvf_normalize_params": [
            {"inplace": False, "mean": _float32(mean), "std": _float32(std)}
            for mean, std in zip(images.means, images.stds, strict=True)
        ],
        "tvf_resize_params": [
            {
                "antialias": True,
                "interpolation": _BICUBIC,
                "max_size": None,
                "size": size if images.strategy == "resize-naive" else images.short_side or size[0],
            }
            for size in sizes
        ],
        "processor_class": "PrismaticProcessor",
        "use_fused_vision_backbone": len(sizes) == 2,
    }


def _tokenizer_documents(tokenizer: Tokenizer, codec: Codec, max_length: int) -> dict[str, Any]:
    names = {"bos_token": codec.bos_token_id, "eos_token": codec.eos_token_id, "pad_token": codec.pad_token_id}
    special = {name: token for name, i in names.items() if (token := tokenizer.id_to_token(i)) is not None}
    if tokenizer.token_to_id("<unk>") is not None:
        special["unk_token"] = "<unk>"
    added = tokenizer.get_added_tokens_decoder()
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    learned = tokenizer.get_vocab_size(with_added_tokens=False)
    return {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(i): {"content": token.content, **{flag: getattr(token, flag) for flag in flags}}
                for i, token in sorted(added.items())
            },
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
            "padding_side": "right",
            "tokenizer_class": "LlamaTokenizer" if "▁" in tokenizer.get_vocab() else "PreTrainedTokenizerFast",
            **special,
        },
        "special_tokens_map.json": special,
        "added_tokens.json": {token.content: i for i, token in sorted(added.items()) if i >= learned},
    }


def _float32(values: tuple[float, ...]) -> list[float]:
    return [float(np.float32(value)) for value in values]
