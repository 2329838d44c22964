"""Small types that several modules share, such as the names of tasks and precisions. Nothing here needs torch.

Containers of tensors are in `structures.py`; types that one module alone uses stay in that module.
"""

from __future__ import annotations

from typing import Literal

Task = Literal["detection", "classification"]
Part = Literal["train", "val"]  # of a data set
Precision = Literal["auto", "fp32", "bf16", "fp16"]
NmsMethod = Literal["class", "agnostic", "soft"]
IouKind = Literal["iou", "giou", "diou", "ciou"]
Padding = Literal["same", "symmetric"]  # of strided convolutions: as in TensorFlow, or as in PyTorch
Interpolation = Literal["bilinear", "bicubic"]
