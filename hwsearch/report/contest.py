"""The answer of a contest of trained shapes, as a short text and for a report's page."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import pandas as pd

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text
from hwsearch.report.columns import aligned
from hwsearch.search.run_folder import RunFolder

HEADER = ["", "shape", "params", "basket ms", "tokens", "loss", "score", ""]


def read_contest(folder: RunFolder) -> dict[str, Any] | None:
    """A run's contest as `ContestResult.summary` wrote it; None where none was held. Raises HwsearchError."""
    if not folder.trained_summary.is_file():
        return None
    try:
        summary = json.loads(read_text(folder.trained_summary))
        contest_table(summary)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HwsearchError(
            f"{folder.trained_summary}: not a contest's summary ({error!r}); accepted: remove it, and the"
            " same `hwsearch run --rung train` writes it again"
        ) from error
    found: dict[str, Any] = summary
    return found


def contest_table(summary: dict[str, Any]) -> str:
    """Every run of the first seed, best first, then what the numbers are worth."""
    runs = _compared(summary)
    rows = [_row(rank, run) for rank, run in enumerate(runs)]
    return "\n".join([*aligned([HEADER, *rows]), "", *_notes(summary, runs)])


def contest_html(summary: dict[str, Any]) -> str:
    """The same as a part of a page."""
    runs = _compared(summary)
    table = pd.DataFrame([_row(rank, run) for rank, run in enumerate(runs)], columns=HEADER)
    notes = "".join(f"<p>{escape(line)}</p>" for line in _notes(summary, runs))
    return f"<h2>Trained</h2>{table.to_html(index=False, border=0)}{notes}"


def _compared(summary: dict[str, Any]) -> list[dict[str, Any]]:
    first = summary["recipe"]["seed"]
    return [run for run in summary["runs"] if run["seed"] == first]


def _row(rank: int, run: dict[str, Any]) -> list[str]:
    remarks = [run["state"]] if run["state"] != "complete" else []
    remarks += ["reference"] if run["is_reference"] else []
    remarks += ["on the front"] if run["on_front"] else []
    remarks += [run["failure"].partition("\n")[0]] if run["failure"] else []
    return [
        str(rank),
        run["shape"],
        f"{run['parameters'] / 1e6:.1f}M",
        f"{run['basket_latency_ms']:.2f}",
        f"{run['tokens']:,}",
        "" if run["held_out_loss"] is None else f"{run['held_out_loss']:.4f}",
        "" if run["score"] is None else f"{run['score']:+.3f}",
        ", ".join(remarks),
    ]


def _notes(summary: dict[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    noise, weight = summary["noise"], summary["loss_weight"]
    source = summary.get("latency_source", "predicted")  # contests of earlier versions say none
    notes = [
        f"loss: trained, nats per hidden token of held-out text (15 % hidden); basket ms: {source};"
        " the front: no other whole run has less loss and less latency.",
        "score: against the reference after the same tokens, smaller is better: the space's objectives as in"
        f" a predicted run, with {weight:g} x ln(loss) / 0.076 in place of the quality prior (Kaplan's power"
        " law; one percent of loss is worth 13 % of latency at weights 1 and 1).",
    ]
    ended = sum(run["state"] == "pruned" for run in runs)
    unigram, judged_from = f"{summary['unigram_loss']:.2f} nats", summary["judged_from_tokens"]
    if judged_from is None:
        notes.append(
            f"The words' frequencies alone give {unigram}, and the reference did not come clearly below that:"
            " nobody was ended early, and these ranks say little. More tokens are needed."
        )
    else:
        notes.append(
            f"{ended} of {len(runs)} were ended early (asynchronous successive halving by score, at 1/8, 1/4"
            f" and 1/2 of the tokens where the reference was clearly below {unigram}, what the words'"
            f" frequencies alone give: from {judged_from:,} on)."
        )
    if noise["loss"] is not None:
        of_loss = f"{noise['loss']:.4f} nats of loss ({noise['loss_pairs']} shapes with two seeds)"
        notes.append(f"noise, as one standard deviation of a whole run: {of_loss}.")
    if noise["score"] is None:
        return [*notes, "No candidate has whole runs of two seeds, so how sure a score is stays unknown."]
    notes.append(f"The same of a score: {noise['score']:.3f} ({noise['score_pairs']} shapes).")
    if equals := summary["not_told_apart"]:
        notes.append(f"Not told apart from {summary['winner']} by so few pairs (95 %): {', '.join(equals)}.")
    else:
        notes.append(f"{summary['winner']} is told apart from all other whole runs (95 %).")
    return notes
