#!/usr/bin/env python3
"""Makes a classifier of MiniLM's size for the benchmarks: a real encoder under a fresh head of seeded random weights.

    python3 scripts/make_minilm_classifier.py [--encoder target/models/minilm] [--out target/models/minilm-classifier]

What it predicts means nothing; what predicting and explaining cost does not depend on that.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import BertForSequenceClassification

SEED = 3
HEAD_DEVIATION = 0.3  # wide enough that predictions are not all one half
MAX_LENGTH = 256  # tokens, as the encoder's own sentence_bert_config.json has it
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "special_tokens_map.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", type=Path, default=Path("target/models/minilm"))
    parser.add_argument("--out", type=Path, default=Path("target/models/minilm-classifier"))
    parser.add_argument("--classes", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    model = BertForSequenceClassification.from_pretrained(arguments.encoder, num_labels=arguments.classes)
    torch.nn.init.normal_(model.classifier.weight, std=HEAD_DEVIATION)
    model.save_pretrained(arguments.out)
    for name in TOKENIZER_FILES:
        shutil.copy(arguments.encoder / name, arguments.out / name)
    settings = json.loads((arguments.encoder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = MAX_LENGTH
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"{arguments.encoder} -> {arguments.out}")


if __name__ == "__main__":
    main()
