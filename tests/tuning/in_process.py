"""Stands for `hwsearch.measure.child.Child`, without a process of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hwsearch.measure.failure import failure


class Here:
    def __init__(self, factory: Callable[..., Any], *arguments: Any) -> None:
        self._subject = factory(*arguments)

    def call(self, method: str, *arguments: Any, timeout: float) -> Any:
        try:
            return getattr(self._subject, method)(*copy.deepcopy(arguments))
        except Exception as error:
            return failure(error)

    def close(self) -> None:
        pass
