"""What `import hwsearch` offers to other programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwsearch.cost.prediction import Prediction, predict_shape
from hwsearch.errors import HwsearchError
from hwsearch.export import exports
from hwsearch.export import write_export as export_shape
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import CPU
from hwsearch.report.html import write_report
from hwsearch.search.candidates import Report, silent
from hwsearch.search.result import RunResult
from hwsearch.search.run import SamplerName
from hwsearch.search.run import run as search
from hwsearch.search.run_folder import default_path, kept_cpu, shape_of_run, winners_of_run
from hwsearch.settings import AttentionTimes, Head, Mode, RuntimeName
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.shape.notation import read_shape_yaml
from hwsearch.space.search_space import SearchSpace, load_space
from hwsearch.workload import DEFAULT_WORKLOAD, parse_workload

if TYPE_CHECKING:  # what trains need not be installed
    from hwsearch.search.contest_result import ContestResult
    from hwsearch.search.engine import Engine
    from hwsearch.search.measured_result import MeasuredResult

EngineName = Literal["local", "ray"]


def predict(
    shape: EncoderShape | str,
    *,
    gpu: str,
    workload: str = DEFAULT_WORKLOAD,
    dtype: str | None = None,
    mode: Mode = "inference",
    runtime: RuntimeName = "graph",
    head: Head | None = None,
    recompute: bool = False,
    attention: AttentionTimes = "tuned",
) -> Prediction:
    """Predict one shape on one GPU; arguments as in `hwsearch predict`. Raises HwsearchError."""
    return predict_shape(
        parse_shape(shape) if isinstance(shape, str) else shape,
        load_gpu(gpu),
        parse_workload(workload),
        dtype=dtype,
        mode=mode,
        runtime=runtime,
        head=head,
        recompute=recompute,
        attention_times=attention,
    )


def run(
    space: str,
    *,
    gpus: Sequence[str] | None = None,
    sampler: SamplerName | None = None,
    trials: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    storage: str | None = None,
    report: Report = silent,
    warn: Callable[[str], None] = lambda message: None,
) -> RunResult:
    """Search a space and write its run folder; arguments as in `hwsearch run`. Raises HwsearchError."""
    folder = None if out is None else Path(out)
    return _search(
        _over_basket(load_space(space), gpus, folder),
        sampler=sampler,
        trials=trials,
        seed=seed,
        out=folder,
        storage=storage,
        report=report,
        warn=warn,
    )


def run_and_measure(
    space: str,
    *,
    gpus: Sequence[str] | None = None,
    count: int = 30,
    backend: str | None = None,
    engine: EngineName = "local",
    ray_address: str | None = None,
    out: str | Path | None = None,
    storage: str | None = None,
    report: Report = silent,
    warn: Callable[[str], None] = lambda message: None,
    **predicted: Any,
) -> MeasuredResult:
    """Search a space, then measure its reference and `count` candidates, as `hwsearch run --rung measure`.

    Args:
        gpus: may hold "cpu", the machine at hand.
        backend: of the attention, in place of what dispatch chooses for a device.
        engine: "local" for the devices of this machine, "ray" for those of a Ray cluster.
        ray_address: HOST:PORT of the cluster's head; the cluster that this machine is a node of by default.
        predicted: sampler and seed, as `run` takes them.

    Raises HwsearchError.
    """
    from hwsearch.search.measured import check_measurable, measure_front

    if count < 1:
        raise HwsearchError(f"--trials: {count}; accepted: 1 or more")
    folder = None if out is None else Path(out)
    loaded = _over_basket(load_space(space), gpus, folder, measures_cpu=True)
    check_measurable(loaded, backend)
    basket = [gpu.name for gpu in loaded.gpus]
    with closing(_open_engine(engine, basket, ray_address, warn)) as devices:
        found = search(loaded, out=folder, storage=storage, report=report, warn=warn, **predicted)
        result = measure_front(
            found, devices, count=count, backend=backend, storage=storage, report=report, warn=warn
        )
    write_report(result.folder)
    return result


def _open_engine(
    name: str, basket: Sequence[str], ray_address: str | None, warn: Callable[[str], None]
) -> Engine:
    if name == "ray":
        from hwsearch.search.ray_engine import RayEngine

        return RayEngine(basket, ray_address, warn)
    if name != "local":
        raise HwsearchError(f"--engine: {name!r}; accepted: local, ray")
    if ray_address is not None:
        raise HwsearchError("--ray-address: needs --engine ray")
    from hwsearch.search.local_engine import LocalEngine, local_devices

    return LocalEngine(local_devices(basket))


def run_and_train(
    space: str,
    data: Sequence[str | Path] = (),
    *,
    train_tokens: int = 4_194_304,
    count: int = 8,
    tokenizer: str | Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    storage: str | None = None,
    report: Report = silent,
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda message: None,
    **predicted: Any,
) -> ContestResult:
    """Search a space, then train `count` shapes of its front, as `hwsearch run --rung train` does. Where the
    run has been measured, the front is the measured one.

    Args:
        recipe: learning_rate, tokens_per_step and sequence_length where they differ from the defaults.
        say: takes a line about the time that the training needs, before it begins.
        predicted: what else `run` takes.

    Raises HwsearchError.
    """
    try:
        from hwsearch.search.contest import hold_contest
        from hwsearch.search.contest_recipe import contest_recipe
        from hwsearch.search.measured_study import measured_so_far
    except ModuleNotFoundError as error:
        raise HwsearchError(
            f"--rung train needs the package {error.name}; install it with: pip install 'hwsearch[train]'"
        ) from error
    if count < 1:
        raise HwsearchError(f"--trials: {count}; accepted: 1 or more")
    training = contest_recipe(train_tokens, seed=seed, **(recipe or {}))
    found = run(space, seed=seed, storage=storage, report=report, warn=warn, **predicted)
    measured = measured_so_far(found, storage, warn)
    result = hold_contest(
        measured.answer if measured is not None and len(measured.answer.front) else found,
        training,
        [Path(path) for path in data],
        tokenizer=None if tokenizer is None else Path(tokenizer),
        count=count,
        storage=storage,
        report=report,
        say=say,
        warn=warn,
    )
    write_report(result.folder)
    return result


def _over_basket(
    space: SearchSpace, gpus: Sequence[str] | None, out: Path | None, *, measures_cpu: bool = False
) -> SearchSpace:
    """`cpu` stands for the profile that the run was started with, or, where it is measured, for a new one."""
    if gpus is None:
        return space
    cpu = None
    if CPU in gpus:
        kept = kept_cpu(out or default_path(space))
        cpu = load_gpu(CPU) if kept is None and measures_cpu else kept
    return space.with_gpus(gpus, cpu)


def _search(space: SearchSpace, **options: Any) -> RunResult:
    result = search(space, **options)
    write_report(result.folder)
    return result


def write_export(shape: EncoderShape | str, format: str, out: str | Path) -> list[Path]:
    """Write a shape, or a run's first winner, for other tools; the paths written. Raises HwsearchError."""
    if isinstance(shape, EncoderShape):
        return export_shape(shape, format, Path(out))
    try:
        return export_shape(shape_of_run(shape), format, Path(out))
    except HwsearchError as error:
        hint = [str(path) for path in winners_of_run(shape) if exports(read_shape_yaml(path), format)]
        if not hint:
            raise
        raise HwsearchError(f"{error}. Of this run's winners {', '.join(hint)} can be exported so") from error
