from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from openvla.codec.actions import ActionTokenizer
from openvla.errors import InputError

LLAMA = ActionTokenizer()


def count_edges(value: float, tokenizer: ActionTokenizer) -> int:
    """The id of one value, by counting."""
    edges = [-1 + 2 * i / (tokenizer.num_bins - 1) for i in range(tokenizer.num_bins)]
    return tokenizer.vocab_size - sum(edge <= min(max(value, -1), 1) for edge in edges)


@pytest.mark.parametrize(
    ("value", "token", "center"),
    [
        (-1.0, 31999, -0.99608),
        (-0.5, 31936, -0.50196),
        (0.0, 31872, 0.0),
        (0.5, 31808, 0.50196),
        (0.9921, 31746, 0.98824),
        (0.9922, 31745, 0.99608),
        (1.0, 31744, 0.99608),
        (7.0, 31744, 0.99608),
        (-7.0, 31999, -0.99608),
    ],
)
def test_values_become_the_published_tokens_and_come_back_as_centers(value: float, token: int, center: float) -> None:
    ids = LLAMA.encode(value)
    assert ids == token
    assert LLAMA.decode(ids) == pytest.approx(center, abs=5e-6)


@pytest.mark.parametrize(
    "tokenizer", [LLAMA, ActionTokenizer(320, 256), ActionTokenizer(100, 16), ActionTokenizer(9, 2)]
)
def test_encoding_equals_counting_edges(tokenizer: ActionTokenizer) -> None:
    values = np.random.default_rng(0).uniform(-1.1, 1.1, 500)
    assert tokenizer.encode(values).tolist() == [count_edges(value, tokenizer) for value in values]


@pytest.mark.parametrize("num_bins", [2, 16, 255, 256])
def test_every_id_but_the_last_survives_decoding_and_encoding(num_bins: int) -> None:
    tokenizer = ActionTokenizer(1000, num_bins)
    ids = np.asarray(tokenizer.token_range)
    assert tokenizer.encode(tokenizer.decode(ids))[1:].tolist() == ids[1:].tolist()


def test_a_round_trip_is_off_by_half_a_bin_at_most() -> None:
    values = np.linspace(-1, 1, 10001)
    assert np.abs(LLAMA.decode(LLAMA.encode(values)) - values).max() <= 1 / 255 + 1e-12


def test_decoding_equals_the_published_values(shared: Path) -> None:
    golden = load_file(shared / "golden" / "tiny" / "golden.safetensors")
    assert np.array_equal(LLAMA.decode(golden["decode.ids"]), golden["decode.values"])


def test_float32_values_on_an_edge_keep_their_own_side_of_it() -> None:
    edges = LLAMA.edges
    assert np.count_nonzero(LLAMA.encode(edges) != LLAMA.encode(edges.astype(np.float32))) == 127


def test_the_shape_is_kept_and_the_types_are_fixed() -> None:
    ids = LLAMA.encode(np.zeros((4, 7), np.float16))
    assert ids.shape == (4, 7)
    assert ids.dtype == np.int64
    assert LLAMA.decode(ids.astype(np.int32)).dtype == np.float64


def test_action_tokens_are_told_from_others() -> None:
    ids = np.array([2, 31743, 31744, 31999, 32000])
    assert LLAMA.is_action(ids).tolist() == [False, False, True, True, False]
    assert LLAMA.token_range == range(31744, 32000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_without_a_bin_is_refused_with_its_place(bad: float) -> None:
    values = np.zeros((2, 3), np.float32)
    values[1, 2] = bad
    with pytest.raises(InputError, match=rf"the action holds {bad} at index \[1, 2\], which has no bin"):
        LLAMA.encode(values)


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([None]), np.array([1j])])
def test_what_is_no_number_is_refused(values: NDArray[np.generic]) -> None:
    with pytest.raises(InputError, match=r"actions of dtype .* have no bins; pass an array of real numbers"):
        LLAMA.encode(values)


def test_ids_must_be_integers() -> None:
    with pytest.raises(InputError, match="token ids have dtype float64; pass integers"):
        LLAMA.decode(np.zeros(7))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("vocab_size", "num_bins"), [(100, 256), (100, 1), (100, -3)])
def test_bins_must_fit_the_vocabulary(vocab_size: int, num_bins: int) -> None:
    with pytest.raises(
        InputError, match=f"{num_bins} action bins do not fit a vocabulary of 100; choose between 2 and 100"
    ):
        ActionTokenizer(vocab_size, num_bins)
