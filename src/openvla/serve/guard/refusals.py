"""Why a request gets no action: an HTTP status, one sentence, and when to try again.

The same refusal travels over every protocol: as the status and `Retry-After` of HTTP, as text over openpi's protocol,
as an ERROR message over vla-eval's.
"""

from __future__ import annotations

from openvla.errors import ServerError

BAD_REQUEST = 400
UNAUTHORIZED = 401
FORBIDDEN = 403
TIMEOUT = 408
SUPERSEDED = 409
TOO_LARGE = 413
UNSUPPORTED = 415
STALE = 422
TOO_MANY = 429
INTERNAL = 500
UNAVAILABLE = 503


class Refusal(ServerError):  # noqa: N818 - it is the answer to a request, not a defect
    """A request that the server will not answer with an action.

    status: HTTP status of 400 or above. reason: one word for metrics and the audit.
    retry_after_s: when a further attempt may succeed, or None where the request itself is wrong.
    """

    def __init__(self, status: int, reason: str, sentence: str, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Refusal], tuple[int, str, str, float | None]]:
        return Refusal, (self.status, self.reason, str(self), self.retry_after_s)


def bad_request(sentence: str) -> Refusal:
    """The request breaks a rule."""
    return Refusal(BAD_REQUEST, "invalid", sentence)


def too_large(what: str, size: int, most: int, unit: str) -> Refusal:
    """`what` is beyond a size limit."""
    return Refusal(
        TOO_LARGE, "too_large", f"{what} has {size} {unit}, but at most {most} are taken; send a smaller one"
    )


def overloaded(sentence: str, retry_after_s: float) -> Refusal:
    """No room now."""
    return Refusal(UNAVAILABLE, "overloaded", sentence, max(0.05, retry_after_s))


def not_ready(state: str) -> Refusal:
    """The server is `state`: warming up, shutting down, or broken."""
    return Refusal(
        UNAVAILABLE, "not_ready", f"the server is {state}; try again shortly, or see /healthz", retry_after_s=1.0
    )


def internal() -> Refusal:
    """A defect; what happened stays in the server's log."""
    return Refusal(INTERNAL, "internal", "the policy failed on this request; the server's log says why")
