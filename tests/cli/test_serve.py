from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from openvla.cli.main import main


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--host 0.0.0.0", "so a key is needed: set OPENVLA_API_KEY or --key-file, or pass --insecure"),
        ("--port 99999", "the port is 99999; give a number from 0"),
        ("--batch 0", "the batch is 0; give a number from 1"),
        ("--demo metawold", "unknown suite 'metawold'; did you mean 'metaworld'?"),
        ("--tls-cert x.pem", "TLS needs both a certificate and its key"),
        ("--key-file absent", "cannot read the keys in absent"),
        ("--quantise int8", "--quantise"),
        ("--replicas 0", "a fleet has 0 replicas of batch 16; both start from 1"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    line: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENVLA_API_KEY", raising=False)
    assert main(["serve", "--port", "0", *line.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_policy_is_loaded_and_handed_to_the_server(
    policies: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys
    from types import ModuleType

    codec = SimpleNamespace(statistics={"toy": None}, chunk=3, decode_tokens=None)
    fingerprint = ModuleType("openvla.model.fingerprint")
    fingerprint.sample_hash = lambda tensors: "0123"
    monkeypatch.setitem(sys.modules, "openvla.model.fingerprint", fingerprint)
    split = ModuleType("openvla.infer.split")
    split.cuts_of = lambda model: {}
    monkeypatch.setitem(sys.modules, "openvla.infer.split", split)
    fake = sys.modules["openvla.infer.policy"]
    real_load = fake.load_policy

    def load_policy(source: str, **settings: Any) -> Any:
        policy = real_load(source, **settings)
        policy.codec, policy.model = codec, SimpleNamespace(state_dict=dict)
        return policy

    monkeypatch.setattr(fake, "load_policy", load_policy)
    seen: dict[str, Any] = {}

    def serve(self: Any, served: Any, demo: Any, started: Any) -> dict[str, int]:
        seen["served"] = served
        started(None)
        return {"answered": 4, "refused": 1}

    monkeypatch.setattr("openvla.serve.server.Server.serve", serve)
    assert main(["serve", "--checkpoint", "/a/b/arm", "--port", "0", "--json"]) == 0
    out = capsys.readouterr()
    assert '"answered": 4' in out.out
    assert "openvla: /a/b/arm at http://127.0.0.1:" in out.err
    served = seen["served"]
    assert (served.name, served.statistics, served.chunk, served.fingerprint) == ("arm", "toy", 3, "0123")
    assert policies[0].loaded["statistics"] is None


@pytest.mark.parametrize(("cores", "named", "threads"), [(8, None, 7), (1, None, 1), (8, "8", None)])
def test_the_policy_leaves_a_core_to_the_network(
    cores: int, named: str | None, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from openvla.cli.serve import leave_a_core

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if named is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    leave_a_core()
    assert chosen == ([] if threads is None else [threads])
