"""The packages that robots and benchmarks use, talking to a server; skipped where they are not installed."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from serving import IMAGE, Bright, array_of, running

from openvla.serve.protocols.wire import dumps

# What the packages do is theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

KEY = "a-key-of-some-length"


def test_openpis_client_infers(monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("openpi_client.websocket_client_policy")
    monkeypatch.setenv("OPENVLA_API_KEY", KEY)
    with running(Bright(chunk=4)) as server:
        policy = client.WebsocketClientPolicy("127.0.0.1", server.port, api_key=KEY)
        assert policy.get_server_metadata()["action"]["chunk"] == 4
        observation = {"observation/image": IMAGE, "observation/state": np.zeros(8), "prompt": "go"}
        for _ in range(3):
            answer = policy.infer(observation)
            assert answer["actions"].shape == (4, 3)
            assert answer["server_timing"]["infer_ms"] > 0
        with pytest.raises(RuntimeError, match="the message has no 'image'"):
            policy.infer({"prompt": "go"})
        assert policy.infer(observation)["actions"].shape == (4, 3)
        policy._ws.close()


def test_openpis_client_needs_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("openpi_client.websocket_client_policy")
    monkeypatch.setenv("OPENVLA_API_KEY", KEY)
    with running() as server, pytest.raises(Exception, match="401"):
        client.WebsocketClientPolicy("127.0.0.1", server.port)


@pytest.mark.parametrize("path", ["", "/vla-eval"])
def test_vla_evals_connection_plays_an_episode(path: str) -> None:
    connection = pytest.importorskip("vla_eval.connection")

    async def episode(url: str) -> None:
        async with connection.Connection(url, timeout=5.0, max_retries=1) as conn:
            assert conn.server_info["model_server"] == "openvla policy"
            for _ in range(2):
                await conn.start_episode({"task": {"name": "open"}})
                for step in range(5):
                    observation = {"images": {"agentview": IMAGE}, "task_description": "go", "state": np.zeros(7)}
                    action = await conn.act(observation)
                    assert np.allclose(action["actions"], IMAGE.mean() / 255 + [0.1 * (step % 2), 0, 0])
                await conn.end_episode({"metrics": {"success": True}})
            with pytest.raises(RuntimeError, match="the message has no 'image'"):
                await conn.act({"task_description": "go"})

    with running(Bright(chunk=2)) as server:
        asyncio.run(episode(f"ws://127.0.0.1:{server.port}{path}"))


def test_the_published_client_snippet_works_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, json_numpy = pytest.importorskip("requests"), pytest.importorskip("json_numpy")
    for name in ("dump", "dumps", "load", "loads"):  # what is patched now is put back at the end
        monkeypatch.setattr(json, name, getattr(json, name))
    json_numpy.patch()
    with running() as server:
        action = requests.post(f"{server.url}/act", json={"image": IMAGE, "instruction": "do something"}).json()
    assert isinstance(action, np.ndarray)
    assert action.shape == (3,)


def test_the_published_snippets_double_encoding_is_answered_in_kind() -> None:
    message = {"image": IMAGE, "instruction": "do something"}
    with running() as server:
        status, _, body = server.post(json.dumps({"encoded": dumps(message).decode()}).encode())
    assert status == 200
    assert isinstance(body, str)
    assert array_of(json.loads(body)).shape == (3,)
