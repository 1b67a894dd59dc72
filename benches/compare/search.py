#!/usr/bin/env python3
"""Exact top-k search: FAISS's flat indexes and NumPy against `wherefore bench --job search`.

    python search.py --binary ../../target/release/wherefore --threads 2 --out ../results/search.jsonl

All search random vectors of the same shape. FAISS is timed as it comes, and again with the threshold that makes it use
matrix products for batches of any size (its default since 1.9 all but switches them off). `--rivals faiss-fp16` sets its scalar quantiser
beside our records held in f16; it takes long for many queries.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

BLAS_THRESHOLD = 20  # queries from which FAISS multiplies matrices; what its documentation used to promise


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, help="our release binary; without it only the rivals are timed")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", default="1,64,1024", help="comma-separated batch sizes")
    parser.add_argument("--top-k", default="10", help="comma-separated")
    parser.add_argument("--dtypes", default="f32", help="how our records are held, comma-separated: f32, f16, bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--rivals", default="faiss,numpy", help="of faiss, faiss-fp16 and numpy, comma-separated; may be empty")
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    arguments = parser.parse_args()
    arguments.queries = [int(q) for q in arguments.queries.split(",")]
    arguments.top_k = [int(k) for k in arguments.top_k.split(",")]
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)  # read when the libraries below are loaded
    run(arguments)


def run(arguments):
    from timing import Results

    shape = {"records": arguments.records, "width": arguments.width}
    results = Results(arguments.out, threads=arguments.threads, **shape)
    # Ours first: the rivals' vectors would take the memory that the operating system keeps our store's pages in.
    if arguments.binary:
        for dtype in arguments.dtypes.split(","):
            for queries, k in cases(arguments):
                row = wherefore_search(arguments, dtype, queries, k)
                add(results, arguments, "wherefore", dtype, queries, k, {"seconds": row["seconds"]})
    rivals = {"faiss": search_with_faiss, "faiss-fp16": search_with_quantiser, "numpy": search_with_numpy}
    chosen = [rival for rival in arguments.rivals.split(",") if rival]
    if chosen:
        records, queries = random_vectors(arguments)
        for rival in chosen:
            rivals[rival](results, arguments, records, queries)
    results.ratios()


def cases(arguments):
    return [(queries, k) for queries in arguments.queries for k in arguments.top_k]


def add(results, arguments, tool, variant, queries, k, statistics):
    """A scan of one query reads the whole matrix once, so its bandwidth says how close it is to the memory's."""
    number = 2 if variant in ("f16", "bf16") or "fp16" in variant else 4
    gigabytes = arguments.records * arguments.width * number / statistics["seconds"] / 1e9
    bandwidth = {"gigabytes_per_second": round(gigabytes, 1)} if queries == 1 else {}
    results.add(tool, f"{variant} / Q={queries}, k={k}", queries, "queries", statistics, **bandwidth)


def wherefore_search(arguments, dtype, queries, k):
    """{"job", "seconds", "queries_per_second", ...} of our own benchmark, which takes its own median."""
    options = {
        "--job": "search",
        "--records": arguments.records,
        "--width": arguments.width,
        "--queries": queries,
        "--top-k": k,
        "--dtype": dtype,
        "--rule": "feature-dot",
        "--samples": arguments.samples,
        "--threads": arguments.threads,
        "--format": "json",
    }
    command = [str(arguments.binary), "bench", *(str(word) for pair in options.items() for word in pair)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} exited with {done.returncode}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(row for row in rows if row["job"] == "search")


def random_vectors(arguments):
    import numpy

    random = numpy.random.default_rng(0)
    records = numpy.empty((arguments.records, arguments.width), numpy.float32)
    for start in range(0, len(records), 100_000):  # standard_normal would need twice the memory at once
        block = records[start : start + 100_000]
        random.standard_normal(block.shape, dtype=numpy.float32, out=block)
    return records, random.standard_normal((max(arguments.queries), arguments.width), dtype=numpy.float32)


def search_with_faiss(results, arguments, records, queries):
    import faiss
    from timing import measure

    faiss.omp_set_num_threads(arguments.threads)
    default = faiss.cvar.distance_compute_blas_threshold
    for name in ("IndexFlatIP", "IndexFlatL2"):
        index = getattr(faiss, name)(arguments.width)
        index.add(records)
        for threshold, variant in ((default, f"{name} as it comes"), (BLAS_THRESHOLD, f"{name} with BLAS")):
            faiss.cvar.distance_compute_blas_threshold = threshold
            for count, k in cases(arguments):
                work = lambda index=index, count=count, k=k: index.search(queries[:count], k)
                add(results, arguments, "faiss", variant, count, k, measure(work, arguments.samples))
        faiss.cvar.distance_compute_blas_threshold = default


def search_with_quantiser(results, arguments, records, queries):
    import faiss
    from timing import measure

    faiss.omp_set_num_threads(arguments.threads)
    for metric in ("METRIC_INNER_PRODUCT", "METRIC_L2"):
        index = faiss.IndexScalarQuantizer(arguments.width, faiss.ScalarQuantizer.QT_fp16, getattr(faiss, metric))
        index.train(records[:1000])
        index.add(records)
        for count, k in cases(arguments):
            work = lambda index=index, count=count, k=k: index.search(queries[:count], k)
            variant = f"QT_fp16 {metric.removeprefix('METRIC_').lower().replace('_', ' ')}"
            add(results, arguments, "faiss", variant, count, k, measure(work, arguments.samples))


def search_with_numpy(results, arguments, records, queries):
    from timing import measure

    for count, k in cases(arguments):
        work = lambda count=count, k=k: numpy_top(records, queries[:count], k)
        add(results, arguments, "numpy", "matmul + argpartition", count, k, measure(work, arguments.samples))


def numpy_top(records, queries, k, block=125_000):
    """Blocks of the records, so that the scores of all pairs never exist at once."""
    import numpy

    scores, indexes = [], []
    for start in range(0, len(records), block):
        part = queries @ records[start : start + block].T
        top = numpy.argpartition(-part, k, axis=1)[:, :k]
        scores.append(numpy.take_along_axis(part, top, 1))
        indexes.append(top + start)
    scores, indexes = numpy.concatenate(scores, 1), numpy.concatenate(indexes, 1)
    order = numpy.argsort(-scores, axis=1)[:, :k]
    return numpy.take_along_axis(scores, order, 1), numpy.take_along_axis(indexes, order, 1)


if __name__ == "__main__":
    main()
