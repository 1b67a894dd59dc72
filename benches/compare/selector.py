#!/usr/bin/env python3
"""Selector-Predictor against the plain predictor, and against selection by attribution: exact match and F1 of answers.

    python selector.py --binary ../../target/release/wherefore --out ../results/selector.jsonl made --model ../../target/models/minilm
    python selector.py --binary ../../target/release/wherefore --out ../results/selector.jsonl published \
        --model hfl/chinese-roberta-wwm-ext --train robust/train.json --dev robust/dev.json --test checklist/dev.json

`made` asks about people (`questions.py`). Contexts to learn from are short, and a third of them have one adversarial sentence,
as questions that people wrote have few; those to be judged on are long and have several. Selector and predictor begin with
the first layers of the same encoder (`scripts/fetch_minilm.py`) and learn from the same records, as long, with the same
batches and rate; the predictor learns from whole contexts, as TrustAI's does. Either reads a whole context at once. `dev` is
like what was learnt from, `test` is not. Every seed draws its data, its heads and their order anew. It fails where the
Selector-Predictor is not better on `test` than the plain predictor by `--margin` points of exact match, the mean over seeds.

`published` is TrustAI's experiment on the user's own files and checkpoint (DuReader-robust and its checklist): selector
batch 24, rate 8e-5, warm-up 0.1, weight decay 0.01, threshold 0.1; predictor batch 24, rate 5e-5, length 384, stride 128,
eight epochs; each the best epoch of the dev data. The published exact match and F1 are 73.18/84.98 (plain) and
74.31/86.89 on dev, 27.56/49.47 and 31.04/53.29 on the checklist without questions that have no answer.
`scripts/daily_questions.py` makes small files of that form from real news, to try the way there and back on.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import questions

os.environ["HF_HUB_OFFLINE"] = "1"

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each seed")
    jobs = parser.add_subparsers(dest="job", required=True)
    made = jobs.add_parser("made", help="questions made for this")
    made.add_argument("--model", type=Path, required=True, help="a directory of a BERT encoder, such as all-MiniLM-L6-v2")
    made.add_argument("--layers", type=int, default=3, help="of it, from the first")
    made.add_argument("--records", type=int, default=1200, help="to learn from")
    made.add_argument("--tests", type=int, default=200, help="to be judged on, of each kind")
    made.add_argument("--adversarial", type=int, default=4, help="sentences of the question's relation, at test")
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--rate", type=float, default=3e-4)
    made.add_argument("--method", default="saliency", help="of the selection by attribution")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--margin", type=float, default=5.0, help="points of exact match that are to be gained")
    published = jobs.add_parser("published", help="TrustAI's experiment on your own files")
    published.add_argument("--model", required=True, help="a checkpoint that the binary loads")
    for name in ("train", "dev"):
        published.add_argument(f"--{name}", type=Path, required=True, help="SQuAD's data > paragraphs > qas")
    published.add_argument("--test", type=Path, nargs="*", default=[], help="to be judged on, beside --dev")
    published.add_argument("--selector-epochs", type=int, default=10)
    published.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    gains = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            run = Run(arguments, Path(scratch), seed)
            gains.append(run.made() if arguments.job == "made" else run.published())
    gain = sum(gains) / len(gains)
    print(f"Selector-Predictor gains {gain:+.2f} points of exact match over the plain predictor ({len(gains)} seeds)")
    if arguments.job == "made" and gain < arguments.margin:
        sys.exit(f"expected a gain of at least {arguments.margin} points")


class Run:
    """One seed."""

    def __init__(self, arguments, folder, seed):
        self.arguments, self.folder, self.seed = arguments, folder, seed

    def wherefore(self, *words):
        command = [self.arguments.binary, *words, "--threads", self.arguments.threads, "--seed", self.seed, "--quiet"]
        subprocess.run([str(word) for word in command], check=True)

    def made(self):
        a, draw = self.arguments, random.Random(f"select {self.seed}")
        short = lambda name: questions.question(draw, name, int(draw.random() < 1 / 3), others=3)
        long = lambda name: questions.question(draw, name, a.adversarial, others=6)
        for name, count, one in (("train", a.records, short), ("dev", a.tests, short), ("test", a.tests, long)):
            lines = (json.dumps(one(f"{name}{i}")) + "\n" for i in range(count))
            self.file(name).write_text("".join(lines), encoding="utf-8")
        encoder = self.folder / "encoder"
        first_layers(a.model, encoder, a.layers)
        shared = ["--model", encoder, "--data", self.file("train"), "--epochs", a.epochs, "--batch-size", 16]
        shared += ["--learning-rate", a.rate, "--warmup", 0.1]
        for name, task in (("predictor", "answers"), ("selector", "selector")):
            self.wherefore("train", "--task", task, *shared, "--out", self.folder / name)
        about = {"model": a.model.name, "layers": a.layers, "records": a.records, "epochs": a.epochs, "rate": a.rate}
        about |= {"tests": a.tests, "adversarial": a.adversarial, "method": a.method}
        self.judge("made", "dev", self.file("dev"), about, a.method)
        return self.judge("made", "test", self.file("test"), about, a.method)

    def file(self, name):
        return self.folder / f"{name}.jsonl"

    def published(self):
        a = self.arguments
        shared = ["--model", a.model, "--data", a.train, "--dev", a.dev, "--batch-size", 24, "--warmup", 0.1]
        shared += ["--weight-decay", 0.01]
        selector = ["--task", "selector", "--learning-rate", 8e-5, "--epochs", a.selector_epochs, "--patience", 2]
        self.wherefore("train", *selector, "--max-length", 512, *shared, "--out", self.folder / "selector")
        predictor = ["--task", "answers", "--learning-rate", 5e-5, "--epochs", 8, "--patience", 8]
        predictor += ["--max-length", 384, "--stride", 128]
        self.wherefore("train", *predictor, *shared, "--out", self.folder / "predictor")
        about = {"model": a.model}
        windows = ["--max-length", 384, "--stride", 128]
        gain = self.judge("published", "dev", a.dev, about, windows=windows)
        for test in a.test:
            self.judge("published", test.stem, answerable(test, self.folder), about, windows=windows)
        return gain

    def judge(self, job, name, data, about, method="occlusion", windows=()):
        """Every way over one file; the gain in exact match, in points."""
        shared = ["select", "--model", self.folder / "predictor", "--data", data, *windows]
        ways = {
            "selector": ["--selector", self.folder / "selector", "--threshold", 0.1],
            "attribution": ["--method", method, "--threshold", 0.1],
        }
        found = {}
        for way, more in ways.items():
            out = self.folder / f"{way}-{name}.jsonl"
            self.wherefore(*shared, *more, "--out", out)
            scores = json.loads(Path(f"{out}.run.json").read_text())["scores"]
            found[way] = scores["selected"]
            found["plain"] = scores["plain"]
            found[way]["kept"] = scores["kept"] / scores["sentences"]
            found[way]["recall"] = recall(out)
        for way, scores in found.items():
            kept = "kept" in scores and f"  kept {100 * scores['kept']:.0f} % of sentences, {100 * scores['recall']:.0f} % of evidence"
            exact, f1 = 100 * scores["exact_match"], 100 * scores["f1"]
            print(f"seed {self.seed}  {name:<10} {way:<12} exact match {exact:6.2f}  F1 {f1:6.2f}{kept or ''}", flush=True)
        if self.arguments.out:
            line = {"benchmark": "selector", "job": job, "set": name, "seed": self.seed, **about, **found}
            with self.arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return 100 * (found["selector"]["exact_match"] - found["plain"]["exact_match"])


def recall(results):
    """The share of contexts of which a sentence was kept that holds a right answer's text, among those that have one."""
    having = kept = 0
    for line in results.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        holds = lambda s: any(text and text in record["context"][s["start"] : s["end"]] for text in record["answers"] or ())
        evidence = [sentence for sentence in record["sentences"] if holds(sentence)]
        having += bool(evidence)
        kept += any(sentence["kept"] for sentence in evidence)
    return kept / max(having, 1)


def first_layers(model, folder, layers):
    """A copy of an encoder without its later layers."""
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix in (".json", ".txt") and path.name != "config.json":
            shutil.copy(path, folder)
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    data = (model / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + size]), data[8 + size :]
    kept, parts, end = {}, [], 0
    for name, tensor in header.items():
        layer = re.search(r"encoder\.layer\.(\d+)\.", name)
        if name == "__metadata__" or (layer and int(layer[1]) >= layers):
            continue
        start, stop = tensor["data_offsets"]
        kept[name] = tensor | {"data_offsets": [end, end + stop - start]}
        parts.append(tensors[start:stop])
        end += stop - start
    head = json.dumps(kept).encode()
    head += b" " * (-len(head) % 8)
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"".join(parts))


def answerable(path, folder):
    """The same file without questions that have no answer, as the published table has the checklist."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            has = lambda qa: any(answer["text"].strip() for answer in qa.get("answers", []))
            paragraph["qas"] = [qa for qa in paragraph["qas"] if has(qa) and not qa.get("is_impossible")]
    to = folder / f"answerable-{path.stem}.json"
    to.write_text(json.dumps(data), encoding="utf-8")
    return to


if __name__ == "__main__":
    main()
