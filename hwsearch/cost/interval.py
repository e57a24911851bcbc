"""How far a prediction may be off: factors around it that should hold 90 % of the measurements."""

from __future__ import annotations

from hwsearch.cost.operators import OPERATORS
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.gpu.profile import Gpu

# Provisional, coverage not yet checked: were errors normal, 90 % of them would lie within 1.645 / 0.6745
# median absolute errors.
NINETY_OVER_MEDIAN = 2.44
# Where nothing was measured: the error of fp32 GEMMs on unseen GPUs, results/fit_constants.md.
UNKNOWN_ERROR_PERCENT = 31.5


def interval(gpu: Gpu, dtype: str, kind: str) -> tuple[float, float]:
    """Factors (low <= 1 <= high) around a prediction on `gpu` in `dtype`.

    `kind` is an operator of `OPERATORS`, or the runtime of a whole model.
    """
    if kind in OPERATORS:
        evidence = OPERATORS[kind].evidence(gpu, dtype)
        fitted = evidence.kind == "fitted"
        percent = evidence.own_error_percent if fitted else evidence.transfer_error_percent
    else:
        percent = next(r.end_to_end_error_percent for name, r in RUNTIMES.items() if name == kind)
    share = NINETY_OVER_MEDIAN * (UNKNOWN_ERROR_PERCENT if percent is None else percent) / 100
    return 1 / (1 + share), 1 + share
