from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from serving import Bright, Running, array_of, jpeg, running
from slow_link import slow_link

from openvla.errors import ServerError, UsageError
from openvla.serve.edge import EdgePolicy
from openvla.serve.features.features import Cut, EncodedObservation, from_bf16, to_bf16, write_packet
from openvla.serve.link import SocketLink
from openvla.serve.served import Served
from openvla.spec import Action, Observation

CUTS = {"encoders": Cut(16, 3, "e" * 64), "projector": Cut(16, 8, "p" * 64)}
BRIGHT = Observation(np.full((4, 4, 3), 51, np.uint8), "go")


def with_pixel(value: int) -> Observation:
    image = BRIGHT.image.copy()
    image[0, 0] = value
    return Observation(image, "go")


class Eye:
    """Features are the pixels' brightness, a pixel a token."""

    cuts = CUTS

    def __init__(self) -> None:
        self.seconds = 0.0

    def encode(self, observation: Observation, cut: str) -> np.ndarray:
        time.sleep(self.seconds)
        tokens = observation.image.reshape(16, 3).mean(1, dtype=np.float32) / 255
        return to_bf16(np.repeat(tokens[:, None], CUTS[cut].channels, 1))


class Brain(Bright):
    """Answers with the mean of pictures and features alike."""

    def act_batch(self, observations: Any) -> list[Action]:
        self.cuts_seen = [getattr(each, "cut", "image") for each in observations]
        return super().act_batch(observations)

    def _action(self, observation: Observation) -> Action:
        action = super()._action(observation)
        if not isinstance(observation, EncodedObservation):
            return action
        return dataclasses.replace(action, values=np.full((1, 3), from_bf16(observation.features).mean()))


@pytest.fixture
def brain() -> Brain:
    return Brain()


@pytest.fixture
def server(brain: Brain) -> Iterator[Running]:
    with running(brain, served=Served(brain, cuts=CUTS)) as server:
        yield server


def ws(server: Running) -> str:
    return server.url.replace("http", "ws")


def opened(server: Running, edge: Eye | None = None, **settings: Any) -> EdgePolicy:
    return EdgePolicy(ws(server), edge, timeout_s=5.0, **settings)


@pytest.mark.parametrize("cut", ["encoders", "projector"])
@pytest.mark.parametrize("encoding", ["bf16", "int8"])
def test_features_travel_and_actions_come_back(server: Running, brain: Brain, cut: str, encoding: Any) -> None:
    policy = opened(server, Eye(), cut=cut, encodings=(encoding,))
    action = policy.act(BRIGHT)
    assert np.allclose(action.values, 0.2, atol=0.002)
    assert (brain.cuts_seen, policy.way.cut, policy.way.encoding) == ([cut], cut, encoding)
    assert {"edge", "total", "server/total"} <= action.timing_ms.keys()
    policy.close()


def test_only_changed_tokens_travel_and_mean_the_same(server: Running) -> None:
    policy, whole = (opened(server, Eye(), cut="projector", tolerance=tolerance) for tolerance in (0.0, None))
    for value in (51, 51, 255, 0, 0):
        seen = with_pixel(value)
        assert np.array_equal(policy.act(seen).values, whole.act(seen).values)
    assert policy.sent_bytes < whole.sent_bytes - 150
    policy.close()
    whole.close()


def test_after_a_break_all_tokens_travel_again(server: Running) -> None:
    with slow_link(server.host, server.port) as link:
        policy = EdgePolicy(f"ws://127.0.0.1:{link.address[1]}", Eye(), cut="projector", tolerance=0.0, timeout_s=5.0)
        policy.act(BRIGHT)
        link.cut()
        held = policy.act(with_pixel(0))
        assert held.timing_ms["held"] == 1
        link.mend()
        assert np.array_equal(policy.act(with_pixel(255)).values, opened(server, Eye()).act(with_pixel(255)).values)
        assert policy.held == 1
        policy.close()


def test_a_server_that_forgot_is_told_all_again(server: Running) -> None:
    policy = opened(server, Eye(), cut="projector", tolerance=0.0)
    first = policy.act(BRIGHT)
    for lane in list(server.service.kept._frames):
        server.service.kept.forget(lane)
    assert np.array_equal(policy.act(BRIGHT).values, first.values)
    assert server.service.live.refused == 1
    policy.close()


def test_while_the_link_is_down_the_robot_holds(server: Running) -> None:
    with slow_link(server.host, server.port) as link:
        policy = EdgePolicy(f"ws://127.0.0.1:{link.address[1]}", Eye(), timeout_s=5.0)
        before = policy.act(BRIGHT)
        link.cut()
        for _ in range(3):
            held = policy.act(BRIGHT)
            assert held.values.tolist() == [[0.0, 0.0, before.values[0, 2]]]
        link.mend()
        assert np.array_equal(policy.act(BRIGHT).values, before.values)
        assert policy.held == 3
        policy.close()


def test_a_link_that_swallows_everything_counts_as_down(server: Running) -> None:
    with slow_link(server.host, server.port) as link:
        policy = EdgePolicy(f"ws://127.0.0.1:{link.address[1]}", Eye(), timeout_s=0.5)
        policy.act(BRIGHT)
        link.bits_per_s = 10
        start = time.monotonic()
        assert policy.act(BRIGHT).timing_ms["held"] == 1
        assert time.monotonic() - start < 3


def test_without_hold_or_a_first_connection_a_dead_link_raises(server: Running) -> None:
    with slow_link(server.host, server.port) as link:
        link.cut()
        url = f"ws://127.0.0.1:{link.address[1]}"
        with pytest.raises(ServerError, match="no answer from the policy server"):
            EdgePolicy(url, Eye()).act(BRIGHT)
        link.mend()
        policy = EdgePolicy(url, Eye(), hold=False, timeout_s=5.0)
        policy.act(BRIGHT)
        link.cut()
        with pytest.raises(ServerError, match="no answer from the policy server"):
            policy.act(BRIGHT)


def test_without_an_edge_part_pictures_travel(server: Running, brain: Brain) -> None:
    policy = opened(server, cut="projector")
    assert np.allclose(policy.act(BRIGHT).values, 0.2, atol=0.01)
    assert brain.cuts_seen == ["image"]
    exact = opened(server, jpeg_quality=None)
    assert np.allclose(exact.act(BRIGHT).values, 0.2)
    policy.close()
    exact.close()


def test_an_edge_part_of_other_weights_is_not_used(
    server: Running, brain: Brain, caplog: pytest.LogCaptureFixture
) -> None:
    eye = Eye()
    eye.cuts = {"projector": dataclasses.replace(CUTS["projector"], fingerprint="x" * 64)}
    policy = opened(server, eye)
    policy.act(BRIGHT)
    assert brain.cuts_seen == ["image"]
    assert "does not take this edge part's features behind the projector" in caplog.text
    policy.close()


def test_a_server_without_features_gets_pictures() -> None:
    with running(Bright()) as server:
        policy = opened(server, Eye())
        assert np.allclose(policy.act(BRIGHT).values, 0.2, atol=0.01)
        policy.close()


def test_a_slow_eye_is_left_to_the_server(server: Running, brain: Brain) -> None:
    eye = Eye()
    eye.seconds = 0.05
    policy = opened(server, eye)
    for _ in range(12):
        policy.act(BRIGHT)
    assert policy.way.cut == "image"
    policy.close()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"url": "http://h:1"}, "features travel over a WebSocket; write 'http://h:1' as ws://"),
        ({"cut": "middle"}, "the cut 'middle' does not exist"),
        ({"encodings": ("fp4",)}, r"the encodings are \('fp4',\); give 'bf16', 'int8' or both"),
        ({"encodings": ()}, r"the encodings are \(\)"),
        ({"tolerance": 1.0}, "the tolerance is 1.0; give a share from 0"),
        ({"jpeg_quality": 0}, "the JPEG quality is 0; give a number from 1 to 100"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        EdgePolicy(**{"url": "ws://h:1", "edge": Eye()} | settings)


@pytest.mark.parametrize(
    ("features", "match"),
    [
        (None, "'features' is a NoneType"),
        ({"cut": "projector"}, "'values' are NoneType"),
        (write_packet(np.zeros((16, 8), np.uint16), "middle", "p" * 64, "bf16", 0), "unknown cut 'middle'"),
        (write_packet(np.zeros((16, 8), np.uint16), "projector", "x", "bf16", 0), "come from other weights"),
        (write_packet(np.zeros((9, 8), np.uint16), "projector", "p" * 64, "bf16", 0), "the shape"),
    ],
)
def test_wrong_features_are_refused_in_words_and_the_connection_lives(
    server: Running, features: object, match: str
) -> None:
    link = SocketLink(ws(server), None)
    for _ in range(2):
        with pytest.raises(ServerError, match=match):
            link.ask({"instruction": "go", "features": features}, 5.0)
    assert link.ask({"instruction": "go", "image": jpeg(BRIGHT.image)}, 5.0)["actions"].shape == (1, 3)
    link.close()


def test_features_over_http_stand_alone(server: Running) -> None:
    whole = write_packet(Eye().encode(BRIGHT, "projector"), "projector", "p" * 64, "bf16", 0)
    status, _, values = server.post({"instruction": "go", "features": whole})
    assert status == 200
    assert np.allclose(array_of(values), 0.2, atol=0.001)
    part = write_packet(Eye().encode(BRIGHT, "projector"), "projector", "p" * 64, "bf16", 1, np.array([2]))
    assert server.post({"instruction": "go", "features": part})[0] == 409


def test_memory_of_a_closed_connection_is_given_back(server: Running) -> None:
    policy = opened(server, Eye(), cut="projector")
    policy.act(BRIGHT)
    assert server.service.kept._bytes == 16 * 8 * 2
    policy.close()
    end = time.monotonic() + 5
    while server.service.kept._bytes and time.monotonic() < end:
        time.sleep(0.01)
    assert not server.service.kept._bytes


def test_metadata_says_where_the_policy_can_be_cut(server: Running) -> None:
    _, _, said = server.request("GET", "/metadata")
    assert said["features"]["encoders"] == {"tokens": 16, "channels": 3, "fingerprint": "e" * 64}
