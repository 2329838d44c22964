"""From a checkpoint to a file that other runtimes run. Start at `pipeline.py`.

Running these files is in `effdet/runtimes`. The package is not called `export`, because importing it would replace the
function `effdet.export`.
"""
