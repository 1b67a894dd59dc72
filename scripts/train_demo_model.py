#!/usr/bin/env python3
"""Makes assets/demo: a small BERT that tells spam from ham, and the very records it was trained on.

    pip install -r tests/golden/requirements.txt && python3 scripts/train_demo_model.py [--out assets/demo]

Everything starts from the SpamAssassin corpus. Its unlabelled text gives the vocabulary and the first word embeddings
(which words stand near which); the classifier learns from the shipped training records alone, so that what the demo
attributes a prediction to is what was learnt from. One thread, fixed seeds, a few minutes.
"""

import argparse
import json
import math
import os
import random
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification

import spam_assassin

SEED = 20
LABELS = ["ham", "spam"]
TRAIN = {"ham": 1300, "spam": 1100}
TEST = {"ham": 170, "spam": 130}
DEV = {"ham": 200, "spam": 150}  # looked at while training, never shipped and never trained on
EXCERPT = 400  # characters of a shipped record
UNLABELLED_EXCERPT = 2000

VOCABULARY = 5000
POSITIONS = 128
MODEL = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("assets/demo"))
    parser.add_argument("--data", type=Path, default=spam_assassin.DEFAULT_FOLDER, help="the corpus, fetched if absent")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    random.seed(SEED)

    parts = split(spam_assassin.load(arguments.data))
    unlabelled = [spam_assassin.excerpt(mail, UNLABELLED_EXCERPT) for mail in parts["train"] + parts["rest"]]
    tokenizer = train_tokenizer(unlabelled)
    model = BertForSequenceClassification(model_config(tokenizer))
    vectors = word_vectors(tokenizer, unlabelled, MODEL["hidden_size"])
    model.bert.embeddings.word_embeddings.weight.data.copy_(vectors)
    fine_tune(model, tokenizer, parts, arguments.epochs)

    model = model.half().float()  # as it will be read back
    for name in ("train", "test"):
        print(f"{name}: {accuracy(model, examples(tokenizer, parts[name])):.2%} of {len(parts[name])}")
    save(arguments.out, model, tokenizer, parts)


# --- data ---------------------------------------------------------------------------------------------------------


def split(mails):
    """{part: mails}, in a fixed random order; what the quotas leave is the rest."""
    parts = {"test": [], "train": [], "dev": [], "rest": []}
    quotas = {"test": dict(TEST), "train": dict(TRAIN), "dev": dict(DEV)}
    for mail in spam_assassin.shuffled(mails, SEED):
        part = next((part for part, left in quotas.items() if left[mail.label] > 0), "rest")
        if part != "rest":
            quotas[part][mail.label] -= 1
        parts[part].append(mail)
    # Filling ham and spam side by side leaves a tail of one class: shuffle within each part.
    return {part: spam_assassin.shuffled(mails, part) for part, mails in parts.items()}


def train_tokenizer(texts):
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    options = {"vocab_size": VOCABULARY, "min_frequency": 3, "limit_alphabet": 120, "special_tokens": SPECIALS}
    tokenizer.train_from_iterator(texts, show_progress=False, **options)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


def examples(tokenizer, mails):
    """[(token ids, class)]"""
    encoded = [tokenizer.encode(spam_assassin.excerpt(mail, EXCERPT)).ids for mail in mails]
    return [
        (ids if len(ids) <= POSITIONS else [*ids[: POSITIONS - 1], SEP], LABELS.index(mail.label))
        for ids, mail in zip(encoded, mails)
    ]


def padded(batch):
    """(ids, mask, classes) of a list of examples."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _ in batch])
    return ids, (ids != PAD).long(), torch.tensor([label for _, label in batch])


# --- word vectors -------------------------------------------------------------------------------------------------


def word_vectors(tokenizer, texts, width, reach=4):
    """Positive pointwise mutual information of tokens within `reach` of each other, reduced by its singular vectors."""
    size = tokenizer.get_vocab_size()
    # Ids of all texts in a row; [CLS] and [SEP] keep neighbours of different texts apart.
    stream = np.concatenate([encoding.ids for encoding in tokenizer.encode_batch(texts)])
    counts = np.zeros(size * size)
    for distance in range(1, reach + 1):
        pairs = stream[:-distance] * size + stream[distance:]
        counts += np.bincount(pairs, minlength=size * size) / distance
    counts = counts.reshape(size, size)
    counts += counts.T
    counts[: len(SPECIALS)] = counts[:, : len(SPECIALS)] = 0
    # Frequent contexts are smoothed by the usual exponent, or rare pairs would dominate.
    left, right = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts * right.sum() / (left * right))
    information = np.where(counts > 0, np.maximum(information, 0), 0).astype(np.float32)
    u, s, _ = torch.svd_lowrank(torch.from_numpy(information), q=width + 32, niter=4)
    vectors = u[:, :width] * s[:width].sqrt()
    return vectors * (0.1 / vectors.std())


# --- training -----------------------------------------------------------------------------------------------------


def model_config(tokenizer):
    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=POSITIONS,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        initializer_range=0.05,
        **MODEL,
    )


def optimiser_and_schedule(model, steps, rate):
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warm_up = max(1, steps // 10)
    factor = lambda step: min((step + 1) / warm_up, max(0.0, (steps - step) / (steps - warm_up)))
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def step(model, loss, optimiser, schedule):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    schedule.step()


def fine_tune(model, tokenizer, parts, epochs, batch=16):
    train, dev = (examples(tokenizer, parts[part]) for part in ("train", "dev"))
    optimiser, schedule = optimiser_and_schedule(model, epochs * math.ceil(len(train) / batch), rate=5e-4)
    for epoch in range(epochs):
        model.train()
        for chosen in batches(train, batch):
            ids, mask, labels = padded(chosen)
            loss = model(ids, attention_mask=mask, labels=labels).loss
            step(model, loss, optimiser, schedule)
        print(f"epoch {epoch + 1}/{epochs}: dev accuracy {accuracy(model, dev):.2%}", flush=True)


def batches(examples, size, pool=10):
    """In random order, but each of examples of like length, so that little of a batch is padding."""
    random.shuffle(examples)
    cut = []
    for i in range(0, len(examples), size * pool):
        alike = sorted(examples[i : i + size * pool], key=lambda example: len(example[0]))
        cut += [alike[j : j + size] for j in range(0, len(alike), size)]
    random.shuffle(cut)
    return cut


@torch.no_grad()
def accuracy(model, examples):
    model.eval()
    right = 0
    for i in range(0, len(examples), 64):
        ids, mask, labels = padded(examples[i : i + 64])
        right += (model(ids, attention_mask=mask).logits.argmax(1) == labels).sum().item()
    return right / len(examples)


# --- what is shipped ----------------------------------------------------------------------------------------------


def save(folder, model, tokenizer, parts):
    """The weights in f16: half the size, and the accuracy printed above is theirs."""
    model.half().save_pretrained(folder / "model")
    tokenizer_json = json.loads(tokenizer.to_str())
    text = json.dumps(tokenizer_json, ensure_ascii=False, separators=(",", ":"))
    (folder / "model" / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    for part in ("train", "test"):
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            for mail in parts[part]:
                record = {"id": mail.id, "text": spam_assassin.excerpt(mail, EXCERPT), "label": mail.label}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
