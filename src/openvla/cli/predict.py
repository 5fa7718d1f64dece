"""`openvla predict`: one action for one image and one instruction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openvla.cli.output import Result, table
from openvla.errors import InputError

if TYPE_CHECKING:
    from openvla.spec import Action, ActionSpec


@dataclass(frozen=True)
class Options:
    """One action for one image and one instruction."""

    checkpoint: str
    """A hub id, a checkpoint directory, or a shipped name such as "nano"."""
    image: Path
    """The camera image: an RGB file (JPEG, PNG, ...)."""
    instruction: str
    """What the robot should do, in plain words."""
    statistics: str | None = None
    """Key of the data set whose statistics scale the action; may be omitted where the checkpoint has one."""
    quantize: Literal["int8", "int4", "fp8"] | None = None
    """Hold the decoder's weights in fewer bits: faster, and answers differ a little; fp8 needs a GPU that has it."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, ..."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(options: Options) -> Result:
    """Load the policy, let it act once, and hand back the action."""
    from openvla.spec import Observation

    observation = Observation(image=read_image(options.image), instruction=options.instruction)
    from openvla.infer.policy import load_policy  # brings torch; a bad image is reported before

    policy = load_policy(
        options.checkpoint, statistics=options.statistics, device=options.device, quantize=options.quantize
    )
    action = policy.act(observation)
    data = {
        "values": action.values,
        "tokens": action.tokens,
        "confidence": action.confidence,
        "timing_ms": action.timing_ms,
    }
    return Result(data, _readable(action, policy.spec))


def read_image(path: Path) -> Any:
    """The pixels of an image file as they are: uint8 (H, W, 3) for an RGB file.

    A palette is looked up, since it is how a file stores colours; gray and alpha are kept, for
    `Observation` to refuse. Raises InputError for a file that cannot be decoded.
    """
    import numpy as np
    from PIL import Image

    with path.open("rb") as file:
        try:
            image = Image.open(file)
            image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split()).replace(f"{file}", "the content")
            raise InputError(f"{path} cannot be decoded as an image ({reason}); give an RGB JPEG or PNG file") from None
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):  # as many channels as RGB or RGBA, with another meaning
        raise InputError(f"{path} is a {image.mode} image; convert it to RGB first")
    return np.asarray(image)


def _readable(action: Action, spec: ActionSpec) -> str:
    rows: list[tuple[object, ...]] = []
    for step, values in enumerate(action.values):
        for n, name in enumerate(spec.names):
            confidence = "-" if action.confidence is None else f"{action.confidence[step, n]:.2f}"
            rows.append((name, step, f"{values[n]:.5f}", spec.units[n], confidence))
    timing = ", ".join(f"{phase} {value:.1f}" for phase, value in action.timing_ms.items())
    return table(("dimension", "step", "value", "unit", "confidence"), rows) + f"\n\nmilliseconds: {timing}"
