"""What a run trains on: one data set or a mixture of them, opened through their indexes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openvla.codec.codec import Codec
from openvla.codec.statistics import select
from openvla.data.bad import BadData
from openvla.data.images.augment import AugmentConfig
from openvla.data.images.pixels import Pixels
from openvla.data.index.find import ensure_index
from openvla.data.index.index import Index
from openvla.data.index.statistics import index_statistics
from openvla.data.loading.batches import Batches, Examples
from openvla.data.loading.frames import Frames, split_masks
from openvla.data.registry.find import find_record
from openvla.data.registry.mixtures import MixtureEntry, mixture, sampling_weights
from openvla.data.registry.record import DataRecord
from openvla.errors import UsageError
from openvla.train.config import TrainConfig
from openvla.train.conversations import mixed, open_conversations

AUGMENT = AugmentConfig()
"""What `augment` does: as published."""


@dataclass(frozen=True)
class Member:
    """One data set of a run. dataset: what `ensure_index` knows it by. directory: where it lies."""

    entry: MixtureEntry
    dataset: str | DataRecord
    directory: Path

    def index(self, config: TrainConfig, bad: BadData | None = None) -> Index:
        """Its index, made where there is none."""
        bad = bad or BadData(config.on_bad)
        return ensure_index(self.directory, self.dataset, workers=config.workers, bad=bad).index


def members(config: TrainConfig) -> list[Member]:
    """The data sets of a run; none where it is all conversations. Raises UsageError for unknown names."""
    if config.image_text is not None and config.image_text_ratio == 1:
        return []
    if config.mixture is None:
        record = find_record(config.dataset)
        return [Member(MixtureEntry(record.name, 1.0, record), config.dataset, config.data)]
    return [Member(entry, entry.record, config.data / entry.name) for entry in mixture(config.mixture)]


def with_statistics(codec: Codec, config: TrainConfig) -> Codec:
    """The codec with statistics of the data sets: its own where it has them, so that what it learned stays true."""
    table, action = dict(codec.statistics), codec.action
    wanted = [member for member in members(config) if member.entry.name not in table]
    dim = codec.action_dim
    for member in wanted:
        record = member.entry.record
        if dim not in (None, record.action.dim):
            raise UsageError(
                f"{record.name!r} has {record.action.dim} action dimensions, the checkpoint {dim}; "
                "use data of the same robot, or start from another checkpoint"
            )
        dim, action = record.action.dim, record.action if len(wanted) == 1 or action is None else action
    for member in wanted:
        table[member.entry.name] = index_statistics(member.index(config), member.entry.record.mask)
    return dataclasses.replace(codec, statistics=table, action=action) if wanted else codec


def with_crop(codec: Codec, config: TrainConfig) -> Codec:
    """The codec with the crop that this run's images undergo, of which inference takes the central one."""
    return dataclasses.replace(codec, training_crop=AUGMENT.crop_area if config.augment else None)


def load_batches(config: TrainConfig, codec: Codec, rank: int = 0, world: int = 1) -> tuple[Batches, Batches | None]:
    """What process `rank` of `world` trains on, and what it validates on; None where nothing is held out.

    The training batches keep the account of what was skipped. Raises DataError for data that cannot be used.
    """
    bad, found = BadData(config.on_bad), members(config)
    pixels = _pixels(config, codec)
    training: list[Examples] = []
    validation: list[Frames] = []
    for member in found:
        index, name = member.index(config, bad), member.entry.name
        statistics = select(codec.statistics, name).action
        train, held_out = split_masks(index, config.hold_out)
        record = member.entry.record
        training.append(Frames(index, train, statistics, codec.chunk, record=record, pixels=pixels))
        validation.append(Frames(index, held_out, statistics, codec.chunk, record=record))
    weights = shares = _weights(found, codec)
    talk = open_conversations(config, bad)
    if talk is not None:
        training.append(talk)
        weights = mixed(weights, config.image_text_ratio)
    return (
        Batches(training, codec, config.batch_size, config.seed, weights=weights, bad=bad, rank=rank, world=world),
        held_out_batches(validation, shares, config, codec, rank, world),
    )


def _pixels(config: TrainConfig, codec: Codec) -> Pixels | None:
    """What makes training images of stored bytes; None leaves it to the codec, as in validation."""
    if not (config.augment or config.fast_images):
        return None
    own = "processor" if codec.image_pipeline == "processor" else "exact"
    mode = "fast" if config.fast_images else own
    return Pixels(mode, codec.images.size, AUGMENT if config.augment else None, codec.images)


def _weights(found: Sequence[Member], codec: Codec) -> list[float]:
    if len(found) <= 1:
        return [1.0] * len(found)
    lengths = {name: held.num_transitions for name, held in codec.statistics.items()}
    return sampling_weights([member.entry for member in found], lengths).tolist()


def held_out_batches(
    frames: Sequence[Examples], weights: Sequence[float], config: TrainConfig, codec: Codec, rank: int, world: int
) -> Batches | None:
    """What process `rank` of `world` validates on; None where nothing is held out."""
    held = [(each, weight) for each, weight in zip(frames, weights, strict=True) if len(each)]
    if not held:
        return None
    size = min(config.batch_size, sum(len(each) for each, _ in held))
    kept, shares = zip(*held, strict=True)
    if size < world:  # too few frames to share out: every process takes all
        rank, world = 0, 1
    size -= size % world
    bad = BadData(config.on_bad)
    return Batches(kept, codec, size, config.seed, weights=shares, bad=bad, rank=rank, world=world)
