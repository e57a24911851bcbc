"""What a tuner tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from hwsearch.tuning.kernel import Config


@dataclass(frozen=True)
class Progress:
    """
    Attributes:
        state: "compiling" | "measuring" | "complete" | "slower" | "failed" | "finals".
        trial, trials: how many have ended, of how many; earlier sessions count.
        config: the configuration that `state` is about.
        seconds: what was measured of it; None before, and where it failed.
        reason: why it failed; empty if it did not.
        best, best_seconds, default_seconds: None before the first success.
        failures: trials that failed so far.
    """

    state: str
    trial: int
    trials: int
    config: Config | None
    seconds: float | None
    reason: str
    best: Config | None
    best_seconds: float | None
    default_seconds: float | None
    failures: int
