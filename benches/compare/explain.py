#!/usr/bin/env python3
"""Which words: Captum's integrated gradients and PyTorch's LIME forwards against `wherefore explain`.

    python explain.py --binary ../../target/release/wherefore --model ../../target/models/minilm-classifier \
        --data ../../target/data/bench.jsonl --threads 2 --out ../results/explain.jsonl

Rivals get what favours them: the model is loaded and warm, no gradient of a weight is computed, texts go one by one and
so unpadded, the batch size and the attention are the best of a few tried first, and of LIME only the forwards are
timed. Ours is timed as the whole process: start, loading the model, tokenizing, computing, regressing, writing.
"""

import argparse
import itertools
import json
import os
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

INTERNAL_BATCHES = (10, 25, 50)  # path points in one pass of Captum's
FORWARD_BATCHES = (32, 64, 128)
ATTENTIONS = ("sdpa", "eager")
SCANNED_TEXTS = 3  # spread over the lengths, to choose among those
SCANNED_SAMPLES = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, help="our release binary; without it only the rivals are timed")
    parser.add_argument(
        "--model", type=Path, required=True, help="a BERT classifier (scripts/make_minilm_classifier.py)"
    )
    parser.add_argument("--data", type=Path, required=True, help="JSONL with `text` (scripts/make_bench_texts.py)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=50, help="texts for the gradients, from the front of the data")
    parser.add_argument("--lime-limit", type=int, default=8, help="texts for LIME")
    parser.add_argument("--steps", type=int, default=50, help="path points a text")
    parser.add_argument("--lime-samples", type=int, default=1000, help="masked variants a text")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)  # read when the libraries below are loaded
    os.environ["HF_HUB_OFFLINE"] = "1"
    run(arguments)


def run(arguments):
    from timing import Results

    with arguments.data.open(encoding="utf-8") as file:
        lines = list(itertools.islice(file, max(arguments.limit, arguments.lime_limit)))
    results = Results(arguments.out, model=arguments.model.name, threads=arguments.threads)
    rival = Rival(arguments)
    integrated_gradients(results, arguments, rival, lines[: arguments.limit])
    lime(results, arguments, rival, lines[: arguments.lime_limit])
    results.ratios()


def integrated_gradients(results, arguments, rival, lines):
    """`steps` gradients a text, from padding to the text, at the word embeddings."""
    texts, about = described(rival, lines)
    subject = f"IG, {arguments.steps} steps"
    job = {"unit": "gradients", "units": len(texts) * arguments.steps, **about}
    attention, batch = rival.best(INTERNAL_BATCHES, texts, lambda text, b: rival.explain(text, arguments.steps, b))
    work = lambda: [rival.explain(text, arguments.steps, batch) for text in texts]
    theirs = work()
    case = f"{attention}, internal batch {batch} / {subject}"
    results.add("captum", case, statistics=timed(work, arguments), **job)
    options = ["--method", "integrated-gradients", "--steps", str(arguments.steps), "--baseline", "pad"]
    time_ours(results, arguments, lines, subject, options, job, theirs)


def lime(results, arguments, rival, lines):
    """`lime_samples` forwards a text, each with another half of its tokens masked."""
    texts, about = described(rival, lines)
    subject = f"LIME, {arguments.lime_samples} samples"
    job = {"unit": "forwards", "units": len(texts) * arguments.lime_samples, **about}
    scanned = min(SCANNED_SAMPLES, arguments.lime_samples)
    attention, batch = rival.best(FORWARD_BATCHES, texts, lambda text, b: rival.forwards(text, scanned, b))
    work = lambda: [rival.forwards(text, arguments.lime_samples, batch) for text in texts]
    case = f"{attention}, batch {batch}, forwards alone / {subject}"
    results.add("torch", case, statistics=timed(work, arguments), **job)
    options = ["--method", "lime", "--samples", str(arguments.lime_samples)]
    time_ours(results, arguments, lines, subject, options, job, None)


def described(rival, lines):
    texts = [json.loads(line)["text"] for line in lines]
    tokens = sum(len(rival.encode(text)[0]) for text in texts)
    print(f"{len(texts)} texts, {tokens} tokens (mean {tokens / len(texts):.0f})")
    return texts, {"texts": len(texts), "tokens": tokens}


def timed(work, arguments):
    from timing import measure

    return measure(work, arguments.samples)


def time_ours(results, arguments, lines, subject, options, job, theirs):
    if not arguments.binary:
        return
    with tempfile.TemporaryDirectory() as scratch:
        data, out = Path(scratch, "texts.jsonl"), Path(scratch, "explained.jsonl")
        data.write_text("".join(lines), encoding="utf-8")
        command = [arguments.binary, "explain", "--model", arguments.model, "--data", data, "--out", out, *options]
        command += ["--threads", arguments.threads, "--device", "cpu", "--quiet"]
        work = lambda: subprocess.run([str(x) for x in command], check=True)
        work()
        if theirs is not None:
            ours = [json.loads(line)["scores"] for line in out.read_text(encoding="utf-8").splitlines()]
            print(f"largest difference of our scores: {largest_difference(ours, theirs):.1e} of a text's greatest")
        results.add("wherefore", f"whole process / {subject}", statistics=timed(work, arguments), **job)


def largest_difference(ours, theirs):
    """Over the texts, each relative to its greatest score."""
    assert [len(x) for x in ours] == [len(x) for x in theirs], "the tokens are not the same"
    relative = lambda a, b: max(abs(x - y) for x, y in zip(a, b)) / max(abs(y) for y in b)
    return max(relative(a, b) for a, b in zip(ours, theirs))


def spread(items, count):
    """`count` of them at most, from the middles of as many equal parts."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


class Rival:
    """transformers' model, explained by Captum or run on masked texts; one text at a time."""

    def __init__(self, arguments):
        import torch
        from captum.attr import LayerIntegratedGradients
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

        logging.set_verbosity_error()  # padding that is to be attended to is no mistake here
        warnings.simplefilter("ignore")
        self.torch = torch
        torch.set_num_threads(arguments.threads)
        self.tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        self.model = AutoModelForSequenceClassification.from_pretrained(arguments.model, dtype=torch.float32).eval()
        self.model.requires_grad_(False)
        self.method = LayerIntegratedGradients(self.probabilities, self.model.base_model.embeddings.word_embeddings)

    def best(self, batches, texts, work):
        """The fastest attention and batch size for a few of the texts; the model is left with that attention."""
        scanned = spread(sorted(texts, key=len), SCANNED_TEXTS)
        seconds = {}
        for attention in ATTENTIONS:
            self.model.set_attn_implementation(attention)
            work(scanned[0], batches[0])
            for batch in batches:
                start = time.perf_counter()
                for text in scanned:
                    work(text, batch)
                seconds[attention, batch] = time.perf_counter() - start
        for (attention, batch), taken in seconds.items():
            print(f"  {attention}, batch {batch}: {taken / len(scanned):.2f} s a text")
        best = min(seconds, key=seconds.get)
        self.model.set_attn_implementation(best[0])
        return best

    def encode(self, text):
        """(ids [T], where a special token stands [T])"""
        encoding = self.tokenizer(text, truncation=True, padding=False, return_special_tokens_mask=True)
        return tuple(self.torch.tensor(encoding[name]) for name in ("input_ids", "special_tokens_mask"))

    def probabilities(self, ids):
        return self.model(input_ids=ids).logits.softmax(1)

    def explain(self, text, steps, batch):
        """Scores [T] of the predicted class."""
        ids, special = self.encode(text)
        baseline = self.torch.where(special.bool(), ids, self.tokenizer.pad_token_id)
        with self.torch.inference_mode():
            target = self.probabilities(ids[None])[0].argmax()
        scores = self.method.attribute(
            ids[None], baseline[None], target=int(target), n_steps=steps, internal_batch_size=batch
        )
        return scores[0].sum(1).tolist()

    def forwards(self, text, samples, batch):
        """Probabilities [samples, K], every token kept with probability one half."""
        ids, special = self.encode(text)
        outputs = []
        with self.torch.inference_mode():
            for start in range(0, samples, batch):
                kept = self.torch.rand(min(batch, samples - start), len(ids)) < 0.5
                masked = self.torch.where(kept | special.bool(), ids, self.tokenizer.mask_token_id)
                outputs.append(self.probabilities(masked))
        return self.torch.cat(outputs)


if __name__ == "__main__":
    main()
