"""Evaluates a COCO results file, without a model: what `effdet eval --annotations --predictions` does.

The files are read in `results_file.py` and `truth_file.py`; models are evaluated by `effdet.evaluate`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.console import Console

from effdet.console import PlainConsole
from effdet.evaluation.results_file import read_results
from effdet.evaluation.tables import class_table, metrics_table
from effdet.files import full_path
from effdet.text import count_of


def evaluate_results(
    annotations: str | Path,
    results: str | Path,
    *,
    voc: bool = False,
    pycocotools: bool = False,
    output_dir: str | Path | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Evaluates a COCO results file and prints the metrics, those of every class too.

    Example:
        >>> metrics = evaluate_results("instances_val2017.json", "results.json")
        >>> print(metrics["AP"])

    Args:
        annotations: the objects, as COCO instances.
        results: a list of detections: image_id, category_id, bbox [x, y, width, height] and score.
        voc: whether to compute VOC's metrics as well; marks `difficult` and `ignore` are those of difficult objects.
        pycocotools: whether to compute the metrics by pycocotools too and to print the largest difference.
        output_dir: folder for metrics.json and predictions.json; None writes nothing.
        console: where to print; None for the standard output.

    Returns:
        The metrics as fractions; -1 for those that the objects cannot give, such as APl without large objects.

    Raises:
        ConfigError: the folder holds other results, or cannot be written.
        DataError: a file is missing or holds something else, or most detections are of other images or categories.
    """
    console = console or PlainConsole()
    with contextlib.ExitStack() as own:
        folder = None
        if output_dir is not None:
            from effdet.evaluation.evaluate_checkpoint import check_writable, unused_folder

            folder = own.enter_context(unused_folder(Path(output_dir)))
            check_writable(folder)
        return _evaluate(full_path(annotations), full_path(results), voc, pycocotools, folder, console)


def _evaluate(
    annotations: Path, results: Path, voc: bool, pycocotools: bool, folder: Path | None, console: Console
) -> dict[str, float]:
    """Evaluates and prints; writes to the folder if there is one."""
    evaluator, lines = read_results(annotations, results, voc)
    metrics = evaluator.metrics()
    for line in [*lines, *evaluator.notes(metrics)]:
        console.print(line, style="yellow")
    if folder is not None:
        from effdet.evaluation.run_report import write_run_report

        evaluator.write(folder, metrics)
        write_run_report(folder)
    console.print(metrics_table(metrics, evaluator.settings))
    console.print(class_table(evaluator.label_map.names, evaluator.class_objects(), evaluator.class_metrics()))
    if pycocotools:
        from effdet.evaluation.reference import comparison_line

        console.print(comparison_line(evaluator))
    counts = f"{count_of(len(evaluator), 'image')}, {count_of(len(evaluator.predicted().scores), 'detection')}"
    console.print(counts if folder is None else f"{counts}; report.html, metrics.json and more are in {folder}")
    return metrics
