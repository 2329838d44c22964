"""Speed and memory of models, measured in turns. Start at `comparison.compare`.

Tables for people are printed by `effdet/cli/benchmark.py`.
"""
