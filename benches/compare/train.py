#!/usr/bin/env python3
"""Fine-tuning: PyTorch f32 with transformers against `wherefore train`, one epoch over the same labelled texts.

    python train.py --binary ../../target/release/wherefore --model ../../target/models/minilm \
        --data ../../target/data/bench.jsonl --threads 2 --out ../results/train.jsonl

Rivals get what favours them: the model is loaded and the texts are tokenized beforehand, the attention and the kind of
AdamW are the fastest of those there are, and batches are padded to their own longest text: in the order of the file, and
sorted by length, which pads least. Ours is timed as the whole process (start, loading, tokenizing, the same steps, a
checkpoint of parameters and moments, saving the model), and once more with a single step: what is between is the other steps.
"""

import argparse
import itertools
import json
import os
import subprocess
import tempfile
from pathlib import Path

ATTENTIONS = ("sdpa", "eager")
OPTIMISERS = ({"fused": True}, {"foreach": True})
SCANNED_BATCHES = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, help="our release binary; without it only the rivals are timed")
    parser.add_argument("--model", type=Path, required=True, help="a BERT encoder or classifier")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with `text`; labels are made up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=640, help="texts, from the front of the data")
    parser.add_argument("--batch", type=int, default=32, help="texts a step")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)  # read when the libraries below are loaded
    os.environ["HF_HUB_OFFLINE"] = "1"
    run(arguments)


def run(arguments):
    from timing import Results, measure

    with arguments.data.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, arguments.limit)]
    labels = [i * 7 % 5 % 2 for i in range(len(texts))]
    about = {"batch": arguments.batch, "dropout": arguments.dropout}
    results = Results(arguments.out, model=arguments.model.name, threads=arguments.threads, **about)
    rival = Rival(arguments, texts, labels)
    tokens = sum(map(len, rival.ids))
    print(f"{len(texts)} texts, {tokens} tokens (mean {tokens / len(texts):.0f})")
    job = {"unit": "tokens", "units": tokens, "texts": len(texts)}
    attention, optimiser = rival.best()
    for name, batches in rival.orders().items():
        work = lambda: rival.epoch(batches)
        case = f"{attention}, {'fused' if optimiser.get('fused') else 'foreach'} AdamW, {name} / epoch"
        results.add("torch", case, statistics=measure(work, arguments.samples), **job)
    if arguments.binary:
        time_ours(results, arguments, texts, labels, job)
    results.ratios()


def time_ours(results, arguments, texts, labels, job):
    from timing import measure

    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "texts.jsonl")
        command = [arguments.binary, "train", "--model", arguments.model, "--data", data, "--out", Path(scratch, "out")]
        command += ["--epochs", 1, "--batch-size", arguments.batch, "--dropout", arguments.dropout, "--overwrite"]
        command += ["--max-length", arguments.max_length, "--threads", arguments.threads, "--quiet"]
        taken = {}
        for count in (arguments.batch, len(texts)):
            lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in zip(texts[:count], labels))
            data.write_text("".join(lines), encoding="utf-8")
            taken[count] = measure(lambda: subprocess.run([str(x) for x in command], check=True), arguments.samples)
        whole, one = taken[len(texts)], taken[arguments.batch]
        results.add("wherefore", "whole process / epoch", statistics=whole, **job)
        share = 1 - arguments.batch / len(texts)
        steps = {name: (whole[name] - one[name]) / share for name in ("seconds", "core_seconds")}
        results.add("wherefore", "steps alone / epoch", statistics=whole | steps, **job)


class Rival:
    """A classifier in PyTorch and its tokenized texts."""

    def __init__(self, arguments, texts, labels):
        import torch
        import transformers

        self.torch, self.transformers, self.arguments = torch, transformers, arguments
        torch.set_num_threads(arguments.threads)
        transformers.utils.logging.set_verbosity_error()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
        self.ids = self.tokenizer(texts, truncation=True, max_length=arguments.max_length)["input_ids"]
        self.labels = labels

    def orders(self):
        given = list(range(len(self.ids)))
        by_length = sorted(given, key=lambda i: -len(self.ids[i]))
        return {"padded as they come": self.batches(given), "padded, sorted by length": self.batches(by_length)}

    def batches(self, order):
        rows = [order[i : i + self.arguments.batch] for i in range(0, len(order), self.arguments.batch)]
        return [self.batch(row) for row in rows]

    def batch(self, row):
        padded = self.tokenizer.pad({"input_ids": [self.ids[i] for i in row]}, return_tensors="pt")
        return dict(padded), self.torch.tensor([self.labels[i] for i in row])

    def load(self, attention, optimiser):
        rate = self.arguments.dropout
        dropped = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate, "classifier_dropout": rate}
        reader = self.transformers.AutoModelForSequenceClassification
        self.model = reader.from_pretrained(
            self.arguments.model, attn_implementation=attention, dtype=self.torch.float32, num_labels=2, **dropped
        ).train()
        self.optimiser = self.torch.optim.AdamW(self.model.parameters(), lr=5e-5, weight_decay=0.01, **optimiser)

    def best(self):
        """The fastest attention and AdamW over a few batches, left loaded."""
        from timing import measure

        few = self.batches(list(range(SCANNED_BATCHES * self.arguments.batch)))
        taken = {}
        for choice in itertools.product(ATTENTIONS, OPTIMISERS):
            self.load(*choice)
            taken[str(choice)] = (measure(lambda: self.epoch(few), 1)["seconds"], choice)
        choice = min(taken.values(), key=lambda pair: pair[0])[1]
        self.load(*choice)
        return choice

    def epoch(self, batches):
        torch = self.torch
        for inputs, labels in batches:
            loss = torch.nn.functional.cross_entropy(self.model(**inputs).logits, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()


if __name__ == "__main__":
    main()
