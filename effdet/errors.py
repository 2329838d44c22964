"""The errors that a user can fix. Their messages say what came, what was expected and what to do.

The command line prints these messages without a traceback. A bug in this package is never one of these types.
"""

from __future__ import annotations

_LONGEST, _END = 3500, 1000  # characters of a message, and of its end


class EffdetError(Exception):
    """Base class of the errors below, which the command line catches.

    Names and values in messages are data of others, so a message of thousands of characters loses its middle: the place
    is at its start, and the advice at its end.
    """

    def __init__(self, message: str) -> None:
        """An error with a message."""
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - _END]} ... {message[-_END:]}"
        super().__init__(message)


class ConfigError(EffdetError):
    """A recipe or an argument that cannot be used: unknown key, wrong type, contradiction."""


class DataError(EffdetError):
    """An image, video, annotation file or data set that is missing, damaged or not as annotated."""


class WeightsError(EffdetError):
    """A weights file or checkpoint that is missing, damaged, of an unknown kind, or of another model."""


class NotFiniteError(WeightsError):
    """Outputs of a model that are NaN or Inf.

    Attributes:
        image: number of the first such image in its batch.
    """

    def __init__(self, image: int) -> None:
        super().__init__(
            f"the outputs of the model for image {image + 1} of the batch are NaN or Inf; use precision fp32, and "
            "other weights if that does not help"
        )
        self.image = image


class TrainingError(EffdetError):
    """A training that cannot continue, for example because the loss is NaN or Inf."""


class ExportError(EffdetError):
    """A model that cannot be exported as asked, or an exported file that does not compute what the model computes."""
