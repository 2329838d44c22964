"""Damage of weights files: odd tensors, damaged containers around them, and pickles that want to run code.

What is read with them stands in `borders_weights.py` and `borders_runs.py`.
"""

from __future__ import annotations

import io
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .mutate import mutate_bytes, mutate_tree

PAYLOADS = (
    b"cos\nsystem\n(S'touch effdet-was-here'\ntR.",
    b"cbuiltins\neval\n(S'1/0'\ntR.",
    b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n(I4611686018427387904\nt(I1\ntI00\nNtR.",
    b"\x80\x02ccollections\nOrderedDict\nq\0)Rq\1.",
    b"(" * 50_000,
)
TOKENS = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"archive/data.pkl", b"\x80\x02}q\0", b"ctorch\nFloatStorage\n", *PAYLOADS)


def odd_tensor(rng: random.Random, tensor: Tensor) -> Any:
    """A tensor that few readers expect, of about the same content."""
    kind = rng.randrange(16)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        return None  # it is odd already
    plain = tensor.detach().float()
    if kind < 4:
        return _filled(rng, plain)
    if kind == 4:
        return plain.to(rng.choice((torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8)))
    if kind == 5:
        return torch.zeros(rng.choice(((), (0,), (1,), (0, 3, 3), (2,) * 20, (*plain.shape, 1), plain.shape[::-1])))
    if kind == 6:
        return torch.tensor(0.0).expand(rng.choice((plain.shape, (2**20,), (2**34,))))
    if kind == 7:
        return plain.to_sparse()
    if kind == 8:
        return torch.quantize_per_tensor(plain.cpu(), 0.1, 0, torch.qint8)
    if kind == 9:
        return plain.to("meta")
    if kind == 10:
        return torch.complex(plain, plain)
    if kind == 11:
        return torch.nn.Parameter(plain)
    if kind == 12:
        return plain.flatten()[: max(1, plain.numel() // 2)]
    if kind == 13:
        return plain.tolist() if plain.numel() < 100 else [1.0]
    return rng.choice((plain.to(torch.bfloat16), plain.clone().flip(0) if plain.ndim else plain, None, 1.0))


def _filled(rng: random.Random, tensor: Tensor) -> Tensor:
    """A tensor with one or all values replaced by NaN, Inf, huge or negative ones."""
    value = rng.choice((float("nan"), float("inf"), -float("inf"), 1e38, -1e30, -1.0, 0.0))
    filled = tensor.clone()
    if filled.numel() and rng.random() < 0.5:
        filled.view(-1)[rng.randrange(filled.numel())] = value
        return filled
    return torch.full_like(tensor, value)


def mutate_content(rng: random.Random, content: Any) -> Any:
    """The content of a weights file with one damage: of a tensor, or of the containers."""
    places = list(_tensors(content))
    if not places or rng.random() < 0.4:
        return mutate_tree(rng, content)
    path = rng.choice(places)
    return _replaced(content, path, lambda tensor: odd_tensor(rng, tensor))


def _tensors(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    """The paths of all tensors in containers."""
    if isinstance(tree, Tensor):
        yield path
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _tensors(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _tensors(value, (*path, number))


def _replaced(tree: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A tree with the value at a path changed; the containers on the way are copied."""
    if not path:
        return change(tree)
    copied = tree.copy()
    copied[path[0]] = _replaced(tree[path[0]], path[1:], change)
    return copied


def write_content(rng: random.Random, path: Path, content: Any, count: int) -> Path:
    """Writes the content of a weights file with some damage of it, or of the bytes of the file."""
    kind = rng.random()
    for _ in range(count if kind < 0.7 else 0):
        content = mutate_content(rng, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = io.BytesIO()
        torch.save(content, written, _use_new_zipfile_serialization=count == 0 or rng.random() < 0.9)
    data = written.getvalue()
    if count and kind > 0.95 and zipfile.is_zipfile(io.BytesIO(data)):
        data = _with_pickle(data, rng.choice(PAYLOADS))
    elif kind >= 0.7:
        for _ in range(count):
            data = mutate_bytes(rng, data, TOKENS)
    path.write_bytes(data)
    return path


def _with_pickle(data: bytes, pickle: bytes) -> bytes:
    """A weights file with another pickle inside."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, pickle if entry.filename.endswith("data.pkl") else old.read(entry))
    return written.getvalue()
