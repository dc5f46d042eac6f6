"""How long a network takes on this machine: forward passes and maps on each engine, for `bitlens bench`."""

from bitlens.runtime.bench.comparison import compared_benches
from bitlens.runtime.bench.result import (
    BENCH_VERSION,
    Bench,
    BenchRow,
    Latency,
    bench_bytes,
    bench_from_bytes,
    read_bench,
)

__all__ = [
    "BENCH_VERSION",
    "Bench",
    "BenchRow",
    "Latency",
    "bench_bytes",
    "bench_from_bytes",
    "compared_benches",
    "read_bench",
]
