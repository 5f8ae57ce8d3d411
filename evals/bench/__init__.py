"""Measurements that can be repeated: `python -m evals.bench.turn`."""
