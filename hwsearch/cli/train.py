"""hwsearch train"""

from __future__ import annotations

import argparse
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.search.run_folder import shape_of_run

RECIPE = ("steps", "tokens_per_step", "sequence_length", "learning_rate", "seed")


def main(arguments: argparse.Namespace) -> None:
    shape = shape_of_run(arguments.shape)
    try:
        from hwsearch.training import Recipe, train
    except ModuleNotFoundError as error:
        raise HwsearchError(
            f"train needs the package {error.name}; install it with: pip install 'hwsearch[train]'"
        ) from error
    given = {name: value for name in RECIPE if (value := getattr(arguments, name)) is not None}
    result = train(
        shape,
        [Path(path) for path in arguments.data or ()],
        Path(arguments.out),
        Recipe(**given),
        tokenizer=None if arguments.tokenizer is None else Path(arguments.tokenizer),
    )
    if result.interrupted:
        raise KeyboardInterrupt
