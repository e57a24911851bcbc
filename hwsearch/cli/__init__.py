"""The command line: parse, call one function, print. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

from hwsearch.cli.parser import build_parser
from hwsearch.errors import HwsearchError


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for bad input, 130 after Ctrl-C."""
    warnings.formatwarning = _warning_line
    try:
        arguments = build_parser().parse_args(argv)
        command = import_module(f"hwsearch.cli.{arguments.module}")
        command.main(arguments)
        if sys.stdout is not None:  # a caller may have closed it
            sys.stdout.flush()
    except HwsearchError as error:
        print(f"hwsearch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nhwsearch: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"hwsearch: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        if error.filename is None and sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    return 0


_foreign_warning = warnings.formatwarning


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Our own warnings are for the user, who need not see where in the code they were made."""
    packages = (sys.modules.get(name) for name in ("hwsearch", "hwsearch.kernels"))
    folders = [Path(package.__file__).parent for package in packages if package and package.__file__]
    if category is UserWarning and any(Path(filename).is_relative_to(folder) for folder in folders):
        return f"hwsearch: warning: {message}\n"
    return _foreign_warning(message, category, filename, lineno, line)
