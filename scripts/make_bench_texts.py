#!/usr/bin/env python3
"""Writes a JSONL of real texts of mixed length for benchmarks, from the SpamAssassin corpus.

    python3 scripts/make_bench_texts.py [--out target/data/bench.jsonl] [--texts 5000]

Each text is a subject and the beginning of a body, cut at a random number of words; lengths are log-normal, as those of
reviews, questions and posts are: a mean of about 64 WordPiece tokens, many short ones, a tail up to 256.
"""

import argparse
import json
import math
import random
from pathlib import Path

import spam_assassin

SEED = 5
MEDIAN_WORDS, SPREAD = 36, 0.75
MOST_WORDS = 185  # about 256 tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("target/data/bench.jsonl"))
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--data", type=Path, default=spam_assassin.DEFAULT_FOLDER, help="the corpus, fetched if absent")
    arguments = parser.parse_args()
    mails = spam_assassin.shuffled(spam_assassin.load(arguments.data), SEED)[: arguments.texts]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    generator = random.Random(SEED)
    with arguments.out.open("w", encoding="utf-8") as file:
        for number, mail in enumerate(mails):
            text = first_words(f"{mail.subject} - {mail.body}", generator)
            file.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")
    print(f"{len(mails)} texts -> {arguments.out}")


def first_words(text, generator):
    words = text.split()
    wanted = round(generator.lognormvariate(math.log(MEDIAN_WORDS), SPREAD))
    return " ".join(words[: max(1, min(wanted, MOST_WORDS))])


if __name__ == "__main__":
    main()
