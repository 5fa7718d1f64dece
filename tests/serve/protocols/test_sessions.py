from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from serving import IMAGE, Bright, Running, jpeg, running, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from openvla.serve.protocols.packing import pack, unpack

OBSERVATION = {"image": IMAGE, "prompt": "open the drawer"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as server:
        yield server


@contextlib.contextmanager
def talking(server: Running, path: str = "/ws", **headers: str) -> Iterator[ClientConnection]:
    address = f"ws://{server.host}:{server.port}{path}"
    with connect(address, compression=None, max_size=None, additional_headers=headers) as websocket:
        yield websocket


def ask(websocket: ClientConnection, message: object) -> Any:
    websocket.send(message if isinstance(message, bytes | str) else pack(message, "openpi"))
    answer = websocket.recv(timeout=5)
    return answer if isinstance(answer, str) else unpack(answer)


@pytest.mark.parametrize("path", ["/", "/ws"])
def test_metadata_comes_before_anything_is_asked(server: Running, path: str) -> None:
    with talking(server, path) as websocket:
        greeting = unpack(websocket.recv(timeout=5))
    assert greeting["action"]["names"] == ["x", "y", "gripper"]
    assert greeting["type"] == "hello"
    assert greeting["payload"]["protocol_version"] == 1


def test_an_observation_gets_a_chunk_and_timings(server: Running) -> None:
    with talking(server) as websocket:
        websocket.recv()
        answer = ask(websocket, OBSERVATION)
    assert answer["actions"].shape == (1, 3)
    assert np.allclose(answer["actions"], IMAGE.mean() / 255)
    assert answer["server_timing"]["infer_ms"] >= 0
    assert answer["confidence"].shape == answer["tokens"].shape == (1, 3)
    assert answer["flags"] == {"clipped": [], "slowed": [], "held": None}


@pytest.mark.parametrize("key", ["observation/image", "observation/exterior_image_1_left", "full_image"])
def test_robots_name_their_camera_as_they_like(server: Running, key: str) -> None:
    with talking(server) as websocket:
        websocket.recv()
        for image in (IMAGE, jpeg(IMAGE, "PNG")):
            extra = {"observation/wrist_image": np.zeros((4, 4, 3), np.uint8), "observation/state": np.zeros(8)}
            answer = ask(websocket, {key: image, "prompt": "go", **extra})
            assert np.allclose(answer["actions"], IMAGE.mean() / 255)


def test_cameras_may_come_as_a_group_with_channels_first(server: Running) -> None:
    image = np.zeros((3, 4, 5), np.uint8)
    image[0] = 255
    with talking(server) as websocket:
        websocket.recv()
        answer = ask(websocket, {"images": {"cam_low": image * 0, "cam_high": image}, "prompt": "go"})
    assert np.allclose(answer["actions"], 1 / 3)


def test_what_is_wrong_with_an_observation_is_said_in_text_and_the_connection_stays(server: Running) -> None:
    with talking(server) as websocket:
        websocket.recv()
        assert ask(websocket, {"prompt": "go"}).startswith("the message has no 'image'")
        assert ask(websocket, [1, 2]).startswith("the message is a list, not a map")
        assert ask(websocket, OBSERVATION | {"prompt": "fail"}) == (
            "the policy failed on this request; the server's log says why"
        )
        assert "actions" in ask(websocket, OBSERVATION)


@pytest.mark.parametrize(("message", "code"), [(b"\xc1", 1007), ("hello", 1003), (b"\x81\xa1", 1007)])
def test_what_is_no_message_ends_the_connection_with_a_reason(server: Running, message: bytes | str, code: int) -> None:
    with talking(server) as websocket:
        websocket.recv()
        assert "messages are msgpack maps" in (answer := ask(websocket, message)) or "is not msgpack" in answer
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=5)
    assert closed.value.rcvd.code == code


def test_answers_come_in_the_order_of_the_questions(server: Running) -> None:
    with talking(server) as websocket:
        websocket.recv()
        for level in range(12):
            websocket.send(pack({"image": np.full((2, 2, 3), level, np.uint8), "prompt": "go"}, "openpi"))
        answers = [unpack(websocket.recv(timeout=5)) for _ in range(12)]
    assert [round(255 * answer["actions"][0, 0]) for answer in answers] == list(range(12))


def test_only_the_newest_observation_is_answered_where_the_robot_asks_for_that() -> None:
    with running(Bright(0.1), batch=1) as server, talking(server) as websocket:
        websocket.recv()
        for level in range(5):
            image = np.full((2, 2, 3), level, np.uint8)
            websocket.send(pack({"image": image, "prompt": "go", "newest": True, "robot": "arm"}, "openpi"))
        answers = [websocket.recv(timeout=5) for _ in range(5)]
    refused = [answer for answer in answers if isinstance(answer, str)]
    assert len(refused) >= 3
    assert all("a newer observation of the same robot came in" in answer for answer in refused)
    assert round(255 * unpack(answers[-1])["actions"][0, 0]) == 4


def harness(kind: str, payload: object, seq: int) -> bytes:
    return pack({"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}, "vla-eval")


def test_the_harness_says_hello_and_gets_one_action_per_observation() -> None:
    with running(Bright(chunk=3)) as server, talking(server, "/vla-eval") as websocket:
        assert ask(websocket, harness("hello", {}, 1))["payload"]["action_spec"]["actions"]["dims"] == 3
        websocket.send(harness("episode_start", {"task": {}}, 2))
        seen = []
        for seq in range(3, 8):
            observation = {"images": {"agentview": IMAGE}, "task_description": "go"}
            answer = ask(websocket, harness("observation", observation, seq))
            assert (answer["type"], answer["seq"]) == ("action", seq)
            assert answer["payload"]["actions"].shape == (3,)
            seen.append(round(float(answer["payload"]["actions"][0] - IMAGE.mean() / 255), 3))
        assert seen == [0.0, 0.1, 0.2, 0.0, 0.1]
        websocket.send(harness("episode_end", {}, 8))
        assert ask(websocket, harness("observation", observation, 9))["payload"]["actions"][0] == pytest.approx(
            IMAGE.mean() / 255
        )


def test_the_harness_hears_of_errors_under_its_own_number(server: Running) -> None:
    with talking(server) as websocket:
        assert unpack(websocket.recv())["type"] == "hello"
        websocket.send(harness("hello", {}, 1))  # the greeting was the answer
        answer = ask(websocket, harness("observation", {"images": {}, "task_description": "go"}, 2))
        assert (answer["type"], answer["seq"]) == ("error", 2)
        assert answer["payload"]["error"].startswith("the message has no 'image'")
        assert ask(websocket, harness("dance", {}, 3))["payload"]["error"].startswith("message type 'dance' is unknown")


def test_too_many_sessions_are_told_so() -> None:
    from openvla.serve.guard.limits import Limits

    with running(limits=Limits(sessions=1)) as server, talking(server):
        with pytest.raises(InvalidStatus) as refused, talking(server):
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "1"


def test_a_client_that_vanishes_leaves_nothing_behind(server: Running) -> None:
    before = server.service.sessions
    for _ in range(5):
        with talking(server) as websocket:
            websocket.recv()
            websocket.send(pack(OBSERVATION, "openpi"))
            websocket.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: server.service.sessions == before and not server.service.unanswered)
    wait_until(lambda: not server.service.scheduler.waiting)


def test_one_clients_flood_does_not_starve_another() -> None:
    policy = Bright(0.03)
    with running(policy, batch=1, deadline_s=10.0) as server, talking(server) as greedy, talking(server) as modest:
        greedy.recv()
        modest.recv()
        for _ in range(20):
            greedy.send(pack(OBSERVATION, "openpi"))
        wait_until(lambda: server.service.scheduler.waiting > 5)
        before = len(policy.seen)
        ask(modest, OBSERVATION | {"prompt": "please"})
        place = [seen.instruction for seen in policy.seen[before:]].index("please")
        for _ in range(20):
            greedy.recv(timeout=10)
    assert place <= 3
