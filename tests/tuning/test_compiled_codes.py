"""The file of compiled code, and the processes that fill it."""

import json
from dataclasses import replace

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.kernels.triton_attention.configs import Tile
from hwsearch.tuning.compiled_codes import CodeFile, Job, compile_jobs

JOB = Job((8, 0), "forward", "bf16", 32, Tile(16, 16, 1, 1, split=False), False, "scratch")
CODE = {"registers": 64, "stack_bytes": 0}


@pytest.fixture
def path(tmp_path):
    pytest.importorskip("triton")
    return tmp_path / "compiled" / "attention.jsonl"


def test_what_was_added_is_found_again(path):
    CodeFile(path).add(JOB, CODE)
    CodeFile(path).add(replace(JOB, head_size=64), {"error": "none"})
    assert CodeFile(path).found == {JOB: CODE, replace(JOB, head_size=64): {"error": "none"}}


def test_code_of_another_triton_or_of_other_kernels_is_left_out(path):
    CodeFile(path).add(JOB, CODE)
    line = json.loads(path.read_text())
    for name in ("triton", "sources", "reader"):
        path.write_text(json.dumps(line | {"stamp": line["stamp"] | {name: "other"}}) + "\n")
        assert CodeFile(path).found == {}


def test_half_a_line_of_a_killed_process_costs_that_line_alone(path):
    CodeFile(path).add(JOB, CODE)
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    codes = CodeFile(path)
    assert codes.found == {JOB: CODE}
    codes.add(replace(JOB, head_size=64), CODE)
    assert set(CodeFile(path).found) == {JOB, replace(JOB, head_size=64)}


def test_another_file_is_named(path):
    path.parent.mkdir()
    path.write_text("registers: 64\n")
    with pytest.raises(HwsearchError, match=f"{path}:1: not a line of compiled code"):
        CodeFile(path)


def test_a_crash_costs_one_job_and_what_is_there_is_not_compiled_again(path):
    crashing = replace(JOB, dtype="no such type")
    codes, heard = CodeFile(path), []
    compile_jobs([crashing, JOB, JOB], codes, 1, lambda job, code: heard.append(job))
    assert heard == [crashing, JOB]
    assert "died" in codes.found[crashing]["error"]
    code = codes.found[JOB]
    assert code["registers"] > 0 and code["blocks_per_sm"] > 0
    assert code["instructions"]["loops"][0]["tensor_flops"] > 0
    heard.clear()
    compile_jobs([crashing, JOB], CodeFile(path), 1, lambda job, code: heard.append(job))
    assert heard == []


def test_a_hang_is_given_up(path):
    codes = CodeFile(path)
    compile_jobs([JOB], codes, 1, timeout_s=0.0)
    assert codes.found[JOB] == {"error": "longer than 0 s"}
