"""What `--storage` names, and what may be said of it without its password."""

from __future__ import annotations

import re
from urllib.parse import unquote

JOURNAL_SUFFIX = ".log"
_PASSWORD_PARAMETER = re.compile(r"(?i)((?:password|passwd|pwd)=)([^&\s]*)")
SHORTEST_PASSWORD = 3


def is_journal(url: str) -> bool:
    return "://" not in url and url.endswith(JOURNAL_SUFFIX)


def is_one_file(url: str) -> bool:
    """Whether the storage is a file, which one process at a time may hold.

    SQLite is one: to read a trial's state and to change it are two steps there, so of two processes one
    could undo what the other has just finished.
    """
    return is_journal(url) or url.startswith("sqlite")


def without_password(text: str) -> str:
    """A URL, or a message that quotes one, without its secrets: whatever stands between the user and the last
    @, and, where there is no @, what is no port."""
    text = re.sub(r"(://[^:/@\s]*):.*@", r"\1:***@", text)
    text = re.sub(r"(://[^:/@\s]*):(?!\*|\d+\b)[^/@\s]+", r"\1:***", text)
    return _PASSWORD_PARAMETER.sub(r"\1***", text)


def without_password_of(url: str, message: str) -> str:
    """What a driver says of `url`, without the URL's password: one that is not well written it may take for
    a host or a port, and name."""
    rest = url.partition("://")[2]
    before, at, _ = rest.rpartition("@")
    secret = (before if at else rest.partition("/")[0]).partition(":")[2]
    secrets = [found for _, found in _PASSWORD_PARAMETER.findall(url)]
    if at or not secret.isdigit():  # then it is a port
        secrets.append(secret)
    pieces = {piece for each in secrets for piece in (each, unquote(each), *re.split("[@:/?#]", each))}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= SHORTEST_PASSWORD:
            message = message.replace(piece, "***")
    return without_password(message)


def reason_of(error: BaseException) -> str:
    """One line: what the driver said, below what SQLAlchemy and Optuna made of it."""
    while (cause := error.__cause__) is not None:
        error = cause
    return without_password(str(error)).strip().partition("\n")[0] or type(error).__name__
