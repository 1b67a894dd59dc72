#!/usr/bin/env python3
"""Top-k by the gradients of the last layer, from their factors against whole gradients in NumPy and PyTorch.

    python gradients.py --binary ../../target/release/wherefore --threads 2 --out ../results/gradients.jsonl

The rivals hold what a per-example gradient library gives, `[N, E K + K]` f32, and multiply; N is what fits into --gigabytes of that.
We hold E + K numbers a record and multiply those: (E K + K) / (E + K) times fewer operations.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--classes", default="2,5,100", help="comma-separated")
    parser.add_argument("--queries", default="1,64", help="comma-separated batch sizes")
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)  # read when the libraries below are loaded
    run(arguments)


def run(arguments):
    from timing import Results

    results = Results(arguments.out, threads=arguments.threads, width=arguments.width, top_k=arguments.top_k)
    for classes in [int(k) for k in arguments.classes.split(",")]:
        numbers = (arguments.width + 1) * classes
        records = int(arguments.gigabytes * 1e9 / 4 / numbers)
        ratio = numbers / (arguments.width + classes)
        queries = [int(q) for q in arguments.queries.split(",")]
        for count in queries:
            seconds = ours(arguments, records, classes, count)
            case = f"{records} records / K={classes}, Q={count}"
            results.add("wherefore", case, count, "queries", {"seconds": seconds}, operations_ratio=round(ratio, 2))
        rivals(results, arguments, records, classes, queries)
    results.ratios()


def ours(arguments, records, classes, queries):
    command = [arguments.binary, "bench", "--job", "search", "--rule", "grad-dot", "--format", "json"]
    command += ["--records", records, "--width", arguments.width, "--classes", classes, "--queries", queries]
    command += ["--top-k", arguments.top_k, "--threads", arguments.threads, "--samples", arguments.samples]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return next(row["seconds"] for row in map(json.loads, done.stdout.splitlines()) if row["job"] == "search")


def rivals(results, arguments, records, classes, queries):
    import numpy
    import torch
    from timing import measure

    torch.set_num_threads(arguments.threads)
    random = numpy.random.default_rng(0)
    gradients = numpy.empty((records, (arguments.width + 1) * classes), numpy.float32)
    for start in range(0, records, 1 << 14):
        random.standard_normal(gradients[start : start + (1 << 14)].shape, numpy.float32, out=gradients[start : start + (1 << 14)])
    asked = random.standard_normal((max(queries), gradients.shape[1]), numpy.float32)
    of_torch = torch.from_numpy(gradients)
    for count in queries:
        part, k = asked[:count], arguments.top_k

        def with_numpy():
            scores = part @ gradients.T
            for end in (scores, -scores):
                numpy.argpartition(end, k, axis=1)

        def with_torch():
            scores = torch.from_numpy(part) @ of_torch.T
            for end in (True, False):
                scores.topk(k, largest=end)

        for tool, work in (("numpy", with_numpy), ("torch", with_torch)):
            case = f"gradients of {4 * gradients.shape[1]} bytes / K={classes}, Q={count}"
            results.add(tool, case, count, "queries", measure(work, arguments.samples))


if __name__ == "__main__":
    main()
