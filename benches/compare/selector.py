#!/usr/bin/env python3
"""Selector-Predictor against the plain predictor, and against selection by attribution: exact match and F1 of answers.

    python selector.py --binary ../../target/release/wherefore --out ../results/selector.jsonl made
    python selector.py --binary ../../target/release/wherefore --out ../results/selector.jsonl published \
        --model hfl/chinese-roberta-wwm-ext --train robust/train.json --dev robust/dev.json --test checklist/dev.json

`made` writes questions about people whose contexts hold the sentence with the answer, sentences about anything else, and
adversarial ones: the same template about another person. Contexts to learn from are short, those to be judged on have more
of both kinds. A selector and a predictor, each a BERT of two small layers from scratch, learn from the same records; the
predictor learns from whole contexts, as TrustAI's does. Everything reads windows of at most `--length` tokens. Every seed
draws its data, its models and their order anew. It fails where the Selector-Predictor is not better than the plain predictor
by `--margin` points of exact match, the mean over seeds.

`published` is TrustAI's experiment on the user's own files and checkpoint (DuReader-robust and its checklist): selector
batch 24, rate 8e-5, warm-up 0.1, weight decay 0.01, threshold 0.1; predictor batch 24, rate 5e-5, length 384, stride 128,
eight epochs; each the best epoch of the dev data. The published exact match and F1 are 73.18/84.98 (plain) and
74.31/86.89 on dev, 27.56/49.47 and 31.04/53.29 on the checklist without questions that have no answer.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

PEOPLE = "anna bruno clara david elena felix greta hugo irene jonas karin lukas maria nils olga paul".split()
TEMPLATES = [
    ("where does {} live?", "{} lives in {}.", "bonn oslo rome lima delhi paris tokyo cairo".split()),
    ("what does {} drink?", "{} drinks {}.", "tea milk juice water cocoa coffee".split()),
    ("what does {} play?", "{} plays {}.", "chess tennis drums poker cards golf".split()),
    ("who does {} call?", "{} calls {}.", "peter sara tom eva otto lena".split()),
]
OTHER = [
    "the weather is fine today.",
    "it was a long week at work!",
    "the train was late again.",
    "the shop opens at nine.",
    "nobody knew what to say.",
    "the garden is full of flowers.",
    "there was music in the street!",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each seed")
    jobs = parser.add_subparsers(dest="job", required=True)
    made = jobs.add_parser("made", help="questions made for this")
    made.add_argument("--records", type=int, default=6000, help="to learn from")
    made.add_argument("--tests", type=int, default=400, help="to be judged on")
    made.add_argument("--adversarial", type=int, default=4, help="sentences of the answer's template, at test")
    made.add_argument("--length", type=int, default=80, help="tokens that are read at once")
    made.add_argument("--shape", default="2x128")
    made.add_argument("--epochs", type=int, default=30)
    made.add_argument("--rate", type=float, default=1e-3)
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
        files = {"train": (a.records, None), "dev": (a.tests, a.adversarial), "test": (a.tests, a.adversarial)}
        for name, (count, adversarial) in files.items():
            lines = (json.dumps(question(draw, f"{name}{i}", adversarial)) + "\n" for i in range(count))
            (self.folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        of = lambda name: self.folder / f"{name}.jsonl"
        shared = ["--vocabulary", 400, "--shape", a.shape, "--data", of("train"), "--dev", of("dev")]
        shared += ["--epochs", a.epochs, "--patience", a.epochs, "--learning-rate", a.rate, "--warmup", 0.1]
        for name, task in (("predictor", "answers"), ("selector", "selector")):
            self.wherefore("train", "--task", task, *shared, "--out", self.folder / name)
        about = {"adversarial": a.adversarial, "shape": a.shape, "records": a.records, "epochs": a.epochs}
        return self.judge("made", "test", of("test"), about, ["--max-length", a.length, "--stride", a.length // 4])

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
        gain = self.judge("published", "dev", a.dev, about)
        for test in a.test:
            self.judge("published", test.stem, answerable(test, self.folder), about)
        return gain

    def judge(self, job, name, data, about, windows=()):
        """Every way over one file; the gain in exact match, in points."""
        shared = ["select", "--model", self.folder / "predictor", "--data", data, *windows]
        ways = {
            "selector": ["--selector", self.folder / "selector", "--threshold", 0.1],
            "attribution": ["--method", "occlusion", "--threshold", 0.1],
        }
        found = {}
        for way, more in ways.items():
            out = self.folder / f"{way}-{name}.jsonl"
            self.wherefore(*shared, *more, "--out", out)
            scores = json.loads(Path(f"{out}.run.json").read_text())["scores"]
            found[way] = scores["selected"]
            found["plain"] = scores["plain"]
            found[way]["kept"] = scores["kept"] / scores["sentences"]
        for way, scores in found.items():
            kept = f"  kept {100 * scores['kept']:.0f} % of sentences" if "kept" in scores else ""
            exact, f1 = 100 * scores["exact_match"], 100 * scores["f1"]
            print(f"seed {self.seed}  {name:<10} {way:<12} exact match {exact:6.2f}  F1 {f1:6.2f}{kept}", flush=True)
        if self.arguments.out:
            line = {"benchmark": "selector", "job": job, "set": name, "seed": self.seed, **about, **found}
            with self.arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return 100 * (found["selector"]["exact_match"] - found["plain"]["exact_match"])


def question(draw, name, adversarial):
    """A question and its context: short, or with so many adversarial sentences and more of the others."""
    asked, told, answers = draw.choice(TEMPLATES)
    others = 2 if adversarial is None else 5
    adversarial = draw.choice([0, 1, 2]) if adversarial is None else adversarial
    person, *strangers = draw.sample(PEOPLE, adversarial + 3)
    answer, *wrong = draw.sample(answers, adversarial + 1)
    evidence = told.format(person, answer)
    sentences = [told.format(other, instead) for other, instead in zip(strangers, wrong)]
    # Of the same person something else, of another person something else, and of nobody.
    _, about, values = draw.choice([template for template in TEMPLATES if template[1] != told])
    sentences += [about.format(person, draw.choice(values)), about.format(strangers[-1], draw.choice(values))]
    sentences += draw.sample(OTHER, others) + [evidence]
    draw.shuffle(sentences)
    context = " ".join(sentences)
    start = context.index(evidence) + evidence.index(answer)
    answers = {"text": [answer], "answer_start": [start]}
    return {"id": name, "question": asked.format(person), "context": context, "answers": answers}


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
