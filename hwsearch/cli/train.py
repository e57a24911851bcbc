"""hwsearch train"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.search.run_folder import shape_of_run

SHORT_RECIPE = ("steps", "tokens_per_step", "sequence_length", "learning_rate")


def main(arguments: argparse.Namespace) -> None:
    shape = shape_of_run(arguments.shape)
    try:
        from hwsearch.training import find_recipe, read_recipe, recipe_of, short_recipe, train
    except ModuleNotFoundError as error:
        raise HwsearchError(
            f"train needs the package {error.name}; install it with: pip install 'hwsearch[train]'"
        ) from error
    given = {name: value for name in SHORT_RECIPE if (value := getattr(arguments, name)) is not None}
    changed = {name: value for name in ("seed", "scale") if (value := getattr(arguments, name)) is not None}
    if arguments.recipe is None:
        if "scale" in changed:
            raise HwsearchError("--scale: needs a --recipe to scale")
        recipe = short_recipe(**given, **changed)
    else:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise HwsearchError(
                f"--{option}: the recipe says that; accepted: --recipe with --scale and --seed"
            )
        recipe = recipe_of(read_recipe(find_recipe(arguments.recipe)).model_dump() | changed)
    result = train(
        shape,
        [Path(path) for path in arguments.data or ()],
        Path(arguments.out),
        recipe,
        tokenizer=None if arguments.tokenizer is None else Path(arguments.tokenizer),
        resume=arguments.resume,
        start=None if arguments.start is None else Path(arguments.start),
        fsdp=arguments.fsdp,
        recompute=arguments.recompute,
        compile=arguments.compile,
        bar=sys.stderr.isatty(),
        report=partial(print, flush=True),
    )
    if result.interrupted:
        raise KeyboardInterrupt
