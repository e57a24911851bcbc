"""Where constants come from, as lines of text."""

from __future__ import annotations

from hwsearch.gpu.calibration import Evidence


def evidence_lines(block: str, evidence: Evidence) -> list[str]:
    """Kind, data and rows behind the constants of `block`, their errors, and what to know of them."""
    lines = [f"{block}: {evidence.kind}; {evidence.data}; {evidence.rows:,} rows"]
    errors = []
    if evidence.own_error_percent is not None:
        errors.append(f"{evidence.own_error_percent:.1f} % on cases the fit did not see")
    if evidence.transfer_error_percent is not None:
        errors.append(f"{evidence.transfer_error_percent:.1f} % with constants fitted on other GPUs")
    if errors:
        lines.append(f"  median error: {'; '.join(errors)}")
    if evidence.from_gpus:
        lines.append(f"  from {', '.join(evidence.from_gpus)}")
    if evidence.note:
        lines.append(f"  {evidence.note}")
    return lines
