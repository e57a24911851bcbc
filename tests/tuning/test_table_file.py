"""Rows are merged into tables, never lost: by one tuner, by two at once, by git, and past a broken file."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tuned_rows import KEY, row, write

from hwsearch import files
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.triton_attention.space import default_config
from hwsearch.kernels.tuned import LENGTHS, Key, Row, read_table
from hwsearch.tuning import table_file
from hwsearch.tuning.table_file import header_of, merge_rows

ROOT = Path(__file__).parents[2]
HEADER = header_of("attention_forward", load_gpu("h200-sxm"))


def of_length(length: int, **change: object) -> Row:
    return row(key=replace(KEY, length=length), **change)


def test_a_new_row_replaces_that_of_its_key_and_source_alone(tmp_path: Path) -> None:
    modelled = row(source="modelled", spread=None)
    write(tmp_path, "h200-sxm", row(), modelled, of_length(64))
    # Older and slower, and still the last word.
    newest = row(seconds=9e-4, date="2020-01-01")
    path = write(tmp_path, "h200-sxm", newest)
    assert read_table(path).rows == (of_length(64), newest, modelled)


def test_the_last_of_two_new_rows_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "h200-sxm", row(), row(seconds=9e-4, date="2020-01-01"))
    assert read_table(path).rows == (row(seconds=9e-4, date="2020-01-01"),)


def test_settings_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    """A tuner's space gives every configuration of the backward the same keys."""
    kernel, key = "attention_backward", Key("bf16", 64, "global", 64)
    config = default_config(kernel, (9, 0), "bf16", 64, None, 64)
    assert config["one_pass"] and config["dq_rows"] == 0
    best = row(kernel, key, config=config, alternatives=((config, 2e-4),))
    (found,) = read_table(write(tmp_path, "h200-sxm", best, kernel=kernel)).rows
    assert set(found.config) == {"one_pass", "rows", "warps", "stages", "rotate"}
    assert found.alternatives[0][0] == found.config


def test_no_rows_make_a_table_that_can_be_read(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "h200-sxm")).rows == ()


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda text: text.replace('"stages": 2', '"stages": "two"'), "config.stages: 'two'; accepted: 1, "),
        (lambda text: text.replace('"format": 2', '"format": 1'), "format: 1; accepted: 2"),
        (lambda text: text.replace("null]}", "]}"), "Illegal trailing comma|Expecting value"),
        (lambda text: text[: len(text) // 2], "Expecting|Unterminated|Invalid"),
        (lambda text: "", "Expecting value"),
        (lambda text: text.replace('"sms": 132', '"sms": 114'), "sms: 114; these rows are of 132"),
        (lambda text: text.replace("NVIDIA H200", "NVIDIA L4"), 'devices: ."NVIDIA L4".; these rows are of'),
        (lambda text: text.replace("h200-sxm", "l4"), 'gpu: "l4"; these rows are of "h200-sxm"'),
        (lambda text: "<<<<<<< HEAD\n" + text, "Expecting value"),
    ],
)
def test_a_table_that_was_edited_into_nonsense_is_named_and_left_alone(
    tmp_path: Path, edit, reason: str
) -> None:
    path = write(tmp_path, "h200-sxm", row())
    path.write_text(edit(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(HwsearchError, match=f"^{path}: .*({reason})"):
        merge_rows(path, HEADER, [of_length(64)])
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == [".lock", path.name]


@pytest.mark.parametrize(
    "nonsense",
    [row(seconds=float("nan")), row(config={"rows": 48}), row(key=Key("bf16", 64, "local", 512)),
     row(seconds=object()), row(date="today")],
    ids=range(5),
)  # fmt: skip
def test_a_row_that_no_reader_would_accept_is_not_written(tmp_path: Path, nonsense: Row) -> None:
    path = write(tmp_path, "h200-sxm", row())
    before = path.read_bytes()
    with pytest.raises(HwsearchError):
        merge_rows(path, HEADER, [nonsense])
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "h200-sxm", row())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(HwsearchError, match="No space left on device"):
        merge_rows(path, HEADER, [of_length(64)])
    assert path.read_bytes() == before


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "h200-sxm").touch()
    with pytest.raises(HwsearchError, match="h200-sxm is a file"):
        write(tmp_path, "h200-sxm", row())


def _add(folder: Path, dtype: str, times: int) -> None:
    for length in LENGTHS:
        for _ in range(times):
            write(folder, "h200-sxm", row(key=Key(dtype, 64, "global", length)))


def test_two_tuners_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    tuners = [context.Process(target=_add, args=(tmp_path, dtype, 5)) for dtype in ("bf16", "fp16")]
    for tuner in tuners:
        tuner.start()
    for tuner in tuners:
        tuner.join(60)
        assert tuner.exitcode == 0
    table = read_table(tmp_path / "h200-sxm" / "attention_forward.json")
    assert [row.key for row in table.rows] == [
        Key(dtype, 64, "global", length) for dtype in ("bf16", "fp16") for length in LENGTHS
    ]


def test_a_tuner_that_never_lets_go_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "PATIENCE_S", 0.05)
    path = write(tmp_path, "h200-sxm", row())
    with (
        files.hold(path.with_name(".lock"), "unused"),
        pytest.raises(HwsearchError, match=f"^{path}: another process has been writing it"),
    ):
        merge_rows(path, HEADER, [of_length(64)])


def test_a_profile_that_has_learned_a_name_of_its_device_goes_on_with_its_table(tmp_path: Path) -> None:
    path = write(tmp_path, "h200-sxm", row())
    devices = ("NVIDIA H200", "NVIDIA H200 SXM")
    merge_rows(path, replace(HEADER, devices=devices), [of_length(64)])
    table = read_table(path)
    assert table.devices == devices and table.rows == (of_length(64), row())


def test_the_cpu_is_a_device_by_its_name() -> None:
    header = header_of("attention_backend", load_gpu("cpu"))
    assert header.compute_capability is None and header.devices == (load_gpu("cpu").product,)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    # Nobody's configuration but this.
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "core.hooksPath="]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def commit(folder: Path) -> None:
    git(folder, "add", "--all", ".gitattributes", "--", *(p for p in ("profiles",) if (folder / p).exists()))
    git(folder, "commit", "--quiet", "--message", "tables")


BEFORE = [of_length(128), of_length(2048)]


@pytest.mark.parametrize(
    ("before", "ours", "theirs", "merged"),
    [
        # both create the table
        ([], [row()], [of_length(64)], [of_length(64), row()]),
        ([], [row()], [row()], [row()]),
        # both add rows, next to each other and apart
        (BEFORE, [row()], [of_length(32)], [of_length(32), of_length(128), row(), of_length(2048)]),
        (BEFORE, [row()], [row(source="modelled")], [BEFORE[0], row(), row(source="modelled"), BEFORE[1]]),
        (BEFORE, [of_length(8192)], [row(), of_length(8192)], [BEFORE[0], row(), BEFORE[1], of_length(8192)]),
        # both tune one row: the newest counts, then the fastest
        ([row()], [row(seconds=3e-5, date="2026-11-23")], [row(seconds=2e-5, date="2026-11-22")],
         [row(seconds=3e-5, date="2026-11-23")]),
        ([], [row(seconds=3e-5)], [row(seconds=2e-5)], [row(seconds=2e-5)]),
        # one replaces what the other leaves alone
        ([row(), BEFORE[1]], [row(seconds=9e-4, date="2026-11-23")], [of_length(8192)],
         [row(seconds=9e-4, date="2026-11-23"), BEFORE[1], of_length(8192)]),
    ],
    ids=["new", "same new", "apart", "together", "overlap", "newest", "fastest", "replaced"],
)  # fmt: skip
def test_git_merges_the_rows_of_two_branches(
    repository: Path, before: list[Row], ours: list[Row], theirs: list[Row], merged: list[Row]
) -> None:
    folder = repository / "profiles" / "tuned"
    if before:
        write(folder, "h200-sxm", *before)
        commit(repository)
    git(repository, "branch", "theirs")
    write(folder, "h200-sxm", *ours)
    commit(repository)
    git(repository, "checkout", "--quiet", "theirs")
    path = write(folder, "h200-sxm", *theirs)
    commit(repository)
    git(repository, "merge", "--quiet", "--message", "merge", "main")
    assert list(read_table(path).rows) == merged
    # The next row that is written leaves no trace of the merge.
    merge_rows(path, HEADER, [])
    assert path.read_text() == table_file.table_text(replace(HEADER, rows=tuple(merged)))
