#!/usr/bin/env python3
"""Time and peak memory of storing, searching, judging and checking 10k to 10M records: is the cost of a record the same however many there are?

    python benches/scale.py --binary target/release/wherefore --out benches/results/scale.jsonl --plot benches/results/scale.svg

The factors are drawn (a mixture of directions, so that neighbours exist), written as NumPy arrays and stored by `index --from-factors`:
what is measured is the store's writer and the search, not a model. Nothing is kept. 10M records of 64 numbers take 7 GB of disk meanwhile.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "compare"))

CLASSES = 2
DIRECTIONS = 256
STEPS = {
    "index": "index --from-factors {data} --store {store}{options}",
    "search": "search --store {store} --from-factors {queries} --rule grad-cos --top-k 10 --memory {memory} --out {result}",
    "labels by 5 folds": "audit dirty --store {store} --signal confident --neighbours 0 --out {result}",
    "search by class": "search --store {store} --from-factors {queries} --rule grad-cos --group-by label --top-k 10 --memory {memory} --out {result}",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, help="our release binary; without it what --out holds is plotted")
    parser.add_argument("--records", default="10000,100000,1000000,10000000", help="comma-separated")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--steps", type=int, default=len(STEPS), help="only the first so many of them")
    parser.add_argument("--memory", type=int, default=1024, help="MiB that a search may take")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--options", default="", help="further arguments of index, such as `--dtype f16`")
    parser.add_argument("--room", type=Path, help="a folder on a disk with room [default: the system's for temporary files]")
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    parser.add_argument("--plot", type=Path, help="an SVG of what --out holds")
    arguments = parser.parse_args()
    rows = []
    for records in [int(n) for n in arguments.records.split(",") if arguments.binary]:
        with tempfile.TemporaryDirectory(dir=arguments.room) as room:
            for row in measure(arguments, records, Path(room)):
                rows.append(row)
                print(f"{row['records']:>12,} {row['step']:<20} {row['seconds']:>8.2f} s {row['peak_mb']:>8.0f} MB", flush=True)
                if arguments.out:
                    with arguments.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    if arguments.plot:
        if arguments.out:
            rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
        plot(rows, arguments.plot)


def measure(arguments, records, room):
    from timing import machine

    draw(room / "data", records, arguments.width, seed=1)
    draw(room / "queries", arguments.queries, arguments.width, seed=2)
    names = {
        "data": room / "data", "queries": room / "queries", "store": room / "store", "result": room / "result.jsonl",
        "memory": arguments.memory, "options": f" {arguments.options}" if arguments.options else "",
    }  # fmt: skip
    common = machine() | {"width": arguments.width, "threads": arguments.threads}
    for step, command in list(STEPS.items())[: arguments.steps]:
        words = [str(arguments.binary), *command.format(**names).split(), "--threads", str(arguments.threads), "--quiet"]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"error: {' '.join(words)}: {done.stderr.strip()}")
        made = names["store"] if step == "index" else names["result"]
        run = json.loads(Path(f"{made}.run.json").read_text())
        named = f"search, {arguments.queries:,} queries" if step == "search" else step
        row = {"step": named, "records": records, "seconds": run["summary"]["seconds"], "peak_mb": run["peak_memory_bytes"] / 1e6}
        if step == "index":
            shutil.rmtree(room / "data")
            row["store_mb"] = sum(file.stat().st_size for file in names["store"].iterdir()) / 1e6
        yield row | common


def draw(folder, records, width, seed):
    """features.npy, logits.npy and labels.npy of records around DIRECTIONS directions, written a part at a time."""
    import numpy
    from numpy.lib.format import open_memmap

    folder.mkdir()
    random = numpy.random.default_rng(seed)
    directions = numpy.random.default_rng(0).standard_normal((DIRECTIONS, width), dtype=numpy.float32)
    head = numpy.random.default_rng(3).standard_normal((width, CLASSES), dtype=numpy.float32) / width**0.5
    features = open_memmap(folder / "features.npy", "w+", numpy.float32, (records, width))
    logits = open_memmap(folder / "logits.npy", "w+", numpy.float32, (records, CLASSES))
    labels = open_memmap(folder / "labels.npy", "w+", numpy.int64, (records,))
    for start in range(0, records, 250_000):
        part = slice(start, min(records, start + 250_000))
        kinds = random.integers(DIRECTIONS, size=part.stop - part.start)
        features[part] = directions[kinds] + 0.5 * random.standard_normal((len(kinds), width), dtype=numpy.float32)
        logits[part] = features[part] @ head
        labels[part] = kinds % CLASSES


def plot(rows, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "scale", "svg.fonttype": "none", "font.size": 9}
    import matplotlib.pyplot as pyplot

    figure, (time, each, memory) = pyplot.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
    for step in dict.fromkeys(row["step"] for row in rows):
        mine = sorted((row["records"], row) for row in rows if row["step"] == step)
        if not mine:
            continue
        counts = [count for count, _ in mine]
        time.plot(counts, [row["seconds"] for _, row in mine], "o-", label=step)
        each.plot(counts, [1e6 * row["seconds"] / count for count, row in mine], "o-", label=step)
        memory.plot(counts, [row["peak_mb"] for _, row in mine], "o-", label=step)
    for axes, title in ((time, "seconds"), (each, "microseconds a record"), (memory, "peak memory, MB")):
        axes.set(title=title, xlabel="records", xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    each.set_ylim(bottom=0.01)
    memory.set_ylim(bottom=10)
    time.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
