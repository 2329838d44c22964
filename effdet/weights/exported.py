"""What an exported file says about itself: the model card, the form of its inputs and outputs, and its certificate.

Every runtime's file holds it as one JSON text under the key `KEY`. Files are written in `effdet/exporting` and run in
`effdet/runtimes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from effdet.errors import ConfigError, WeightsError
from effdet.plain_data import check_mapping, first_fault, parse_json, shown
from effdet.text import reason_of
from effdet.types import Face, PostprocessOptions, StoredPrecision
from effdet.weights.card import ModelCard, read_card

KEY = "effdet"
WITH_NMS: tuple[Face, ...] = ("detections", "coral")
FORMAT = 1  # raised when the layout of the JSON text changes


@dataclass(frozen=True)
class ExportCard:
    """What an exported file says about itself.

    Its input is `images`, uint8 RGB [B, H, W, 3], letterboxed as the spec of the model says. Normalization is inside.

    Attributes:
        model: the card of the model; the image size of its spec is the one that the file is fixed to.
        face: which outputs the file has, see `Face`.
        precision: of the stored weights and the arithmetic.
        batch_size: images per call that the file is fixed to; None for any number.
        postprocess: thresholds and NMS inside the file, for faces that have them; None for the others.
        source: name of the checkpoint that was exported.
        source_sha256: hash of its weights: names, types, shapes and values of all tensors.
        calibration: how many images of what int8 was calibrated with; empty for other precisions.
        versions: of the packages that wrote the file.
        certificate: what was compared with PyTorch after the export, and how well it agreed.
    """

    model: ModelCard
    face: Face
    precision: StoredPrecision = "float32"
    batch_size: Annotated[int, Field(ge=1, le=65536)] | None = 1
    postprocess: PostprocessOptions | None = None
    source: str = ""
    source_sha256: str = ""
    calibration: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    certificate: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the input in pixels."""
        return self.model.spec.image_size

    def to_json(self) -> str:
        """The card as one line of JSON, for `read_export_card`."""
        plain = {"format": FORMAT, **vars(self), "model": self.model.to_dict()}
        return json.dumps(TypeAdapter(dict[str, Any]).dump_python(plain, mode="json"), ensure_ascii=False)

    def with_certificate(self, certificate: Mapping[str, Any]) -> ExportCard:
        """The same card with another certificate."""
        return replace(self, certificate=dict(certificate))


def read_export_card(text: str, path: str | Path) -> ExportCard:
    """The card from the JSON text that `ExportCard.to_json` gave.

    Args:
        text: the JSON text.
        path: the file that it is from, for messages.

    Raises:
        WeightsError: a newer version of this package wrote it, or it is damaged.
    """
    try:
        plain = parse_json(text)
        check_mapping(plain)
        written = plain.pop("format")
        if type(written) is not int:
            raise ValueError(f"'format' is {shown(written)}")
        if written > FORMAT:
            raise WeightsError(f"{path}: written by a newer version of this package; update to read it")
        card = TypeAdapter(ExportCard).validate_python({**plain, "model": read_card(plain["model"])})
        if (card.face in WITH_NMS) != (card.postprocess is not None):
            raise ValueError(f"the face '{card.face}' and the options of NMS contradict each other")
        return card
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None
    except ValidationError as error:
        raise WeightsError(f"{path}: the metadata is damaged: {first_fault(error)}; export the file again") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = reason_of(error)
        raise WeightsError(f"{path}: the metadata is damaged: {reason}; export the file again") from None
