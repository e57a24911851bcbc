"""Help and the list of GPUs answer at once, without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import Cli

HEAVY = ("torch", "triton", "optuna", "pandas", "transformers")


def modules_after(*arguments: str) -> set[str]:
    code = (
        "import sys\n"
        "from hwsearch.cli import main\n"
        "try:\n"
        f"    main({list(arguments)!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("MODULES", 1)[1].split())


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (("--help",), (*HEAVY, "numpy", "pydantic", "yaml", "rich")),
        (("run", "--help"), (*HEAVY, "numpy", "pydantic", "yaml")),
        (("gpus",), (*HEAVY, "numpy", "pydantic")),
        (("gpus", "show", "t4"), (*HEAVY, "numpy")),
        (("predict", "bert-base", "--gpu", "l4"), ("torch", "triton", "transformers", "optuna", "pandas")),
        (("space", "show", "tiny"), ("torch", "triton", "transformers", "optuna", "pandas")),
    ],
)
def test_what_a_command_does_not_import(arguments: tuple[str, ...], absent: tuple[str, ...]) -> None:
    assert modules_after(*arguments).isdisjoint(absent)


def test_a_predicted_run_does_without_torch(cli: Cli, small_space: object, tmp_path: object) -> None:
    blocked = (
        "import sys; sys.modules['torch'] = None; from hwsearch.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", blocked, "run", "--space", str(small_space)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("hwsearch ")
    assert "run" in cli("--help").stdout
    assert cli().returncode == 2
