"""Checkpoints: folders that transformers loads, with all that training needs to go on bit for bit.

    checkpoints/step-0000512/
        model.safetensors, config.json, tokenizer.json, tokenizer_config.json    for transformers
        state.safetensors    moments of the optimizer, torch's random state; not kept for ever
        state.json           where in the recipe, the data and the log it stands
        sha256.json          of every file above

A folder is written under another name, synced and renamed, so one called step-* is whole unless the
disk itself fails; the digests tell. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hwsearch.errors import HwsearchError
from hwsearch.files import make_folder

PREFIX = "step-"
WEIGHTS, STATE, POSITION, DIGESTS = "model.safetensors", "state.safetensors", "state.json", "sha256.json"
# One to go on from, and the one before in case that one is damaged.
RESUMABLE = 2


@dataclass(frozen=True)
class Checkpoint:
    """One on disk.

    Attributes:
        position: state.json: plain data.
    """

    folder: Path
    position: dict[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def can_resume(self) -> bool:
        return (self.folder / STATE).is_file()

    def tensors(self) -> dict[str, Tensor]:
        """state.safetensors."""
        tensors: dict[str, Tensor] = load_file(self.folder / STATE)
        return tensors


def write_checkpoint(
    checkpoints: Path,
    step: int,
    weights: dict[str, Tensor],
    tensors: dict[str, Tensor],
    position: dict[str, Any],
    write_texts: Callable[[Path], None],
) -> Checkpoint:
    """Write step-NNNNNNN whole or not at all.

    Args:
        weights: under transformers' names.
        tensors: what else training needs, on the CPU.
        position: plain data.
        write_texts: writes config and tokenizer into the folder it is given.

    Raises HwsearchError for a disk that cannot take it; older checkpoints stay as they are.
    """
    target = checkpoints / f"{PREFIX}{step:07d}"
    temporary = _temporary(target)
    try:
        make_folder(temporary)
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        save_file(tensors, temporary / STATE)
        (temporary / POSITION).write_text(json.dumps(position, indent=1) + "\n", encoding="utf-8")
        write_texts(temporary)
        digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        (temporary / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        _remove(target)
        os.rename(temporary, target)
        _sync(checkpoints)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HwsearchError(f"{target}: cannot write: {reason}; older checkpoints are untouched") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Checkpoint(target, position)


def find_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """Those whose position is readable, oldest first; damage elsewhere is not looked for."""
    found = []
    for folder in sorted(checkpoints.glob(f"{PREFIX}*")):
        try:
            found.append(Checkpoint(folder, json.loads((folder / POSITION).read_bytes())))
        except (OSError, ValueError):
            continue
    return found


def latest_checkpoint(checkpoints: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest one that is whole and can be resumed.

    A damaged one gets the name damaged-step-*, with a warning; what a killed process was writing goes.
    """
    for leftover in checkpoints.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in sorted(checkpoints.glob(f"{PREFIX}*"), reverse=True):
        damage = _damage(folder)
        if damage is None:
            checkpoint = Checkpoint(folder, json.loads((folder / POSITION).read_bytes()))
            if checkpoint.can_resume:
                return checkpoint
            continue
        aside = folder.with_name(f"damaged-{folder.name}")
        _remove(aside)
        os.rename(folder, aside)
        warn(f"{folder}: {damage}; going back to the checkpoint before (this one is now {aside.name})")
    return None


def prune(checkpoints: Path) -> None:
    """Remove what nobody needs: states of all but the newest ones, and folders that no rule keeps."""
    resumable = [each for each in find_checkpoints(checkpoints) if each.can_resume]
    for each in resumable[:-RESUMABLE]:
        if each.position["kept"]:
            (each.folder / STATE).unlink()
        else:
            _remove(each.folder)


def _damage(folder: Path) -> str | None:
    """What is wrong with it; an absent state is not."""
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        for name, digest in digests.items():
            path = folder / name
            if name == STATE and not path.exists():
                continue
            if _digest(path) != digest:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError):
        return "is not readable"
    return None if {WEIGHTS, POSITION} <= digests.keys() else "is not complete"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Under another name first: a process killed in the middle leaves nothing that looks whole."""
    if folder.exists():
        temporary = _temporary(folder)
        os.rename(folder, temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
