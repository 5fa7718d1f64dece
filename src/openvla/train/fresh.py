"""A model to train from nothing: random weights, and a codec that learns its words from a word list.

Published presets need the tokenizer of their language model; here are the small ones, whose vocabulary is ours.
"""

from __future__ import annotations

from openvla.codec.actions import ActionTokenizer
from openvla.codec.codec import Codec
from openvla.codec.prompt import PROMPTS, Prompt
from openvla.codec.published import images_of
from openvla.codec.tokenizer import SPACE, train_tokenizer
from openvla.data.registry.find import find_record
from openvla.data.registry.record import DataRecord
from openvla.errors import UsageError, lookup
from openvla.model.checkpoint import Checkpoint, new_checkpoint
from openvla.model.presets import NANO_VOCAB, PRESETS

PREFIX = "preset:"

WORDS = """
above across around away back backward behind below beside between blue bottom brown by center closed corner down
edge end far first forward from front goal gray green grey half horizontal in inside into inward large last left
long low middle near of off on onto open orange other out outside outward over past pink purple red rear right round
second short side sideways small square straight tall the then third through to top toward under until up upright
vertical wall white with yellow and at it its all both each adjust assemble bring clean close drag drive drop empty
fill flip fold grasp grab hammer hang hit hold insert kick knock lay lift lock lower make move pick place plug point
pour press pull push put raise reach release remove rotate scoop set shake shut slide stack stir sweep swing take
throw tilt touch turn twist unlock unplug unfold use wipe apple ball banana basket basketball bin block board book
bottle bowl box bread brick brush bucket button cabinet can carrot cloth coffee corn cube cup dial dish door drawer
faucet fork fridge glass gripper hand handle hole hoop kettle knife lamp lever lid machine marker microwave mug nail
oven pan peg pen pencil plate pot puck rack ring robot shelf sink soccer sponge spoon stick stove switch table tap
thermos tomato towel toy tray window
""".split()  # noqa: SIM905 - a paragraph reads better than 250 quoted words
"""What robots are told, in single words; other words are spelled in pieces."""


def fresh_checkpoint(name: str, dataset: str | DataRecord | None, seed: int) -> Checkpoint:
    """An untrained model of the preset `name`, acting as the data set `dataset` does; weights drawn from `seed`.

    dataset: None for a model that does not act yet.
    Raises UsageError for an unknown preset or data set, and for presets too large to start from random weights.
    """
    preset = lookup(name, PRESETS, "preset")
    if preset.model.decoder.vocab_size != NANO_VOCAB + 64:
        raise UsageError(
            f"preset {name!r} needs the tokenizer of its language model; name that with --language-model, or fine-tune "
            "a checkpoint of it instead"
        )
    prompt = Prompt(PROMPTS["openvla"])
    tokenizer = train_tokenizer([prompt.render(word) for word in WORDS], NANO_VOCAB)
    codec = Codec(
        actions=ActionTokenizer(NANO_VOCAB),
        images=images_of(
            preset.timm_ids,
            [encoder.image_size for encoder in preset.model.encoders],
            "resize-naive",
            f"preset {name!r}",
        ),
        prompt=prompt,
        tokenizer=tokenizer,
        action=None if dataset is None else find_record(dataset).action,
        image_pipeline="training",
        suffix_token_id=tokenizer.token_to_id(SPACE),
        pad_token_id=NANO_VOCAB,
    )
    return new_checkpoint(preset, codec, seed)
