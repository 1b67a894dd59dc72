#!/usr/bin/env python3
"""A data set against itself, its nearest other records: `search --self` as a user runs it, against the matrix product alone.

    python self_search.py --binary ../../target/release/wherefore --records 200000 --threads 2 --out ../results/self.jsonl

Ours is the whole process: the store is opened, every pair scored, both ends kept, the results written as JSON lines. The rival is NumPy's
product of all rows with all rows (BLAS), which keeps nothing; --part of it is timed and taken as many times, as it is the same all along.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--top-k", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", type=int, default=10, help="the product of one in so many rows is timed")
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)  # read when NumPy is loaded
    with tempfile.TemporaryDirectory() as room:
        run(arguments, Path(room))


def run(arguments, room):
    import numpy
    from scale import draw
    from timing import Results

    results = Results(arguments.out, threads=arguments.threads, records=arguments.records, width=arguments.width, top_k=arguments.top_k)
    draw(room / "data", arguments.records, arguments.width, seed=1)
    wherefore(arguments, "index", "--from-factors", room / "data", "--store", room / "store", "--quiet")
    # A fair share of the machine's moods: the product before and after.
    rows = numpy.load(room / "data" / "features.npy")
    before = product(rows, arguments.part)
    wherefore(arguments, "search", "--store", room / "store", "--self", "--rule", "feature-cos", "--top-k", arguments.top_k,
              "--out", room / "result.jsonl", "--threads", arguments.threads, "--quiet")  # fmt: skip
    run = json.loads((room / "result.jsonl.run.json").read_text())
    after = product(rows, arguments.part)
    results.add("wherefore", "search --self / all pairs", arguments.records, "queries", {"seconds": run["summary"]["seconds"]},
                peak_mb=run["peak_memory_bytes"] / 1e6)  # fmt: skip
    results.add("numpy", "rows @ rows.T / all pairs", arguments.records, "queries", {"seconds": (before + after) / 2})
    results.ratios()


def wherefore(arguments, *words):
    subprocess.run([str(word) for word in (arguments.binary, *words)], check=True)


def product(rows, part, block=1024):
    """Seconds of all rows against all, from every part-th block."""
    blocks = range(0, len(rows), block * part)
    seconds = done = 0
    for start in blocks:
        asked = rows[start : start + block]
        began = time.perf_counter()
        for other in range(0, len(rows), 16_384):
            asked @ rows[other : other + 16_384].T
        seconds += time.perf_counter() - began
        done += len(asked)
    return seconds * len(rows) / done


if __name__ == "__main__":
    main()
