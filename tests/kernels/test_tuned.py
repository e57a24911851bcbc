"""What a look-up finds, in which order, and that it says so; without torch."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tuned_rows import KEY, ONE_PASS, row, write

from hwsearch.kernels import tuned as module
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.kernels.tuned import Found, Key, forget, tuned, tuned_for

# The two Hopper cards, and one of another architecture.
H200, H100, L4 = "NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA L4"
FORWARD = "attention_forward"
MODELLED = {"source": "modelled", "spread": None}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own folder, empty, before one of shipped tables, empty too."""
    monkeypatch.setattr(module, "folders", lambda: (tmp_path / "own", tmp_path / "shipped"))
    forget()
    yield tmp_path / "own"
    forget()


@pytest.fixture
def shipped(own: Path) -> Path:
    return own.parent / "shipped"


def on_h200(key: Key = KEY, kernel: str = FORWARD) -> Found:
    forget()
    return tuned(kernel, H200, (9, 0), key)


def test_nothing_is_the_default(own: Path) -> None:
    assert on_h200() == Found("default", None, None)
    assert tuned_for(FORWARD, "h200-sxm", (9, 0), KEY).state == "default"


def test_states_in_their_order(own: Path) -> None:
    family = row(seconds=5e-5)
    model, other_model = row(**MODELLED, seconds=6e-5), row(**MODELLED, seconds=7e-5)
    write(own, "l4", row(seconds=9e-5))
    assert on_h200().state == "default"
    write(own, "h100-sxm", other_model)
    assert (on_h200().state, on_h200().row, on_h200().gpu) == ("compiled only", other_model, "h100-sxm")
    write(own, "h200-sxm", model)
    assert (on_h200().state, on_h200().row, on_h200().gpu) == ("compiled only", model, "h200-sxm")
    write(own, "h100-sxm", family)
    assert (on_h200().state, on_h200().row, on_h200().gpu) == ("same family", family, "h100-sxm")
    shorter = row(key=replace(KEY, length=128))
    write(own, "h200-sxm", shorter)
    assert (on_h200().state, on_h200().row) == ("same GPU", shorter)
    longer = row(key=replace(KEY, length=2048))
    write(own, "h200-sxm", longer)
    assert (on_h200().state, on_h200().row) == ("same GPU", longer)
    write(own, "h200-sxm", row())
    found = on_h200()
    assert (found.state, found.row, found.gpu) == ("exact", row(), "h200-sxm")
    assert found.path == own / "h200-sxm" / "attention_forward.json"
    assert tuned_for(FORWARD, "h200-sxm", (9, 0), KEY) == found


@pytest.mark.parametrize(
    "other",
    [
        Key("fp16", 64, "global", 512),
        Key("bf16", 128, "global", 512),
        Key("bf16", 64, "narrow", 512),
        Key("bf16", 64, "global", 8192),
        Key("bf16", 64, "global", 64),
    ],
    ids=str,
)
def test_no_other_key_is_taken_for_a_near_one(own: Path, other: Key) -> None:
    write(own, "h200-sxm", row(key=other), row(key=other, **MODELLED))
    write(own, "h100-sxm", row(key=replace(other, length=other.length)))
    assert on_h200().state == "default"


def test_a_device_without_a_capability_has_no_family(own: Path) -> None:
    write(own, "h100-sxm", row())
    assert tuned(FORWARD, "Some CPU", None, KEY).state == "default"


def test_the_table_of_another_machines_cpu_is_not_this_ones(own: Path) -> None:
    path = write(own, "cpu", row())
    assert tuned_for(FORWARD, "cpu", None, KEY).state == "exact"
    path.write_text(path.read_text().replace(cpu_name(), "Another CPU"))
    forget()
    assert tuned_for(FORWARD, "cpu", None, KEY).state == "default"
    assert tuned(FORWARD, cpu_name(), None, KEY).state == "default"


def test_a_row_of_ones_own_wins_over_a_shipped_one_of_the_same_state(own: Path, shipped: Path) -> None:
    write(shipped, "h200-sxm", row(), row(key=replace(KEY, length=2048)))
    write(own, "h200-sxm", row(seconds=9e-4))
    assert on_h200().row == row(seconds=9e-4)
    # but not over a better one
    assert on_h200(replace(KEY, length=2048)).row == row(key=replace(KEY, length=2048))
    write(shipped, "h100-sxm", row(key=replace(KEY, dtype="fp16")))
    write(own, "h100-pcie", row(key=replace(KEY, dtype="fp16"), seconds=9e-4))
    assert on_h200(replace(KEY, dtype="fp16")).gpu == "h100-pcie"


def test_a_one_pass_tile_of_shorter_sequences_serves_no_longer_ones(own: Path) -> None:
    kernel = "attention_backward"
    write(own, "h200-sxm", row(kernel, Key("bf16", 64, "global", 64), config=ONE_PASS), kernel=kernel)
    assert on_h200(Key("bf16", 64, "global", 128), kernel).state == "default"
    assert on_h200(Key("bf16", 64, "global", 64), kernel).state == "exact"
    assert on_h200(Key("bf16", 64, "global", 32), kernel).state == "same GPU"


def test_a_broken_table_is_warned_of_once_and_ignored(own: Path, shipped: Path) -> None:
    write(shipped, "h200-sxm", row())
    path = write(own, "h200-sxm", row(seconds=9e-4))
    path.write_text(path.read_text().replace('"rows": 64', '"rows": 48'))
    with pytest.warns(UserWarning, match=f"{path}: ignored: .*config.rows: 48; accepted: 16, ") as found:
        assert tuned(FORWARD, H200, (9, 0), KEY).row == row()
        assert tuned(FORWARD, H200, (9, 0), replace(KEY, head_size=32)).state == "default"
    assert len(found) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "gpu": "h200-sxm", "device": "NVIDIA H200"}'])
def test_a_file_of_another_format_is_ignored(own: Path, text: str) -> None:
    path = own / "h200-sxm" / "attention_forward.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.warns(UserWarning, match=f"{path}: ignored: ") as found:
        assert tuned(FORWARD, H200, (9, 0), KEY).state == "default"
    assert len(found) == 1


def test_a_table_that_was_copied_to_another_gpus_folder_is_ignored(own: Path) -> None:
    path = write(own, "h200-sxm", row())
    copy = own / "l4" / path.name
    copy.parent.mkdir()
    copy.write_text(path.read_text())
    with pytest.warns(UserWarning, match=f"{copy}: ignored: a table of attention_forward on h200-sxm"):
        assert tuned_for(FORWARD, "l4", (8, 9), KEY).state == "default"


def test_a_broken_table_of_another_gpu_is_nobodys_business(own: Path) -> None:
    path = write(own, "l4", row())
    path.write_text(path.read_text().replace('"rows": 64', '"rows": 48'))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert on_h200().state == "default"


def test_a_row_of_another_triton_is_used_with_one_warning_for_a_gpu(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_triton_version", lambda: "3.9.0")
    write(own, "h200-sxm", row(triton="3.6.0"), row(key=replace(KEY, length=64), triton="3.6.1"))
    write(own, "l4", row(triton="3.9.7"))
    with pytest.warns(UserWarning, match="h200-sxm.*: tuned with triton 3.6.*, and this is 3.9.0") as found:
        for length in (512, 64, 512):
            assert tuned(FORWARD, H200, (9, 0), replace(KEY, length=length)).state == "exact"
        assert tuned(FORWARD, L4, (8, 9), KEY).state == "exact"
    assert len(found) == 1
    forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuned_for(FORWARD, "h200-sxm", (9, 0), KEY).state == "exact"


def test_each_table_is_read_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(own, "h200-sxm", row())
    reads = []
    read = module.read_table
    monkeypatch.setattr(module, "read_table", lambda path: reads.append(path) or read(path))
    for length in (64, 512, 512, 2048):
        tuned(FORWARD, H200, (9, 0), replace(KEY, length=length))
    assert len(reads) == 1


def test_own_tables_lie_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path))
    assert module.folders()[0] == module.own_folder() == tmp_path / "tuned"
    monkeypatch.delenv("HWSEARCH_CACHE")
    assert module.own_folder() == Path.home() / ".cache" / "hwsearch" / "tuned"
    assert all(folder.parts[-2:] == ("profiles", "tuned") for folder in module.folders()[1:])


def test_a_look_up_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = sys.modules['numpy'] = None\n"
        "from hwsearch.kernels.tuned import Key, tuned\n"
        "print(tuned('attention_forward', 'no such device', None, Key('bf16', 64, 'global', 512)).state)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "default", done.stderr
