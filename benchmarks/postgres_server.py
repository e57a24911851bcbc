"""A PostgreSQL server of its own for a test or a benchmark: in a folder, on a socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

USER = "hwsearch"
START_S = 60


@dataclass(frozen=True)
class Postgres:
    """A server that `postgres_server` started; no TCP port, so that several never meet."""

    binaries: Path
    folder: Path
    password: str

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}:{self.password}@/{database}?host={quote(str(self.folder))}"

    def new_database(self) -> str:
        """The URL of one that is empty."""
        import psycopg

        name = f"study_{secrets.token_hex(4)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        return self.url(name)

    def start(self) -> None:
        # fsync guards against a machine that dies; here only processes do.
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        log = self.folder / "server.log"
        end = time.monotonic() + START_S
        while True:
            try:
                return _run(self.binaries / "pg_ctl", "start", *self._data, "-w", "-l", log, "-o", options)
            except subprocess.CalledProcessError:  # while processes of a killed server are still ending
                if time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server and every connection at once, as on `systemctl restart`."""
        _run(self.binaries / "pg_ctl", "stop", *self._data, "-w", "-m", "fast")

    def kill(self) -> None:
        """kill -9 of the server's first process: the others notice and end, what was open is undone."""
        os.kill(self.process, signal.SIGKILL)

    @property
    def process(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])

    @property
    def _data(self) -> tuple[str, Path]:
        return "-D", self.folder / "data"


def find_postgres() -> Path | None:
    """The folder of initdb and pg_ctl: on PATH, or where Debian puts the newest; None where it is missing,
    or where we are root and there is nobody else to run it."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(3))
    folders = [*(Path(found).parent for found in [shutil.which("initdb")] if found), *reversed(debian)]
    found = next((folder for folder in folders if (folder / "initdb").is_file()), None)
    return None if os.getuid() == 0 and _servant() is None else found


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server with an empty database, reached with a password; its files are removed at the end.

    Raises FileNotFoundError where PostgreSQL is not installed.
    """
    binaries = find_postgres()
    if binaries is None:
        raise FileNotFoundError("PostgreSQL: no initdb on PATH or under /usr/lib/postgresql")
    # The folder's path must be short: a socket's has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = Postgres(binaries, folder, secrets.token_hex(8))
    try:
        secret = folder / "password"
        secret.write_text(server.password)
        if servant := _servant():
            for path in (folder, secret):
                os.chown(path, servant.pw_uid, servant.pw_gid)
        _run(
            *(binaries / "initdb", *server._data, "--username", USER, "--pwfile", secret),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync"),
        )
        server.start()
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):  # it may have been killed
                _run(binaries / "pg_ctl", "stop", *server._data, "-w", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _servant() -> pwd.struct_passwd | None:
    """Who runs the server where we are root, which it refuses; None where we are not, or there is nobody."""
    if os.getuid() == 0:
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                return pwd.getpwnam(name)
    return None


def _run(*command: str | Path) -> None:
    servant = _servant()
    as_whom: dict[str, Any] = {}
    if servant:
        as_whom = {"user": servant.pw_uid, "group": servant.pw_gid, "extra_groups": []}
    # Into a file: the server keeps what it inherits, and a pipe would never end.
    with tempfile.TemporaryFile("w+") as said:
        status = subprocess.call(list(map(str, command)), stdout=said, stderr=said, cwd="/", **as_whom)
        said.seek(0)
        if status:
            raise subprocess.CalledProcessError(status, str(command[0]), said.read())
