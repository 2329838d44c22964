"""The version of the package; `setup.py` and the manual read it from here."""

__version__ = "0.1.0"
