#!/usr/bin/env python3
"""Which answers are wrong: noise planted in questions made for this (`questions.py`), found again by `wherefore audit dirty`.

    python dirty_answers.py --binary ../../target/release/wherefore --model ../../target/models/minilm --out ../results/dirty-answers.jsonl

A model learns the noisy answers, and the audit then ranks the training questions. Of the answers, a share is put elsewhere in their contexts: half on the answer
of another sentence, half on any word. The figures are the average precision with which the wrong ones come first, the share of them among as many of the
first, and how often what is suggested is the right answer. No other library ranks wrong answers of extractive questions; chance is beside.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.metrics import average_precision_score

import questions
from selector import first_layers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a directory of a BERT encoder, such as all-MiniLM-L6-v2")
    parser.add_argument("--layers", type=int, default=3, help="of it, from the first")
    parser.add_argument("--records", type=int, default=600)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON line is appended")
    a = parser.parse_args()
    draw = random.Random(f"answers {a.seed}")
    right = [questions.question(draw, f"q{i}", int(draw.random() < 1 / 3), others=3) for i in range(a.records)]
    wrong = set(draw.sample(range(a.records), round(a.noise * a.records)))
    noisy = [elsewhere(record, draw, i % 2 == 0) if i in wrong else record for i, record in enumerate(right)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, store = folder / "train.jsonl", folder / "store"
        data.write_text("".join(json.dumps(record) + "\n" for record in noisy), encoding="utf-8")
        first_layers(a.model, folder / "encoder", a.layers)
        learn = ["--task", "answers", "--epochs", a.epochs, "--batch-size", 16, "--learning-rate", 3e-4, "--warmup", 0.1]
        run(a, "train", "--model", folder / "encoder", "--data", data, "--out", folder / "model", *learn)
        run(a, "index", "--model", folder / "model", "--data", data, "--store", store)
        run(a, "audit", "dirty", "--store", store, "--out", folder / "dirty.jsonl")
        found = [json.loads(line) for line in (folder / "dirty.jsonl").read_text(encoding="utf-8").splitlines()]
    found.sort(key=lambda record: record["index"])
    truth = np.array([i in wrong for i in range(a.records)])
    result = {"benchmark": "dirty answers", "set": "made", "model": a.model.name, "layers": a.layers, "records": a.records}
    result |= {"epochs": a.epochs, "seed": a.seed, "wrong": len(wrong), "chance": round(float(truth.mean()), 4)}
    scores = {"combined": [r["score"] for r in found]} | {n: [r["signals"][n] for r in found] for n in found[0]["signals"]}
    for name, values in scores.items():
        first = np.argsort(-np.array(values), kind="stable")[: len(wrong)]
        result[name] = round(average_precision_score(truth, values), 4)
        result[f"{name}, share of the first {len(wrong)}"] = round(float(truth[first].mean()), 4)
    suggested = [found[i]["suggested_answer"] in right[i]["answers"]["text"] for i in wrong]
    result["suggestions that are right, of those that are wrong"] = round(float(np.mean(suggested)), 4)
    for name, value in result.items():
        print(f"{name:<50} {value}")
    if a.out:
        with a.out.open("a") as file:
            file.write(json.dumps(result) + "\n")


def elsewhere(record, draw, typed):
    """The record with an answer that is none: the last word of another sentence, or any other word."""
    context, own = record["context"], record["answers"]["answer_start"][0]
    last = list(re.finditer(r"(\w+)\.", context))
    words = last if typed and len(last) > 1 else list(re.finditer(r"(\w+)", context))
    words = [match for match in words if not match.start(1) <= own < match.end(1)]
    match = draw.choice(words)
    return record | {"answers": {"text": [match[1]], "answer_start": [match.start(1)]}}


def run(arguments, *command):
    subprocess.run([str(arguments.binary), *map(str, command), "--threads", "1", "--quiet"], check=True)


if __name__ == "__main__":
    main()
