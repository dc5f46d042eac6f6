"""Layers and whole networks, timed on our engine and on others, in one process and in turn; see docs/benchmarks.md."""
