"""The one exception that a user is meant to read."""

from __future__ import annotations


class HwsearchError(Exception):
    """Bad input or an impossible request; the message says what, where and what is accepted.

    The command line prints it without a traceback and leaves with exit status 2.
    """
