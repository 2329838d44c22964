"""The errors that a user can fix. Their messages say what came, what was expected and what to do.

The command line prints these messages without a traceback. A bug in this package is never one of these types.
"""


class EffdetError(Exception):
    """Base class of the errors below, which the command line catches."""


class ConfigError(EffdetError):
    """A recipe or an argument that cannot be used: unknown key, wrong type, contradiction."""


class DataError(EffdetError):
    """An image, video, annotation file or data set that is missing, damaged or not as annotated."""


class WeightsError(EffdetError):
    """A weights file or checkpoint that is missing, damaged, of an unknown kind, or of another model."""


class TrainingError(EffdetError):
    """A training that cannot continue, for example because the loss is NaN or Inf."""
