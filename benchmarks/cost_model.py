"""Fit everything, write the profiles, judge them, and put every table into docs/cost-model.md.

    python benchmarks/cost_model.py --data DIR [--only encoders,hwgpt]

DIR holds the public measurements, a folder for each source. Runs the scripts below one after another, each of
which prints to results/, and replaces the blocks of docs/cost-model.md that stand between
<!-- results/NAME --> and <!-- end -->.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from profile_blocks import write_kinds

from hwsearch.files import write_whole

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "cost-model.md"
# Script and options; what a script prints is the file of its name in results/, but for those with --out.
FITS = {
    "fit_gemm": ("--designs", "--write", "--out", "results/fit_gemm.md"),
    "fit_fp32": ("--designs", "--write", "--out", "results/fit_fp32.md"),
    "fit_attention": ("--write", "--out", "results/fit_attention.md"),
    "fit_stream": ("--write", "--out", "results/fit_stream.md"),
}
JUDGES = ("encoders", "encoders_left_out", "hwgpt", "eager_rows")
BLOCK = re.compile(r"(<!-- (results/\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    everything = [*FITS, *JUDGES, "document"]
    parser.add_argument("--only", help=f"some of {', '.join(everything)}; the document is always filled")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else everything
    if unknown := [name for name in names if name not in everything]:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(everything)}")
    for name in names:
        if name in FITS:
            _run(f"{name}.py", arguments.data, *FITS[name])
            write_kinds()
        elif name == "encoders_left_out":
            _judge_left_out(arguments.data)
        elif name in JUDGES:
            _keep(f"results/{name}.txt", _run(f"{name}.py", arguments.data))
    write_whole(DOCUMENT, BLOCK.sub(_block, DOCUMENT.read_text(encoding="utf-8")))


def _judge_left_out(data: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _run("left_out.py", data, "--out", folder)
        text = _run("encoders.py", data, profiles=folder)
    _keep("results/encoders_left_out.txt", f"Profiles of benchmarks/left_out.py.\n{text}")


def _run(script: str, data: Path, *options: str, profiles: str | None = None) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--data", str(data.resolve()), *options]
    environment = {**os.environ, **({"HWSEARCH_PROFILES": profiles} if profiles else {})}
    print(script, *options, flush=True)
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _keep(name: str, text: str) -> None:
    write_whole(ROOT / name, text)


def _block(found: re.Match[str]) -> str:
    text = (ROOT / found[2]).read_text(encoding="utf-8").strip()
    shown = text if found[2].endswith(".md") else f"```\n{text}\n```"
    return f"{found[1]}\n{shown}\n\n{found[3]}"


if __name__ == "__main__":
    main()
