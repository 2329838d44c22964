"""Analyses as the evaluation writes them, small and made up, for the tests of the pages."""

import numpy as np

HOSTILE = (
    "</script><script>document.title='hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "quotes \" ' and & ; \\ `${1}`",
    "\u202eevil \u05d0\u05d1 \U0001f98b\u0301",
    "]]> --> \u2028 line\x00null",
)
KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")


def detection(names=("red", "white", "platelet"), images=20, seed=0):
    """An analysis of a detector with an image of every kind of error."""
    rng, classes = np.random.default_rng(seed), len(names)
    levels = np.linspace(0, 1, 101).round(2).tolist()
    rows = []
    for label, name in enumerate(names):
        ap = round(0.9 - 0.8 * label / max(classes, 2), 4)
        row = {"name": name, "category_id": label + 1, "images": 10 + label, "objects": 100 - label % 90, "AP": ap}
        row |= dict.fromkeys(("AP50", "AP75", "APs", "APm", "AR100", "F1", "precision", "recall"), ap)
        rows.append(row | {"APl": None, "interval": [ap - 0.05, ap + 0.05], "threshold": 0.4})
    falling, hill = np.linspace(1, 0.2, 101).tolist(), np.sin(np.linspace(0, np.pi, 101)).tolist()
    entries = [[label, label, 9] for label in range(classes)]
    entries += [[0, classes - 1, 4]] * (classes > 1) + [[classes, 0, 3], [0, classes, 2]]
    errors = dict.fromkeys(KINDS, 0.02) | {"background": 0.05}
    bins = [{"low": k / 10, "high": (k + 1) / 10, "count": 10 * k, "score": k / 10 + 0.05} for k in range(10)]
    return {
        "task": "detection",
        "weights": "runs/x/best.pt",
        "images": images,
        "objects": 300,
        "crowds": 0,
        "detections": 900,
        "settings": {
            "score_threshold": 0.001,
            "nms": "class",
            "iou_threshold": 0.5,
            "max_detections": 100,
            "coco_cap": 100,
        },
        "metrics": {"AP": 0.5432, "AP50": 0.8, "AP75": 0.6, "APl": -1.0},
        "intervals": {"level": 0.95, "resamples": 1000, "AP": [0.5, 0.6], "AP50": [0.7, 0.9], "AP75": None},
        "classes": rows,
        "thresholds": {
            "best": {"score": 0.41, "F1": 0.77, "precision": 0.7, "recall": 0.85},
            "recall": [{"wanted": 0.9, "score": 0.3, "precision": 0.5, "recall": 0.9}],
            "precision": [{"wanted": 0.95, "score": None, "precision": None, "recall": None}],
        },
        "curves": {
            "recall": levels,
            "precision": {"all": falling, "classes": [falling] * (classes - 1) + [None]},
            "score": levels,
            "F1": {"all": hill, "classes": [hill] * (classes - 1) + [None]},
            "precision_at": {"all": levels},
            "recall_at": {"all": falling},
        },
        "confusion": {"score_threshold": 0.41, "iou_threshold": 0.5, "names": list(names), "entries": entries},
        "errors": {
            "AP50": 0.8,
            **errors,
            "false_positive": 0.1,
            "false_negative": 0.05,
            "counts": dict.fromkeys(KINDS, 3),
        },
        "calibration": {
            "bins": [each | {"precision": each["score"] / 2 if each["count"] else None} for each in bins],
            "error": 0.12,
            "temperature": 1.5,
            "error_with_temperature": 0.03,
        },
        "worst": [_image(kind, number, classes, rng) for number, kind in enumerate(KINDS)],
    }


def _image(kind, number, classes, rng):
    """An image of 60 x 80 pixels with one error of a kind, and one correct detection."""
    box = [round(float(side), 1) for side in (*rng.uniform(0, 30, 2), *rng.uniform(40, 60, 2))]
    label = number % classes
    missed = kind == "missed"
    objects = [{"box": box, "label": label, "error": "missed" if missed else None, "crowd": False}]
    detections = [{"box": [1.0, 1.0, 20.0, 20.0], "label": 0, "score": 0.9, "error": None}]
    if not missed:
        detections.append({"box": box, "label": label, "score": 0.8, "error": kind})
    return {
        "file_name": f"image-{number}.png",
        "index": number,
        "size": [60, 80],
        "counts": {kind: 1},
        "objects": objects,
        "detections": detections,
    }


def classification(names=("rose", "tulip", "daisy"), images=40):
    """An analysis of a classifier with one wrong image of each class."""
    levels = np.linspace(0, 1, 101).round(2).tolist()
    classes = len(names)
    return {
        "task": "classification",
        "weights": None,
        "images": images,
        "metrics": {"top1": 0.75, "top5": 1.0, "mean_class_accuracy": 0.7},
        "intervals": {"level": 0.95, "resamples": 1000, "top1": [0.7, 0.8], "top5": [1.0, 1.0]},
        "classes": [
            {
                "name": name,
                "category_id": label,
                "images": 10 + label,
                "accuracy": 0.9 - 0.1 * label / classes,
                "precision": 0.8,
                "F1": 0.8,
                "interval": [0.6, 0.9],
                "confused_with": names[(label + 1) % classes] if classes > 1 else None,
            }
            for label, name in enumerate(names)
        ],
        "curves": {
            "score": levels,
            "coverage": levels[::-1],
            "accuracy": [0.7 + 0.3 * level for level in levels[:-1]] + [None],
        },
        "confusion": {"names": list(names), "entries": [[label, label, 9] for label in range(classes)]},
        "calibration": {
            "bins": [{"low": 0.0, "high": 1.0, "count": images, "score": 0.8, "precision": 0.75}],
            "error": 0.05,
            "temperature": None,
            "error_with_temperature": None,
        },
        "worst": [
            {
                "file_name": f"{label}.png",
                "index": label,
                "true": label,
                "predictions": [{"label": (label + 1) % classes, "score": 0.9}, {"label": label, "score": 0.1}],
            }
            for label in range(classes)
        ],
    }


def log(steps=100, metric="AP"):
    """Records of training and of evaluations."""
    training = [
        {"step": step, "epoch": 1, "seconds": 1.0, "learning_rate": 0.1, "loss": 2 / step, "class_loss": 1 / step}
        for step in range(10, steps + 1, 10)
    ]
    return training, [
        {"step": step, "epoch": 1, "seconds": 1.0, metric: step / 200} for step in range(50, steps + 1, 50)
    ]
