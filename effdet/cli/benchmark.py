"""Measure speed and memory of models: decoding, letterbox, network, post-processing, and all from a JPEG on disk.

  effdet benchmark runs/d0/best.pt d0.onnx d0.xml             one model in three runtimes
  effdet benchmark efficientdet_d0 --vs efficientdet_lite0    two models with random weights, and their ratio

Models are measured in turns, each in a process of its own. Latency is that of one image; throughput is that of a
stream of image files in batches, read by another thread. A name of `effdet models` means random weights, which are as
fast as trained ones, but their scores are not those of objects: post-processing has more or less to do than with
trained weights. Public weights are named with their source, see `effdet weights list`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.cli.parsing import integer, real
from effdet.inference import BATCH_SIZE
from effdet.text import count_of

if TYPE_CHECKING:
    from rich.table import Table

MOST_COLUMNS = 4  # models side by side; more of them get another table
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# Stages in the order of the table; the second row of a classifier is not a letterbox.
ROWS = {
    "decoding": "read and decode",
    "resizing": "letterbox",
    "network": "network",
    "postprocessing": "post-processing",
    "network_and_postprocessing": "network + post-processing",
    "end_to_end": "end to end",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `benchmark` to a parser."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="checkpoint, exported file, public weights, or a name of `effdet models` for random weights",
    )
    parser.add_argument("--vs", metavar="MODEL", help="measure this model too, and print ratios of the others to it")
    parser.add_argument("--image", metavar="FILE", help="image to run on (default: a drawn JPEG of 640 x 480 pixels)")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=integer(16384),
        metavar=("H", "W"),
        help="input size of models with random weights (default: that of each model)",
    )
    parser.add_argument(
        "--batch-size",
        type=integer(65536),
        default=BATCH_SIZE,
        help="images per forward pass for throughput (%(default)s)",
    )
    parser.add_argument(
        "--threads", type=integer(4096), help="CPU threads of every runtime (default: as many as PyTorch uses)"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of models in PyTorch; auto is float16 on CUDA and float32 elsewhere (%(default)s)",
    )
    parser.add_argument("--conf", type=real(1e9), help="detectors: confidence threshold (default: as in predict)")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--seconds",
        type=real(1e7),
        default=10.0,
        help="per model for latency, and again for throughput (%(default)s)",
    )
    limit.add_argument("--runs", type=integer(10**9), help="images per model for latency, and again for throughput")
    parser.add_argument(
        "--warmup", type=integer(10**9), default=3, help="runs before the first measured one (%(default)s)"
    )
    parser.add_argument("--turns", type=integer(10**6), default=5, help="turns of each model (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to a file")


def run(args: argparse.Namespace) -> int:
    """Measures and prints; the exit status is 0.

    Raises:
        EffdetError: a model, the image or an argument cannot be used, or the file cannot be written.
    """
    from effdet.console import PlainConsole
    from effdet.errors import ConfigError
    from effdet.inference.benchmark.comparison import compare
    from effdet.inference.benchmark.settings import Settings

    if args.json is not None and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        raise ConfigError(f"--json {args.json}: cannot be written; give a file in a folder that exists")
    settings = Settings(
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        batch_size=args.batch_size,
        score_threshold=args.conf,
        runs=args.runs,
        seconds=args.seconds,
        warmup=args.warmup,
        turns=args.turns if args.runs is None else max(1, min(args.turns, args.runs)),
    )
    console = PlainConsole()
    with console.status("preparing ...") as status:
        report = compare(
            args.models,
            settings,
            image=args.image,
            image_size=tuple(args.image_size) if args.image_size else None,
            versus=args.vs,
            show=lambda line: status.update(f"{line} ..."),
        )
    for line in _head(report):
        console.print(line)
    for table in _tables(report["models"], settings.batch_size):
        console.print("", table, sep="\n")
    for line in _notes(report):
        console.print(line)
    if args.json is not None:
        _write(args.json, report)
        console.print(f"\nresults       {args.json}")
    return 0


def _write(path: Path, report: Mapping[str, Any]) -> None:
    from effdet.errors import ConfigError
    from effdet.files import write_json

    try:
        write_json(path, report)
    except OSError as error:
        raise ConfigError(f"--json {path}: cannot be written ({error.strerror}); choose another file") from None


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines about machine, versions and settings."""
    machine, settings = report["machine"], report["settings"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] / 2**30:.0f} GiB of memory"
    yield f"machine       {machine['cpu']}, {count_of(machine['cores'], 'core')}{memory}"
    if machine["gpu"]:
        yield f"GPU           {machine['gpu']}"
    yield f"versions      {', '.join(f'{name} {text}' for name, text in report['versions'].items())}"
    yield f"image         {settings['image']}"
    threads = " or ".join(map(str, sorted({model["threads"] for model in report["models"]})))
    limit = f"{settings['seconds']:g} s" if settings["runs"] is None else count_of(settings["runs"], "image")
    yield (
        f"settings      CPU threads: {threads}; latency of one image, throughput in batches of "
        f"{settings['batch_size']}; {limit} each per model in {count_of(settings['turns'], 'turn')}, after "
        f"{count_of(settings['warmup'], 'run')} of warm-up"
    )
    if any(model["task"] == "detection" for model in report["models"]):
        threshold = settings["score_threshold"]
        text = "as in predict" if threshold is None else f"{threshold:g}"
        yield f"              confidence threshold {text}"
    for warning in report["warnings"]:
        yield f"warning: {warning}"


def _tables(models: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[Table]:
    """A table for every few models: a row per stage, then throughput, memory and loading."""
    from rich.table import Table

    for start in range(0, len(models), MOST_COLUMNS):
        shown = models[start : start + MOST_COLUMNS]
        table = Table("p50 / p95 in ms", box=None, pad_edge=False)
        for model in shown:
            table.add_column(_title(model), justify="right", overflow="fold")
        for stage, label in ROWS.items():
            table.add_row(label, *(_cell(model, stage) for model in shown))
        table.add_row(
            f"images/s, batches of {batch_size}", *(f"{model['images_per_second']['median']:.1f}" for model in shown)
        )
        table.add_row("growth of memory", *(f"{model['memory_bytes'] / 2**20:,.0f} MiB" for model in shown))
        if any(model["device_memory_bytes"] is not None for model in shown):
            table.add_row("memory of the GPU", *(_mebibytes(model["device_memory_bytes"]) for model in shown))
        table.add_row("load", *(f"{model['load_seconds']:.2f} s" for model in shown))
        table.add_row("first image", *(f"{model['first_seconds']:.2f} s" for model in shown))
        yield table


def _title(model: Mapping[str, Any]) -> str:
    """The head of a model's column."""
    height, width = model["image_size"]
    weights = "\nrandom weights" if model["random_weights"] else ""
    return f"{Path(model['name']).name}\n{model['runtime']}\n{model['precision']}, {height} x {width}{weights}"


def _cell(model: Mapping[str, Any], stage: str) -> str:
    if stage not in model["stages"]:
        return "-"
    row = model["stages"][stage]
    both = " *" if stage == "network_and_postprocessing" and model["together"] else ""
    return f"{row['p50_ms']:.2f} / {row['p95_ms']:.2f}{both}"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:,.0f} MiB"


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What the table does not say, and the ratios."""
    models = report["models"]
    yield ""
    for reason in dict.fromkeys(model["together"] for model in models if model["together"]):
        yield f"* network and post-processing cannot be measured apart: {reason}"
    random = {
        model["name"]: model["detections"]
        for model in models
        if model["random_weights"] and model["detections"] is not None
    }
    if random:
        counts = ", ".join(f"{count_of(count, 'detection')} by {name}" for name, count in random.items())
        yield (
            f"random weights give scores that are not those of objects: {counts}. Post-processing needs another time "
            "with trained weights"
        )
    fixed: dict[int, list[str]] = {}
    for model in models:
        if model["fixed_batch"] not in (None, report["settings"]["batch_size"]):
            fixed.setdefault(model["fixed_batch"], []).append(model["name"])
    for batch, names in fixed.items():
        yield f"throughput in batches of {batch}, to which the file is fixed: {', '.join(dict.fromkeys(names))}"
    if report["versus"] is not None:
        yield f"ratios to {report['versus']['name']}, with the lowest and the highest of all turns:"
        for row in report["versus"]["ratios"]:
            yield f"  {row['name']}"
            for stage, label in {**ROWS, "images_per_second": "images/s"}.items():
                if stage in row:
                    ratio = row[stage]
                    yield f"    {label:26}{ratio['ratio']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
