"""How models are measured: the settings that all models of a benchmark have in common.

The model files and the image are prepared in `inputs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from effdet.errors import ConfigError
from effdet.inference import BATCH_SIZE
from effdet.types import Precision


@dataclass(frozen=True)
class Settings:
    """How models are measured.

    Attributes:
        device: such as 'cuda:0' or 'cpu'; None for a GPU if there is one.
        precision: of models in PyTorch; exported files have their own.
        threads: CPU threads of the runtime and of OpenCV; None for as many as PyTorch uses.
        batch_size: images per forward pass when throughput is measured.
        score_threshold: confidence threshold of detectors; None for that of prediction.
        runs: images per model, for latency and again for throughput; None to measure for `seconds`.
        seconds: time per model, for latency and again for throughput.
        warmup: runs before the first measured one.
        turns: how often each model has its turn.
    """

    device: str | None = None
    precision: Precision = "auto"
    threads: int | None = None
    batch_size: int = BATCH_SIZE
    score_threshold: float | None = None
    runs: int | None = None
    seconds: float = 10.0
    warmup: int = 3
    turns: int = 5

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("batch_size", 1), ("runs", 1), ("warmup", 1), ("turns", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; expected at least {least}")
        if not self.seconds > 0:
            raise ConfigError(f"seconds is {self.seconds}; expected more than 0")

    @property
    def runs_per_turn(self) -> int | None:
        """Images of a turn; None if a turn is limited by time."""
        return None if self.runs is None else -(-self.runs // self.turns)
