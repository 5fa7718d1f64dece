from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from serving import IMAGE, Bright, running

from openvla.errors import ServerError
from openvla.serve.client import RemotePolicy
from openvla.spec import Observation


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Path]:
    """Settings with a certificate for 127.0.0.1 that signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=arm"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return {"certificate": certificate, "certificate_key": key}


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_client_that_trusts_the_certificate_acts_over_tls(
    scheme: str, certificate: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENVLA_API_KEY", "a-key-of-some-length")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate["certificate"]))
    with running(Bright(), audit=tmp_path / "audit", **certificate) as server:
        assert server.server.url.startswith("https://")
        policy = RemotePolicy(f"{scheme}://127.0.0.1:{server.port}", api_key="a-key-of-some-length")
        assert policy.act(Observation(IMAGE, "go")).values[0, 0] == pytest.approx(IMAGE.mean() / 255)
        policy.close()


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_client_that_does_not_know_the_certificate_sends_nothing(
    scheme: str, certificate: dict[str, Path], tmp_path: Path
) -> None:
    with running(policy := Bright(), audit=tmp_path / "audit", **certificate) as server:
        before = len(policy.seen)
        remote = RemotePolicy(f"{scheme}://127.0.0.1:{server.port}")
        with pytest.raises(ServerError, match="certificate verify failed"):
            remote.act(Observation(IMAGE, "go"))
        assert len(policy.seen) == before
