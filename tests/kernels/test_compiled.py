"""The default kernels compile for GPUs that are not here, onto tensor cores, and spill nothing.

Triton as installed; every GPU, head size and window class in bfloat16, and for time only head size 64 of
float16 and of short sequences. benchmarks/compile_kernels.py compiles all dtypes, causal and grouped calls,
wide windows and every class of short sequences.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

pytest.importorskip("triton.backends.nvidia")

from hwsearch.kernels.triton_attention.compiled import Configuration, compile_for, default_configurations
from hwsearch.kernels.triton_attention.configs import DELTA_TILE, ROTATION_TILE, Tile
from hwsearch.kernels.triton_attention.occupancy import blocks_per_sm

GPUS = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
SAMPLE = [(gpu, "bfloat16", size) for gpu in GPUS for size in (32, 64, 128)]
# One of each kind of tensor core: mma.sync, wgmma and tcgen05.
SAMPLE += [(gpu, "float16", 64) for gpu in ((8, 0), (9, 0), (10, 0))]
# Longest sequence and window: global and local layers of a long context, and thousands of short sequences.
CALLS = {"global": (8192, -1), "local": (8192, 64), "short": (32, -1)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two processes of their own, which neither the tests' interpreter mode nor a cache reaches."""
    changed = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def compiled(pool):
    """All of the sample under way at once: {(GPU, configuration): its future}."""
    jobs = {}
    for gpu, dtype, size in SAMPLE:
        for name, (max_seqlen, window) in CALLS.items():
            if (name == "short" and size != 64) or (name != "global" and dtype == "float16"):
                continue
            for c in default_configurations(gpu, dtype, size, window, max_seqlen):
                jobs[gpu, c] = pool.submit(compile_for, gpu, c)
    return jobs


@pytest.mark.parametrize("gpu, dtype, size", SAMPLE)
def test_default_kernels_use_tensor_cores_fit_and_spill_nothing(compiled, gpu, dtype, size):
    mine = {c: job for (g, c), job in compiled.items() if (g, c.dtype, c.head_size) == (gpu, dtype, size)}
    assert {c.kernel for c in mine} >= {"forward", "dq", "dkdv"}
    for configuration, job in mine.items():
        kernel = job.result()
        assert kernel.tensor_core_instructions > 0, configuration
        assert kernel.stack_bytes == 0, (configuration, kernel)
        assert kernel.blocks_per_sm >= 1, (configuration, kernel)


def test_hopper_uses_wgmma_and_blackwell_tcgen05(compiled):
    for (gpu, configuration), job in compiled.items():
        if configuration.tile.rows >= 64 and gpu in ((9, 0), (10, 0)):
            kernel = job.result()
            assert kernel.wgmma if gpu == (9, 0) else kernel.tcgen05, configuration


@pytest.mark.parametrize("gpu", GPUS)
def test_kernels_without_products_compile_and_spill_nothing(pool, gpu):
    """Backward passes run the one, calls with rotary embedding and long sequences the other."""
    delta = Configuration("delta", "bfloat16", 64, DELTA_TILE, "global", split=False)
    rotate = Configuration("rotate", "bfloat16", 128, ROTATION_TILE, "global", split=False, rope="scratch")
    for job in [pool.submit(compile_for, gpu, c) for c in (delta, rotate)]:
        kernel = job.result()
        assert kernel.stack_bytes == 0 and kernel.blocks_per_sm >= 1, kernel


def test_turing_gets_no_tensor_core_instruction(pool):
    """Why attention on a T4 is sent to another backend."""
    tile = Configuration("forward", "float16", 32, Tile(16, 16, 4, 1), "global", split=False)
    assert pool.submit(compile_for, (7, 5), tile).result().tensor_core_instructions == 0


def test_blocks_per_sm_are_limited_by_each_resource():
    assert blocks_per_sm((8, 0), warps=4, registers=32, shared_bytes=0) == 16
    assert blocks_per_sm((8, 6), warps=4, registers=32, shared_bytes=0) == 12
    assert blocks_per_sm((8, 0), warps=1, registers=32, shared_bytes=0) == 32
    # 168 registers: 5376 a warp, 12 warps an SM.
    assert blocks_per_sm((8, 0), warps=4, registers=168, shared_bytes=0) == 3
    assert blocks_per_sm((8, 0), warps=4, registers=169, shared_bytes=0) == 2
    assert blocks_per_sm((9, 0), warps=4, registers=32, shared_bytes=64 * 1024) == 3
    assert blocks_per_sm((8, 6), warps=4, registers=32, shared_bytes=99 * 1024) == 1
    assert blocks_per_sm((8, 6), warps=4, registers=32, shared_bytes=99 * 1024 + 1) == 0
    assert blocks_per_sm((10, 0), warps=4, registers=32, shared_bytes=0, tensor_memory_columns=256) == 2


@pytest.mark.parametrize("gpu", [*GPUS, (10, 3), (13, 0)])
@pytest.mark.parametrize("element", [2, 4])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_default_tiles_are_ones_the_work_list_has(gpu, element, size):
    from hwsearch.kernels.schedule import TILE_SIZES
    from hwsearch.kernels.triton_attention.configs import default_tiles

    for max_seqlen in (1, 16, 17, 32, 64, 65, 128, 8192):
        for local in (False, True):
            tiles = default_tiles(gpu, element, size, local, max_seqlen)
            assert {tiles.forward.rows, tiles.dq.rows, tiles.dkdv.rows} <= set(TILE_SIZES)
            if tiles.short is not None:
                assert tiles.short.rows >= max_seqlen
