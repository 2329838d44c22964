"""The errors that a user can mend, each with a message of its own: what came, what was expected, what to do.

The command line prints these messages without a traceback. Mistakes of ours are assertions and never of these types.
"""


class EffdetError(Exception):
    """Base of the errors below: the one type that the command line catches."""


class ConfigError(EffdetError):
    """A recipe or an argument that cannot be used: unknown key, wrong type, contradiction."""


class DataError(EffdetError):
    """An image, video, annotation file or data set that cannot be read as what it should be."""


class WeightsError(EffdetError):
    """A weights file or checkpoint that is missing, something else, or does not fit the model."""


class TrainingError(EffdetError):
    """A run that cannot go on, such as a loss that is no longer finite."""
