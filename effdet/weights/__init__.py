"""Trained weights: where they come from, how foreign names read, how our own files are written and loaded."""

from __future__ import annotations

from effdet.weights.checkpoint import Checkpoint, ModelCard, card_of, load_checkpoint, save_checkpoint
from effdet.weights.loading import LoadReport, load_state
from effdet.weights.sources import create_model, load_weights

__all__ = [
    "Checkpoint",
    "LoadReport",
    "ModelCard",
    "card_of",
    "create_model",
    "load_checkpoint",
    "load_state",
    "load_weights",
    "save_checkpoint",
]
