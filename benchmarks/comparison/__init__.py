"""The parts of compare.py: contenders, rows, results, and how they are shown."""
