from __future__ import annotations

from pathlib import Path

import pytest

from openvla.errors import UsageError
from openvla.serve.guard.refusals import Refusal
from openvla.serve.guard.security import Keys, RateLimit, check_exposure, check_origin, is_loopback, read_keys

NO_KEYS = Keys({})


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    file = tmp_path / "keys"
    file.write_text("# robots\nlab:first-key\n\nsecond-key\n")
    return read_keys(file)


def test_a_key_opens_under_its_name(keys: Keys) -> None:
    assert keys.name_of("Api-Key first-key") == "lab"
    assert keys.name_of("bearer second-key") == "key-4"
    assert NO_KEYS.name_of(None) is None


@pytest.mark.parametrize(
    "header", [None, "", "first-key", "Basic first-key", "Api-Key", "Api-Key first-ke", "Bearer é"]
)
def test_anything_else_does_not_open(keys: Keys, header: str | None) -> None:
    with pytest.raises(Refusal, match="a valid key is needed; send the header 'Authorization: Api-Key KEY'"):
        keys.name_of(header)


def test_the_environment_may_hold_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVLA_API_KEY", " k3y ")
    assert read_keys(None).name_of("Api-Key k3y") == "environment"
    monkeypatch.delenv("OPENVLA_API_KEY")
    assert read_keys(None) == NO_KEYS


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no key; write one per line"):
        read_keys(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"cannot read the keys in .*absent"):
        read_keys(tmp_path / "absent")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, NO_KEYS, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_any_other_address_needs_a_key_or_insistence(host: str, keys: Keys) -> None:
    with pytest.raises(
        UsageError, match=r"can be reached from other machines, so a key is needed: set OPENVLA_API_KEY"
    ):
        check_exposure(host, NO_KEYS, insecure=False)
    check_exposure(host, NO_KEYS, insecure=True)
    check_exposure(host, keys, insecure=False)


def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="cannot listen on 'no such host'"):
        is_loopback("no such host")


@pytest.mark.parametrize(
    ("origin", "host", "local"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://LOCALHOST:8000", "localhost:8000", True),
        ("https://robots.lab", "robots.lab", False),
        ("http://[::1]:8000", "[::1]:8000", True),
    ],
)
def test_the_servers_own_page_may_ask(origin: str, host: str, local: bool) -> None:
    check_origin(origin, host, local=local)


@pytest.mark.parametrize(
    ("origin", "host", "local"),
    [
        ("http://evil.example", "127.0.0.1:8000", True),
        ("null", "127.0.0.1:8000", True),
        ("http://evil.example:8000", "evil.example:8000", True),
        ("http://a", None, False),
        ("http://[", "[", False),
    ],
)
def test_pages_of_other_sites_may_not_ask(origin: str, host: str | None, local: bool) -> None:
    with pytest.raises(Refusal, match="pages of other sites may not use this server"):
        check_origin(origin, host, local=local)


def test_a_caller_spends_a_bucket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("openvla.serve.guard.security.time.monotonic", lambda: now[0])
    rate = RateLimit(2.0)
    rate.spend("a")
    rate.spend("a")
    with pytest.raises(Refusal, match="more than 2 requests a second; send fewer") as refused:
        rate.spend("a")
    assert refused.value.status == 429
    assert refused.value.retry_after_s == pytest.approx(0.5)
    rate.spend("b")
    now[0] += 0.5
    rate.spend("a")
    for _ in range(100):
        RateLimit(None).spend("a")
