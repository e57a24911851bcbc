"""hwsearch import"""

from __future__ import annotations

import argparse
from pathlib import Path

from hwsearch.files import write_whole
from hwsearch.shape.hf_config import read_hf_config
from hwsearch.shape.notation import shape_yaml


def main(arguments: argparse.Namespace) -> None:
    path = Path(arguments.folder)
    shape = read_hf_config(path / "config.json" if path.is_dir() else path)
    text = shape_yaml(shape)
    if arguments.out is None:
        print(text, end="")
    else:
        write_whole(Path(arguments.out), text)
        print(f"{arguments.out}: {shape}")
