"""Modules without memory: their tensors have shapes and types alone, and nobody draws numbers for them.

On the meta device torch still runs every initialisation, through a decomposition whose import takes most of a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoInitialisation(TorchFunctionMode):
    """Leaves tensors as they are where a function of torch.nn.init would fill them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextlib.contextmanager
def on_meta() -> Generator[None]:
    """Build modules on the meta device, without initialising them."""
    with torch.device("meta"), _NoInitialisation():
        yield
