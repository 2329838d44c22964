"""The data of a run, the same for every task: tables, the order of the samples, batches, names of files.

What a sample holds is defined by the data sets in `data`; which classes and boxes are sound is checked by the tasks.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from effdet.config import DataConfig
from effdet.data.formats import Tables, read_tables
from effdet.data.loader import train_batches
from effdet.data.train_order import TrainOrder
from effdet.distributed import Processes


@dataclass(frozen=True)
class TrainingData:
    """Training and validation images of a run.

    Attributes:
        tables: the images to train and to validate on, and what is known of them.
        order: which images make which batch.
        dataset: makes the samples.
        workers: processes that load images.
        processes: the processes that train together.
    """

    tables: Tables
    order: TrainOrder
    dataset: Any
    workers: int
    processes: Processes

    @property
    def train_table(self) -> Any:
        """The training images."""
        return self.tables.train

    @property
    def val_table(self) -> Any:
        """The validation images; None if there are none."""
        return self.tables.val

    @property
    def num_images(self) -> int:
        """Samples of an epoch."""
        return self.order.num_samples

    @property
    def num_validation(self) -> int:
        """Validation images; 0 for no evaluation."""
        return len(self.val_table) if self.val_table else 0

    def fingerprints(self) -> dict[str, str]:
        """Hash of each split."""
        tables = {"train": self.train_table, "val": self.val_table}
        return {split: table.fingerprint() for split, table in tables.items() if table is not None}

    def batches(self, start_step: int, total_steps: int, pin_memory: bool) -> Generator[Any, None, None]:
        """The batches of this process from step `start_step` on."""
        rank, size = self.processes.rank, self.processes.size
        return train_batches(self.dataset, self.order, start_step, total_steps, self.workers, pin_memory, rank, size)

    def file_name(self, index: int) -> str:
        """File of an image, by its row in the training table."""
        return str(self.train_table.file_names[index])


def show_tables(config: DataConfig, console: Console) -> Tables:
    """The tables to train and to validate on; prints what they hold and what was repaired."""
    tables = read_tables(config)
    console.print(tables.describe())
    for note in [*tables.train.notes(), *(tables.val.notes() if tables.val is not None else [])]:
        console.print(note, style="yellow")
    return tables
