"""From a checkpoint to a file that other runtimes run. Start at `exporting.py`.

Running these files is in `effdet/runtimes`.
"""
