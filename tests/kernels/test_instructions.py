"""What is read from machine code: the loops, and what they issue."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from hwsearch.kernels.triton_attention.configs import Tile
from hwsearch.kernels.triton_attention.instructions import Instructions, Mix, read_instructions

GPUS = ((8, 0), (9, 0), (10, 0))
LOOP = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA 0x0080 ;
        /*0020*/                   LDSM.16.M88.4 R4, [R20] ;
        /*0030*/                   HMMA.16816.F32.BF16 R60, R36, R14, R60 ;
        /*0040*/                   MUFU.EX2 R3, R3 ;
        /*0050*/                   LDGSTS.E.BYPASS.128 [R96+0x3000], [R4.64], P1 ;
        /*0060*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0070*/               @P0 BRA 0x0020 ;
        /*0080*/                   STG.E.U16 [R2.64], R3 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR66], R6 ;
        /*00b0*/                   BRA 0x0020 ;
        /*00c0*/                   BRA 0x00c0;
"""


def test_a_loop_and_what_is_around_it():
    found = read_instructions(LOOP)
    (loop,) = found.loops
    # Six instructions from the target of the branch back to the branch itself.
    assert loop == Mix(
        issued=6, mufu=1, tensor_flops=4096, shared_bytes=2 * 512, global_bytes=512, barriers=1
    )
    assert found.straight.issued == 7 and found.straight.global_bytes == 64
    assert Instructions.from_dict(found.as_dict()) == found


def test_operands_of_wgmma_in_shared_memory():
    line = "/*1ee0*/  HGMMA.64x32x16.F32.BF16 R24, {}, gdesc[UR12], R24, gsb0 ;"
    from_registers, from_shared = (read_instructions(line.format(a)).straight for a in ("R104", "gdesc[UR8]"))
    assert from_registers.tensor_flops == 2 * 64 * 32 * 16 / 4
    assert from_registers.shared_bytes == 32 * 16 * 2 / 4
    assert from_shared.wgmma == 1


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The forward kernel with two loops, for each kind of tensor core: {GPU: (usage, instructions)}."""
    compiled = pytest.importorskip("hwsearch.kernels.triton_attention.compiled")
    changed = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    tile = compiled.Configuration(
        "forward", "bfloat16", 64, Tile(64, 32, 4, 2), "global", True, rope="scratch"
    )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {gpu: pool.submit(compiled.compile_with_instructions, gpu, tile) for gpu in GPUS}
        yield {gpu: job.result() for gpu, job in jobs.items()}
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.mark.parametrize("gpu", GPUS)
def test_compiled_loops_hold_the_work_of_a_step(compiled, gpu):
    usage, instructions = compiled[gpu]
    assert usage.stack_bytes == 0 and len(instructions.loops) == 2
    unmasked, masked = instructions.loops
    assert masked.alu > unmasked.alu, "a mask costs comparisons and selections"
    for loop in instructions.loops:
        # An exponential for each of 64 x 32 scores, on 128 lanes, and for the rescaled rows.
        assert 16 <= loop.mufu <= 20
        assert loop.local == 0 and loop.barriers >= 1
        # Keys and values of the next step: 2 x 32 x 64 elements of 2 bytes, a quarter each warp.
        assert loop.global_bytes == 2 * 32 * 64 * 2 / 4
        if gpu == (10, 0):
            assert loop.tcgen05 >= 2
        else:
            assert loop.tensor_flops == 2 * 2 * 64 * 32 * 64 / 4
            assert (loop.wgmma > 0) == (gpu == (9, 0))
