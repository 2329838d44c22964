"""The check of a data set before training: `check_data` says what is wrong with it, `write_cleaned` repairs a copy."""

from effdet.data.check.checking import DataCheck, check_data
from effdet.data.check.cleaning import write_cleaned
from effdet.data.check.findings import Finding, Place, Split

__all__ = ["DataCheck", "Finding", "Place", "Split", "check_data", "write_cleaned"]
