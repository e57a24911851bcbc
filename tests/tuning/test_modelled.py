"""Modelled tuning, on code that is estimated instead of compiled: no test here compiles anything."""

from dataclasses import asdict, replace

import pytest

pytest.importorskip("triton")

from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.triton_attention.space import default_config, space_of, trimmed
from hwsearch.kernels.tuned import read_table, table_path
from hwsearch.tuning import modelled
from hwsearch.tuning.compiled_codes import CodeFile
from hwsearch.tuning.estimated_code import estimated_code
from hwsearch.tuning.modelled import GUARD, jobs_of, tune_modelled
from hwsearch.tuning.problems import TILES, Wanted, problems
from hwsearch.tuning.run import Effort, searches, tune
from hwsearch.tuning.table_file import header_of, merge_rows


@pytest.fixture
def gpu():
    return load_gpu("l4")


def asked(gpu, kernels=TILES, lengths=(64, 512)):
    return problems(gpu, kernels, Wanted((gpu.default_dtype,), (64,), ("global", "narrow"), lengths))


@pytest.fixture
def compiler(monkeypatch):
    """Stands for the compiler; `compiled` lists the jobs, `spoil` changes what comes out."""

    class Compiler:
        compiled = []  # noqa: RUF012
        spoil = staticmethod(lambda job, code: code)

    def compile_jobs(jobs, codes, workers, report, timeout_s=0):
        for job in jobs:
            code = estimated_code(
                job.kernel, job.capability, job.dtype, job.head_size, job.tile, job.local, job.rope
            )
            Compiler.compiled.append(job)
            record = {
                "registers": min(code.registers, 255), "stack_bytes": 0, "shared_bytes": code.shared_bytes,
                "tensor_memory_columns": code.tensor_memory_columns, "digest": str(hash(job)),
                "blocks_per_sm": 1, "instructions": code.instructions.as_dict(),
            }  # fmt: skip
            record = Compiler.spoil(job, record)
            codes.add(job, record)
            report(job, record)

    Compiler.compiled = []
    monkeypatch.setattr(modelled, "compile_jobs", compile_jobs)
    return Compiler


def test_rows_are_ones_that_a_table_takes(gpu, compiler, tmp_path):
    problems_ = asked(gpu)
    rows = tune_modelled(gpu, problems_, compilations=6, workers=1, cache=tmp_path)
    assert [row.key for row in rows] == [problem.key for problem in problems_]
    for problem, row in zip(problems_, rows, strict=True):
        path = table_path(tmp_path, gpu.name, problem.kernel)
        merge_rows(path, header_of(problem.kernel, gpu), [row])
        assert row in read_table(path).rows
        assert row.source == "modelled" and row.method == "pipeline model 1"
        # The default stays unless something is clearly faster.
        assert row.seconds * GUARD <= row.default_seconds or row.seconds == row.default_seconds
        assert row.config not in [config for config, _ in row.alternatives]
        times = [seconds for _, seconds in row.alternatives]
        assert times == sorted(times) and len(times) <= 4


def test_lengths_and_gpus_share_what_is_compiled(gpu, compiler, tmp_path):
    tune_modelled(gpu, asked(gpu), compilations=6, workers=1, cache=tmp_path)
    assert len(set(compiler.compiled)) == len(compiler.compiled)
    compiler.compiled.clear()
    tune_modelled(gpu, asked(gpu), compilations=6, workers=1, cache=tmp_path)
    assert not compiler.compiled
    sister = replace(gpu, name="sister")
    tune_modelled(sister, asked(sister), compilations=6, workers=1, cache=tmp_path)
    assert not compiler.compiled


def test_no_more_is_compiled_than_asked_for(gpu, compiler, tmp_path):
    (problem,) = asked(gpu, ["attention_forward"], (512,))[:1]
    tune_modelled(gpu, [problem], compilations=3, workers=1, cache=tmp_path)
    assert len(compiler.compiled) == 3


@pytest.mark.parametrize(
    "broken",
    [{"error": "PassManager"}, {"stack_bytes": 8}, {"blocks_per_sm": 0}],
    ids=lambda b: next(iter(b)),
)
def test_what_fails_spills_or_does_not_fit_never_wins(gpu, compiler, tmp_path, broken):
    (problem,) = asked(gpu, ["attention_forward"], (512,))[:1]
    before = tune_modelled(gpu, [problem], compilations=8, workers=1, cache=tmp_path / "whole")[0]
    (winner,) = jobs_of(problem, gpu.compute_capability, before.config)
    compiler.spoil = staticmethod(lambda job, code: code | broken if job == winner else code)
    after = tune_modelled(gpu, [problem], compilations=8, workers=1, cache=tmp_path / "broken")[0]
    assert after.config != before.config
    assert before.config not in [config for config, _ in after.alternatives]


def test_the_same_machine_code_is_listed_once(gpu, compiler, tmp_path):
    (problem,) = asked(gpu, ["attention_forward"], (512,))[:1]
    compiler.spoil = staticmethod(
        lambda job, code: code | {"digest": str(hash((job.tile.rows, job.rope))), "shared_bytes": 0}
    )
    row = tune_modelled(gpu, [problem], compilations=12, workers=1, cache=tmp_path)[0]
    listed = [row.config, *(config for config, _ in row.alternatives)]
    kinds = {(c["rows"], c["warps"], c["rotate"]) for c in listed}
    assert len(kinds) == len(listed)


def test_nothing_that_compiles_is_an_error(gpu, compiler, tmp_path):
    compiler.spoil = staticmethod(lambda job, code: {"error": "no such pass"})
    with pytest.raises(HwsearchError, match="nothing compiles for l4; the default: no such pass"):
        tune_modelled(gpu, asked(gpu)[:1], compilations=3, workers=1, cache=tmp_path)


def test_what_cannot_be_modelled_is_named(gpu, compiler, tmp_path):
    (problem,) = asked(gpu, ["attention_forward"], (512,))[:1]
    other = replace(problem, kernel="attention_backend")
    with pytest.raises(HwsearchError, match="attention_backend cannot be modelled"):
        tune_modelled(gpu, [other], compilations=3, workers=1, cache=tmp_path)
    turing = load_gpu("t4")
    with pytest.raises(HwsearchError, match="t4: Triton uses tensor cores from compute"):
        tune_modelled(turing, [replace(problem, gpu=turing)], compilations=3, workers=1, cache=tmp_path)


@pytest.mark.parametrize("name", ["a100-sxm-80", "h100-sxm", "b200", "rtx5090"])
def test_estimates_exist_for_every_tile(name):
    gpu = load_gpu(name)
    for problem in asked(gpu, lengths=(32, 128)):
        call = (gpu.compute_capability, "bf16", 64, problem.window, problem.workload.padded_length)
        for config in space_of(problem.kernel, *call)[:50]:
            for job in jobs_of(problem, gpu.compute_capability, config):
                code = estimated_code(
                    job.kernel, job.capability, job.dtype, 64, job.tile, job.local, job.rope
                )
                assert code.registers > 0 and code.shared_bytes > 0, asdict(job.tile)
        assert trimmed(default_config(problem.kernel, *call))


def test_the_cache_holds_what_was_compiled(gpu, compiler, tmp_path):
    tune_modelled(gpu, asked(gpu)[:1], compilations=3, workers=1, cache=tmp_path)
    assert set(CodeFile(tmp_path / "attention.jsonl").found) == set(compiler.compiled)


def test_the_default_is_compiled_whole_however_few_are_asked_for(gpu, compiler, tmp_path):
    problem = asked(gpu, kernels=TILES[1:], lengths=(512,))[0]
    (row,) = tune_modelled(gpu, [problem], compilations=1, workers=1, cache=tmp_path)
    assert row.seconds == row.default_seconds and len(compiler.compiled) == 2


def effort(trials=1):
    return Effort(trials, seconds=1, objective="time", workers=1)


def test_a_problem_that_nothing_compiles_of_costs_its_row_alone(gpu, compiler, tmp_path):
    compiler.spoil = staticmethod(lambda job, code: {"error": "no such pass"} if job.local else code)
    problems_ = asked(gpu, lengths=(512,))
    with pytest.warns(UserWarning, match="left out: .* narrow .*no such pass"):
        found = tune(gpu, problems_, effort(), tmp_path, tmp_path / "work", False, lambda *_: None)
    assert [(each.table.kernel, each.row.key.window) for each in found] == [
        (kernel, "global") for kernel in TILES
    ]
    pages = searches(gpu, problems_, found, tmp_path / "work", False)
    assert [placed for placed, _ in pages] == found


def test_ctrl_c_keeps_what_was_compiled(gpu, compiler, tmp_path):
    def impatient(title, at):
        if at.trial == 2:
            raise KeyboardInterrupt

    problems_ = asked(gpu, kernels=TILES[:1], lengths=(512,))
    with pytest.raises(KeyboardInterrupt):
        tune(gpu, problems_, effort(9), tmp_path, tmp_path / "work", False, impatient)
    assert [row.key for row in read_table(table_path(tmp_path, gpu.name, TILES[0])).rows] == [
        problem.key for problem in problems_
    ]


def test_a_table_of_another_format_is_refused_before_anything_is_compiled(gpu, compiler, tmp_path):
    path = table_path(tmp_path, gpu.name, TILES[0])
    path.parent.mkdir()
    path.write_text('{"format": 3}')
    with pytest.raises(HwsearchError, match="format: 3; accepted: 2; it is left as it is"):
        tune(gpu, asked(gpu), effort(), tmp_path, tmp_path / "work", False, lambda *_: None)
    assert not compiler.compiled and path.read_text() == '{"format": 3}'
