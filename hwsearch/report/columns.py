"""Text in columns."""

from __future__ import annotations


def aligned(rows: list[list[str]], left: int = 2) -> list[str]:
    """Columns padded to equal width: the first `left` aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
