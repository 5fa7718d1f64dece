"""Who may ask, from where, and how often."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from openvla.errors import UsageError
from openvla.serve.guard.refusals import FORBIDDEN, TOO_MANY, UNAUTHORIZED, Refusal

ENVIRONMENT_KEY = "OPENVLA_API_KEY"
MOST_CALLERS = 4096


@dataclass(frozen=True)
class Keys:
    """Digests of the accepted keys, by name; none at all means that everybody may ask."""

    digests: Mapping[str, bytes]

    def name_of(self, authorization: str | None) -> str | None:
        """Whose key an `Authorization` header carries, "Api-Key KEY" or "Bearer KEY"; None where no key is needed.

        Every key is compared, in constant time. Raises Refusal (401) for a missing or wrong one.
        """
        if not self.digests:
            return None
        scheme, _, key = (authorization or "").partition(" ")
        offered = _digest(key.strip()) if scheme.lower() in ("api-key", "bearer") else b""
        found = [name for name, digest in self.digests.items() if hmac.compare_digest(digest, offered)]
        if not found:
            raise Refusal(
                UNAUTHORIZED, "unauthorized", "a valid key is needed; send the header 'Authorization: Api-Key KEY'"
            )
        return found[0]


def read_keys(file: Path | None) -> Keys:
    """The keys of a file, one a line, "name:key" or only "key"; else that of the environment; else none.

    Raises UsageError for a file that cannot be read or holds no key.
    """
    if file is None:
        key = os.environ.get(ENVIRONMENT_KEY, "").strip()
        return Keys({"environment": _digest(key)} if key else {})
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the keys in {file}: {error}; write one key per line") from error
    digests: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        name, _, key = line.strip().rpartition(":")
        if key and not line.startswith("#"):
            digests[name or f"key-{number}"] = _digest(key)
    if not digests:
        raise UsageError(f"{file} holds no key; write one per line, e.g. the output of `openssl rand -hex 32`")
    return Keys(digests)


def check_exposure(host: str, keys: Keys, *, insecure: bool) -> None:
    """Raise UsageError for an address that others can reach, unless a key guards it or the user insists."""
    if not keys.digests and not insecure and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, so a key is needed: set {ENVIRONMENT_KEY} or --key-file, or "
            "pass --insecure to let anybody move the robot"
        )


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is this machine's own. Raises UsageError for a name without any."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {host!r}: {error}; give an address of this machine") from error
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def check_origin(origin: str, host: str | None, *, local: bool) -> None:
    """Raise Refusal (403) for a request that another site's page sends through somebody's browser.

    origin, host: the headers; programs send no origin. `local`: only this machine can reach the server, so its name
    must be one of this machine's, or a site could point its own name at 127.0.0.1.
    """
    try:
        asked, sender = urlsplit(f"//{host}"), urlsplit(origin)
        name, same = asked.hostname or "", sender.netloc.lower() == (host or "").lower()
    except ValueError:
        name, same = "", False
    if not same or (local and not (name == "localhost" or _is_address(name))):
        raise Refusal(FORBIDDEN, "origin", "pages of other sites may not use this server; open the page that it serves")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class RateLimit:
    """A bucket per caller: `rate` requests a second on average, one second's worth (at least one) at once."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._full = max(1.0, rate or 0.0)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, caller: str) -> None:
        """Count one request. Raises Refusal (429) where the bucket is empty."""
        if self._rate is None:
            return
        now = time.monotonic()
        level, when = self._buckets.pop(caller, (self._full, now))
        level = min(self._full, level + (now - when) * self._rate)
        allowed = level >= 1
        self._buckets[caller] = (level - allowed, now)
        while len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Refusal(
                TOO_MANY,
                "rate",
                f"more than {self._rate:g} requests a second; send fewer",
                retry_after_s=(1 - level) / self._rate,
            )


def _digest(key: str) -> bytes:
    """Of one length whatever the key's, so that comparing tells nothing about it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
