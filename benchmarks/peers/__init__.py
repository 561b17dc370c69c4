"""Recommenders by others, which `benchmarks/quality.py` measures ours beside."""
