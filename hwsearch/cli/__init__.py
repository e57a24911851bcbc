"""The command line: parse, call one function, print. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from hwsearch.cli.parser import build_parser
from hwsearch.errors import HwsearchError


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for bad input, 130 after Ctrl-C."""
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
