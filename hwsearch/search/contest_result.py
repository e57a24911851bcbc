"""What a contest of trained shapes found, as data and as files."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from hwsearch.files import write_whole
from hwsearch.search.contest_score import Entrant, on_front, past_plateau, spread
from hwsearch.search.run_folder import RunFolder
from hwsearch.shape import EncoderShape
from hwsearch.shape.notation import shape_yaml
from hwsearch.shape.parameters import body_parameters, masked_lm_parameters

State = Literal["complete", "pruned", "failed"]
# Two scores differ where they are further apart than chance puts two equal ones 19 times of 20.
SURE = 0.95


@dataclass(frozen=True)
class Trained:
    """One run of one shape.

    Attributes:
        losses: held-out nats per hidden token by the tokens trained on so far, ascending.
        score: at the last of them, against the reference with the same seed and tokens; None where there
            is no loss.
        failure: why it failed.
    """

    entrant: Entrant
    seed: int
    state: State
    losses: dict[int, float]
    score: float | None
    failure: str | None = None

    @property
    def tokens(self) -> int:
        return max(self.losses, default=0)

    @property
    def loss(self) -> float | None:
        return self.losses[self.tokens] if self.losses else None


@dataclass(frozen=True)
class ContestResult:
    """A finished contest.

    Attributes:
        trained: every run; those of the first seed are compared, the others tell the noise.
        tokens: of a whole run.
        unigram_loss: nats per token of held-out text by the words' frequencies alone.
        weight: of the loss in the score.
        conditions: what all runs share, plain data.
    """

    folder: RunFolder
    trained: list[Trained]
    tokens: int
    unigram_loss: float
    weight: float
    conditions: dict[str, Any]

    @property
    def ranked(self) -> list[Trained]:
        """Runs of the first seed: whole ones by their score, then pruned ones by how far they came."""
        first = min(run.seed for run in self.trained)
        order = {"complete": 0, "pruned": 1, "failed": 2}
        mine = [run for run in self.trained if run.seed == first]
        return sorted(mine, key=lambda run: (order[run.state], -run.tokens, run.score or 0.0))

    @property
    def winner(self) -> Trained:
        return self.ranked[0]

    @property
    def judged_from(self) -> int | None:
        """The tokens after which the reference was clearly past the frequencies of words; None if never."""
        reference = next(run for run in self.ranked if run.entrant.is_reference)
        past = (at for at, loss in reference.losses.items() if past_plateau(loss, self.unigram_loss))
        return min(past, default=None)

    @property
    def loss_pairs(self) -> list[tuple[float, float]]:
        """Losses of whole runs of one shape with two seeds, the reference included."""
        return [(a.loss, b.loss) for a, b in self._pairs() if a.loss is not None and b.loss is not None]

    @property
    def score_pairs(self) -> list[tuple[float, float]]:
        """Their scores, without the reference, which has 0 with every seed."""
        pairs = [(a.score, b.score) for a, b in self._pairs() if not a.entrant.is_reference]
        return [(a, b) for a, b in pairs if a is not None and b is not None]

    def equals(self) -> list[EncoderShape]:
        """Whole runs that the noise does not tell from the winner, by Student's t for so few pairs."""
        from scipy.special import stdtrit

        noise, best, pairs = spread(self.score_pairs), self.winner.score, len(self.score_pairs)
        if noise is None or best is None:
            return []
        reach = float(stdtrit(pairs, (1 + SURE) / 2)) * math.sqrt(2) * noise
        return [
            run.entrant.shape
            for run in self.ranked[1:]
            if run.state == "complete" and run.score is not None and run.score - best < reach
        ]

    def _pairs(self) -> list[tuple[Trained, Trained]]:
        whole = [run for run in self.trained if run.state == "complete"]
        return [
            (a, b) for a in whole for b in whole if a.seed < b.seed and a.entrant.shape == b.entrant.shape
        ]

    def summary(self) -> dict[str, Any]:
        """The contest's answer as plain data."""
        whole = [run for run in self.ranked if run.state == "complete" and run.loss is not None]
        front = on_front(
            [run.entrant.basket_latency_s for run in whole], [run.loss for run in whole if run.loss]
        )
        shapes_on_front = {run.entrant.shape for run, on in zip(whole, front, strict=True) if on}
        return {
            "source": "trained",
            **self.conditions,
            "tokens": self.tokens,
            "unigram_loss": self.unigram_loss,
            "judged_from_tokens": self.judged_from,
            "loss_weight": self.weight,
            "noise": {
                "loss": spread(self.loss_pairs),
                "loss_pairs": len(self.loss_pairs),
                "score": spread(self.score_pairs),
                "score_pairs": len(self.score_pairs),
            },
            "winner": str(self.winner.entrant.shape),
            "not_told_apart": [str(shape) for shape in self.equals()],
            "runs": [
                {
                    **_row(run),
                    "on_front": run.state == "complete" and run.entrant.shape in shapes_on_front,
                }
                for run in [*self.ranked, *(run for run in self.trained if run not in self.ranked)]
            ],
        }


def write_contest(result: ContestResult) -> None:
    """trained.json, trained.csv and trained/shape.yaml, the winner."""
    folder, summary = result.folder, result.summary()
    frame = pd.DataFrame([{k: v for k, v in row.items() if k != "losses"} for row in summary["runs"]])
    write_whole(folder.trained_table, frame.to_csv(index=False))
    winner = result.winner.entrant.shape
    title = f"# {winner}, the best of {len(result.ranked)} after {result.tokens:,} tokens\n"
    write_whole(folder.trained_winner, title + shape_yaml(winner))
    write_whole(folder.trained_summary, json.dumps(summary, indent=1) + "\n")


def _row(run: Trained) -> dict[str, Any]:
    shape = run.entrant.shape
    return {
        "shape": str(shape),
        "is_reference": run.entrant.is_reference,
        "seed": run.seed,
        "state": run.state,
        "parameters": int(masked_lm_parameters(shape)),
        "body_parameters": int(body_parameters(shape)),
        "basket_latency_ms": 1e3 * run.entrant.basket_latency_s,
        "tokens": run.tokens,
        "held_out_loss": run.loss,
        "score": run.score,
        "failure": run.failure,
        "source": "trained",
        "losses": {str(tokens): loss for tokens, loss in run.losses.items()},
    }
