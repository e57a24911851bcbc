"""Every command and option, with nothing imported but argparse."""

from __future__ import annotations

import argparse

SHAPE_HELP = "a preset, L28-h1024-a16-i2624, a shape.yaml, or a Hugging Face config.json or its folder"
WORKLOAD_HELP = "fixed:512x64, normal:256,64,32..512x512, or a file with one length a line"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hwsearch",
        description="Find the encoder-transformer shape that runs fastest on the GPUs people serve on.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _run(commands)
    _predict(commands)
    _compare(commands)
    _measure(commands)
    _calibrate(commands)
    _tune(commands)
    _space(commands)
    _gpus(commands)
    _export(commands)
    _train(commands)
    _import(commands)
    _report(commands)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"hwsearch {version('hwsearch')}")
        parser.exit()


_Commands = argparse._SubParsersAction  # argparse has no public name for it


def _add(
    commands: _Commands[argparse.ArgumentParser], name: str, module: str, help: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    command.set_defaults(module=module)
    return command


def _run(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "run", "run", "search a space and write its winners")
    command.add_argument("--space", required=True, help="a space file, or a shipped space's name")
    command.add_argument("--gpus", metavar="G,G", help="another basket than the space's")
    command.add_argument(
        "--sampler",
        choices=("front", "tpe"),
        help="front enumerates (default up to 5,000,000 shapes), tpe explores",
    )
    command.add_argument("--trials", type=int, metavar="N", help="complete trials to reach, in total")
    command.add_argument("--seed", type=int, default=0, help="of what is drawn at random (default 0)")
    command.add_argument("--out", metavar="DIR", help="the run's folder (default runs/SPACE)")
    command.add_argument("--storage", metavar="URL", help="an Optuna storage (default: DIR/study.log)")
    command.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    command.add_argument(
        "--rung",
        choices=("predict", "measure", "train"),
        default="predict",
        help="predict prices shapes (default); measure goes on from there and times shapes on the devices at"
        " hand; train goes on from either and trains the best of the front",
    )
    measured = command.add_argument_group(
        "with --rung measure, where --trials counts measured shapes besides the reference (default 30), and"
        " --gpus may name cpu"
    )
    measured.add_argument(
        "--backend",
        metavar="B",
        help="force the attention's, as for `hwsearch measure` (default: what dispatch chooses)",
    )
    measured.add_argument(
        "--engine",
        choices=("local", "ray"),
        help="measure on this machine's devices (local, the default), or on those of a Ray cluster",
    )
    measured.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="of the cluster's head (default: the cluster that this machine is a node of)",
    )
    trained = command.add_argument_group("with --rung train, where --trials counts shapes (default 8)")
    trained.add_argument(
        "--data", nargs="+", metavar="PATH", help="as for `hwsearch train` (default: Python's own library)"
    )
    trained.add_argument("--tokenizer", metavar="PATH", help="as for `hwsearch train` (default: train one)")
    trained.add_argument(
        "--train-tokens", type=int, metavar="N", help="of a shape's whole run (default 4,194,304)"
    )
    trained.add_argument("--tokens-per-step", type=int, metavar="N", help="default 4096")
    trained.add_argument("--sequence-length", type=int, metavar="N", help="longest sequence (default 256)")
    trained.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="of the space's reference, at its peak; carried over to other shapes (default 2e-3)",
    )


def _predict(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "predict", "predict", "predict the latency of a shape, or of a table's rows")
    command.add_argument(
        "shape",
        metavar="SHAPE|FILE.csv",
        help=f"{SHAPE_HELP}; or a table of operators (op, m, n, k ...) or models (layers, hidden, heads ...)",
    )
    command.add_argument("--gpu", required=True, metavar="G", help="a name from `hwsearch gpus`, or cpu")
    command.add_argument("--workload", metavar="W", help=f"{WORKLOAD_HELP} (default fixed:512x64)")
    command.add_argument("--dtype", choices=("fp32", "tf32", "fp16", "bf16"), help="default: bf16, or fp16")
    command.add_argument("--mode", choices=("inference", "training"), default="inference")
    command.add_argument("--runtime", choices=("eager", "graph", "compile", "tensorrt"), default="graph")
    command.add_argument("--head", choices=("none", "mlm"), help="default: none, mlm in training")
    command.add_argument(
        "--attention",
        choices=("tuned", "library"),
        help="whose attention a shape runs: hwsearch's, timed by tuned tables where they know it (default),"
        " or the best library's",
    )
    command.add_argument(
        "--recompute", action="store_true", help="in training, save layer inputs alone and run layers twice"
    )
    command.add_argument(
        "--out", metavar="FILE.csv", help="a table's answer goes here, not to standard output"
    )
    command.add_argument(
        "--explain",
        action="store_true",
        help="what bounds each operator of a shape, and nearby sizes that gain",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")


def _compare(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "compare", "compare", "compare known encoders side by side")
    command.add_argument("shapes", nargs="+", metavar="SHAPE", help=SHAPE_HELP)
    command.add_argument("--gpu", nargs="+", required=True, metavar="G", help="names from `hwsearch gpus`")
    command.add_argument("--workload", metavar="W", help=f"{WORKLOAD_HELP} (default fixed:512x64)")
    command.add_argument(
        "--protocol",
        choices=("modernbert-paper",),
        help="dtypes, workloads and kernels of a published comparison, whose presets it takes",
    )
    command.add_argument("--json", action="store_true", help="print one JSON list")


def _measure(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "measure", "measure", "time a shape on the GPU or CPU at hand")
    command.add_argument("shape", metavar="SHAPE", help=SHAPE_HELP)
    command.add_argument("--workload", metavar="W", help=f"{WORKLOAD_HELP} (default fixed:512x64)")
    command.add_argument(
        "--device", metavar="D", help="cpu, cuda or cuda:1 (default: the first GPU, or the CPU without one)"
    )
    command.add_argument(
        "--dtype", choices=("fp32", "tf32", "fp16", "bf16"), help="default: bf16, or fp16; fp32 on a CPU"
    )
    command.add_argument("--mode", choices=("inference", "training"), default="inference")
    command.add_argument(
        "--runtime",
        choices=("eager", "graph", "compile"),
        help="default: graph on a GPU; eager in training, as `hwsearch train` runs, and on a CPU",
    )
    command.add_argument("--head", choices=("none", "mlm"), help="default: none, mlm in training")
    command.add_argument(
        "--backend",
        metavar="B",
        help="force the attention's: triton, flash_attn, torch_flash, efficient, native, sdpa or cpu",
    )
    command.add_argument(
        "--precision",
        type=float,
        default=1.0,
        metavar="P",
        help="percent within which the mean is to be known, with 95 %% confidence (default 1)",
    )
    command.add_argument("--energy", action="store_true", help="joules as well, by the GPU's own counter")
    command.add_argument(
        "--largest-batch", action="store_true", help="also find the largest batch of such lengths that fits"
    )
    command.add_argument(
        "--memory", type=float, metavar="GIB", help="what --largest-batch may take (default: what is free)"
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=900.0,
        metavar="S",
        help="seconds that building, compiling and timing may take, and each batch (default 900)",
    )
    command.add_argument("--out", metavar="FILE.jsonl", help="add the measurement to this file, as one line")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def _calibrate(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "calibrate", "calibrate", "fit a GPU's profile to your own measurements")
    command.add_argument("--gpu", required=True, metavar="G", help="a name from `hwsearch gpus`")
    command.add_argument(
        "--measurements",
        required=True,
        metavar="FILE.csv",
        help="a table as predict takes it, of operators or models, with a column measured_ms",
    )
    command.add_argument("--dtype", choices=("fp32", "tf32", "fp16", "bf16"), help="where no column says it")
    command.add_argument("--mode", choices=("inference", "training"), default="inference")
    command.add_argument("--runtime", choices=("eager", "graph", "compile", "tensorrt"), default="graph")
    command.add_argument(
        "--out", metavar="DIR", help="for the new profile (default $HWSEARCH_PROFILES, else calibrated)"
    )


def _tune(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(
        commands, "tune", "tune", "tune kernels: measured on the GPU at hand, modelled for any other"
    )
    command.add_argument(
        "kernel",
        nargs="*",
        metavar="KERNEL",
        help="attention, or of it attention_forward, attention_backward, attention_backend,"
        " attention_backend_training",
    )
    command.add_argument(
        "--all",
        action="store_true",
        help="every kernel, length and head size of ours (32, 64, 128), global and narrow windows",
    )
    command.add_argument(
        "--space", metavar="FILE", help="what the shapes of this space can ask for, on each GPU of its basket"
    )
    command.add_argument(
        "--gpu", metavar="G", help="a name from `hwsearch gpus`, or cpu (default: the one at hand)"
    )
    command.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="default: the GPU's own")
    command.add_argument("--head-size", metavar="N,N", help="default 64")
    command.add_argument(
        "--window",
        metavar="W,W",
        help="of global, narrow (up to 128 keys to each side, tuned at 64) and wide (default global,narrow)",
    )
    command.add_argument("--length", metavar="N,N", help="longest sequences (default: every class)")
    command.add_argument("--workload", metavar="W", help=f"in place of --length: {WORKLOAD_HELP}")
    command.add_argument("--heads", type=int, metavar="N", help="query heads (default: 768 / head size)")
    command.add_argument(
        "--objective",
        choices=("time", "energy", "both"),
        default="time",
        help="what is measured and minimised (default time)",
    )
    command.add_argument(
        "--trials", type=int, default=60, metavar="N", help="configurations for each row (default 60)"
    )
    command.add_argument(
        "--seconds", type=float, default=120.0, metavar="S", help="of measuring for each row (default 120)"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="processes that compile (default: one a core, less one)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="of the tables (default $HWSEARCH_CACHE or ~/.cache/hwsearch, tuned)"
    )
    command.add_argument("--show", action="store_true", help="print the tables in force, and tune nothing")
    command.add_argument("--json", action="store_true", help="print the rows as JSON")
    command.add_argument("--export", metavar="DIR", help="write the tables as Kernel Tuner's T4 results")
    command.add_argument(
        "--import", dest="import_file", metavar="FILE", help="a T4 file of one kernel and class, as measured"
    )
    replay = command.add_argument_group("the tuner on a recorded space")
    replay.add_argument("--replay", metavar="CACHE", help="a Kernel Tuner cache or T4 results, .json(.gz)")
    replay.add_argument("--t1", metavar="FILE", help="a T1 file, whose constraints are added")
    replay.add_argument("--budget-seconds", type=float, metavar="S", help="recorded seconds for each seed")
    replay.add_argument("--seeds", type=int, metavar="N", help="searches to run (default 1)")
    replay.add_argument("--trace", metavar="OUT.jsonl", help="gets a line per evaluation")


def _space(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "space", "space", "check a space, or show what each constraint removes")
    command.add_argument("action", choices=("check", "show"))
    command.add_argument("space", metavar="FILE", help="a space file, or a shipped space's name")


def _gpus(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "gpus", "gpus", "list GPU profiles, show one with its sources, or detect")
    actions = command.add_subparsers(dest="action", metavar="show G | detect")
    show = actions.add_parser("show", help="facts and constants of one GPU, each with its source")
    show.add_argument("gpu", metavar="G", help="a name from `hwsearch gpus`, or cpu")
    detect = actions.add_parser("detect", help="the GPUs of this machine, or its CPU where there are none")
    detect.add_argument("--ray", action="store_true", help="print them as `ray start --resources` takes them")


def _export(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "export", "export", "write a shape's config for other tools")
    command.add_argument(
        "shape", metavar="RUN|SHAPE", help=f"a run's folder (its first winner), or {SHAPE_HELP}"
    )
    command.add_argument("--format", required=True, choices=("hf", "flexbert", "yaml"))
    command.add_argument("--out", required=True, metavar="DIR")


def _train(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "train", "train", "train a shape as a masked language model")
    command.add_argument(
        "shape", metavar="RUN|SHAPE", help=f"a run's folder (its first winner), or {SHAPE_HELP}"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="the model's folder")
    command.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="text, JSON lines, parquet, or folders of them (default: Python's own standard library)",
    )
    command.add_argument(
        "--tokenizer", metavar="PATH", help="tokenizer.json or its folder (default: train one)"
    )
    command.add_argument("--steps", type=int, metavar="N", help="optimizer steps (default 300)")
    command.add_argument("--tokens-per-step", type=int, metavar="N", help="real tokens a step (default 4096)")
    command.add_argument("--sequence-length", type=int, metavar="N", help="longest sequence (default 256)")
    command.add_argument("--learning-rate", type=float, metavar="X", help="at its peak (default 2e-3)")
    command.add_argument("--seed", type=int, help="of weights, order and masks (default 0, or the recipe's)")
    command.add_argument(
        "--recipe",
        metavar="R",
        help="a recipe file, or a shipped recipe's name (default: one phase, as above)",
    )
    command.add_argument(
        "--scale",
        type=float,
        metavar="S",
        help="the recipe with S times the tokens and sqrt(S) times the steps",
    )
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in DIR")
    command.add_argument(
        "--start", metavar="MODEL", help="a smaller model's folder, whose weights are tiled into this shape"
    )
    command.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    command.add_argument(
        "--recompute", action="store_true", help="save layer inputs alone and run layers twice, for memory"
    )
    command.add_argument(
        "--fsdp", action="store_true", help="under torchrun, shard the model over the processes (FSDP2)"
    )


def _import(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "import", "import_shape", "read a shape from a Hugging Face model folder")
    command.add_argument("folder", metavar="DIR", help="holds a ModernBERT config.json")
    command.add_argument("--out", metavar="FILE", help="write shape.yaml here instead of printing it")


def _report(commands: _Commands[argparse.ArgumentParser]) -> None:
    command = _add(commands, "report", "report", "print a run's answer and write its report.html again")
    command.add_argument("run", metavar="RUN", help="a run's folder")
    command.add_argument("--json", action="store_true", help="print the summary as one JSON object")
