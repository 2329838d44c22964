"""The head of a report: the main metrics, what was run, and the table of all metrics with their intervals.

Sentences about them are in `run_highlights.py`; the page is put together in `run_page.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from effdet.report.html_page import ellipsized, escaped, heading, isolated, score_text, with_sign
from effdet.report.plots import interval_track
from effdet.text import count_of, percent

_NMS = {"class": "per class", "agnostic": "over all classes", "soft": "soft, per class"}


def tiles(analysis: Mapping[str, Any]) -> Iterator[str]:
    """The main numbers, large."""
    metrics, intervals = analysis["metrics"], analysis.get("intervals") or {}
    detection = analysis["task"] == "detection"
    chosen = ("AP", "AP50", "AP75") if detection else ("top1", "top5", "mean_class_accuracy")
    yield '<div class="tiles">'
    for name in chosen:
        about = _interval_text(intervals.get(name), intervals.get("level"))
        yield _tile(name.replace("_", " "), with_sign(metrics.get(name)), about)
    best = (analysis.get("thresholds") or {}).get("best") or {}
    if detection and best.get("score") is not None:
        yield _tile("best confidence", f"{score_text(best['score'])}", f"F1 {with_sign(best['F1'])}")
    calibration = analysis.get("calibration") or {}
    if not detection and calibration.get("error") is not None:
        yield _tile("calibration error", with_sign(calibration["error"]), "expected, of the best class")
    yield "</div>"


def _tile(name: str, number: str, about: str) -> str:
    return (
        f'<div class="tile"><span>{escaped(name)}</span><b>{escaped(number)}</b><small>{escaped(about)}</small></div>'
    )


def _interval_text(interval: Sequence[float] | None, level: float | None) -> str:
    if not interval or interval[0] is None:
        return ""
    return f"{100 * (level or 0.95):.0f}%: {percent(interval[0])} to {percent(interval[1])}"


def scope(analysis: Mapping[str, Any]) -> str:
    """How much was evaluated, in one line."""
    counts = [count_of(analysis["images"], "image")]
    if analysis["task"] == "detection":
        counts += [count_of(analysis["objects"], "object"), count_of(analysis["detections"], "detection")]
        counts += [count_of(analysis["crowds"], "crowd region")] if analysis.get("crowds") else []
    counts.append(count_of(len(analysis["classes"]), "class", "classes"))
    return ", ".join(counts)


def metrics_card(analysis: Mapping[str, Any], meanings: Mapping[str, str]) -> Iterator[str]:
    """All metrics, each with its interval on a track, and below the settings that they depend on."""
    metrics, intervals = analysis["metrics"], analysis.get("intervals") or {}
    level = f"{100 * intervals.get('level', 0.95):.0f}% interval"
    settings = "; ".join(f"{name}: {value}" for name, value in settings_rows(analysis))
    yield f'<section class="card">{heading("Metrics", escaped(settings))}<div class="scroll"><table class="metrics">'
    yield f'<tr><th>metric</th><th>%</th><th class="text track">{level if intervals else ""}</th><th></th>'
    yield '<th class="text">meaning</th></tr>'
    for name, value in metrics.items():
        interval = intervals.get(name)
        interval = None if not interval or interval[0] is None else interval
        text = f"{percent(interval[0])} to {percent(interval[1])}" if interval else ""
        yield (
            f"<tr><th>{escaped(name.replace('_', ' '))}</th><td><b>{percent(value)}</b></td>"
            f'<td class="track">{interval_track(value, interval)}</td><td class="dim">{text}</td>'
            f'<td class="text dim">{escaped(meanings.get(name, ""))}</td></tr>'
        )
    yield "</table></div>"
    if intervals.get("resamples"):
        yield (
            f'<p class="dim small">Intervals are over the images, from {intervals["resamples"]} resamples. A dash: '
            "there is nothing to measure.</p>"
        )
    yield "</section>"


def settings_rows(analysis: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the metrics of a detector depend on besides its weights."""
    settings = analysis.get("settings") or {}
    rows = []
    if settings.get("max_detections") is not None:
        rows.append(("max detections", f"{settings['max_detections']} per image"))
    if settings.get("coco_cap") is not None:
        rows.append(("COCO counts", f"{settings['coco_cap']} per image and class"))
    if settings.get("nms") is not None:
        overlap = f", IoU {settings['iou_threshold']:g}" if settings.get("iou_threshold") is not None else ""
        rows.append(("NMS", f"{_NMS.get(settings['nms'], settings['nms'])}{overlap}"))
    if settings.get("score_threshold") is not None:
        rows.append(("score threshold", f"{settings['score_threshold']:g}"))
    return rows


def facts_card(
    analysis: Mapping[str, Any], config: Mapping[str, Any] | None, start: Mapping[str, Any] | None, written: str
) -> Iterator[str]:
    """What was run: weights, recipe, data, versions and settings."""
    groups = {
        "Evaluation": [("weights", analysis.get("weights")), *settings_rows(analysis), ("report written", written)],
        "Model": _model_rows(config or {}),
        "Training": _training_rows(config or {}, start or {}),
        "Data": _data_rows(config or {}),
        "Versions": _version_rows(start or {}),
    }
    yield '<section class="card"><h3>What was run</h3><div class="facts">'
    for title, rows in groups.items():
        shown = [(name, value) for name, value in rows if value not in (None, "")]
        if shown:
            items = "".join(f"<dt>{escaped(name)}</dt><dd>{isolated(_value(value))}</dd>" for name, value in shown)
            yield f"<div><h4>{title}</h4><dl>{items}</dl></div>"
    yield "</div></section>"


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return f"{value[0]} x {value[1]}"
    return ellipsized(f"{value:g}" if isinstance(value, float) else str(value), 200)


def _model_rows(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    model = config.get("model") or {}
    return [
        ("name", model.get("name")),
        ("backbone", model.get("backbone")),
        ("image size", model.get("image_size")),
        ("initial weights", model.get("weights") or model.get("backbone_weights")),
    ]


def _training_rows(config: Mapping[str, Any], start: Mapping[str, Any]) -> list[tuple[str, Any]]:
    train, optim, augment = (config.get(name) or {} for name in ("train", "optim", "augment"))
    used = [name.replace("_", " ") for name, value in augment.items() if _is_on(value)]
    hardware = start.get("hardware") or {}
    length = f"{train['max_steps']} steps" if train.get("max_steps") else train.get("epochs")
    return [
        ("epochs" if not train.get("max_steps") else "length", length),
        ("batch size", train.get("batch_size")),
        ("optimizer", optim.get("name")),
        ("learning rate", optim.get("learning_rate")),
        ("schedule", optim.get("schedule")),
        ("augmentation", ", ".join(used)),
        ("seed", start.get("seed", config.get("seed"))),
        ("device", hardware.get("device")),
        ("started", _date(start.get("time"))),
    ]


def _is_on(value: object) -> bool:
    """Whether a key of the augmentation does anything."""
    if isinstance(value, Mapping):
        return bool(value.get("layers", True))
    return bool(value)


def _data_rows(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    data = config.get("data") or {}
    val = data.get("val") or {}
    return [
        ("data set", data.get("url") or data.get("root")),
        ("format", data.get("format")),
        ("validation split", val.get("split")),
        ("annotations", val.get("annotations")),
        ("images from", val.get("images")),
        ("list of images", val.get("file_list")),
        ("fraction", val.get("fraction")),
    ]


def _version_rows(start: Mapping[str, Any]) -> list[tuple[str, Any]]:
    versions, git = start.get("versions") or {}, start.get("git") or []
    commit = git[0].get("commit") if git else None
    changed = " with changes" if git and git[0].get("changed") else ""
    return [
        *((name, versions.get(name)) for name in ("efficientdet-torch", "torch", "python", "cuda")),
        ("commit", f"{commit[:10]}{changed}" if commit else None),
    ]


def _date(text: object) -> str | None:
    """An ISO time to the minute."""
    return str(text).replace("T", " ")[:16] if text else None
