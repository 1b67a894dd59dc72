#!/usr/bin/env python3
"""Texts of mixed length through the encoder: PyTorch and ONNX Runtime against `wherefore index`.

    python index.py --binary ../../target/release/wherefore --model ../../target/models/minilm \
        --data ../../target/data/bench.jsonl --threads 2 --out ../results/index.jsonl

Rivals get what favours them: the model is loaded and warm, nothing is written to disk, and one variant sorts all texts
by length first. Ours is timed as the whole process: start, loading the model, reading, tokenizing, computing, writing
the store. Tokenization is in everybody's time.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, help="our release binary; without it only the rivals are timed")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="JSONL with `text` (scripts/make_bench_texts.py)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=2000, help="texts to take from the front of the data")
    parser.add_argument("--batch", type=int, default=32, help="the rivals' batch size")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--rivals", default="torch,onnxruntime", help="comma-separated; may be empty")
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    arguments = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)  # read when the libraries below are loaded
    os.environ["HF_HUB_OFFLINE"] = "1"
    run(arguments)


def run(arguments):
    from timing import Results

    with arguments.data.open(encoding="utf-8") as file:
        lines = list(itertools.islice(file, arguments.limit))
    texts = [json.loads(line)["text"] for line in lines]
    encoder = Encoder(arguments)
    tokens = sum(len(ids) for ids in encoder.tokenizer(texts, **encoder.truncation).input_ids)
    print(f"{len(texts)} texts, {tokens} tokens (mean {tokens / len(texts):.0f}), {arguments.threads} threads")
    about = {"model": arguments.model.name, "texts": len(texts), "tokens": tokens, "threads": arguments.threads}
    results = Results(arguments.out, **about)
    vectors = None
    for rival in filter(None, arguments.rivals.split(",")):
        previous, vectors = vectors, time_rival(results, arguments, encoder, rival, texts)
        if previous is not None:
            print(f"largest difference between the rivals: {largest_difference(previous, vectors):.1e}")
    if arguments.binary:
        time_ours(results, arguments, lines, vectors)
    results.ratios()


def time_rival(results, arguments, encoder, rival, texts):
    from timing import measure

    forward = {"torch": encoder.torch_forward, "onnxruntime": encoder.onnxruntime_forward}[rival]()
    for order, indexes in (("file order", range(len(texts))), ("sorted by length", encoder.by_length(texts))):
        work = lambda indexes=indexes: encoder.encode(forward, texts, indexes)
        vectors = work()
        case = f"batch {arguments.batch}, {order} / index"
        results.add(rival, case, len(texts), "texts", measure(work, arguments.samples, warm_up=0))
    return vectors


def time_ours(results, arguments, lines, rivals_vectors):
    from timing import measure

    with tempfile.TemporaryDirectory() as scratch:
        data, store = Path(scratch, "texts.jsonl"), Path(scratch, "store")
        data.write_text("".join(lines), encoding="utf-8")
        work = lambda: wherefore_index(arguments, data, store)
        work()
        features = stored_features(store)
        # A rival's vectors are logits where the model has a head; those are not what we store.
        if rivals_vectors is not None and features.shape[1] == len(rivals_vectors[0]):
            print(f"largest difference of our features: {largest_difference(features, rivals_vectors):.1e}")
        results.add("wherefore", "whole process / index", len(lines), "texts", measure(work, arguments.samples))


class Encoder:
    """The Hugging Face side: texts to pooled vectors (headless models) or logits."""

    def __init__(self, arguments):
        import torch
        from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

        self.torch, self.batch, self.folder = torch, arguments.batch, arguments.model
        torch.set_num_threads(arguments.threads)
        self.threads = arguments.threads
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        config = json.loads((self.folder / "config.json").read_text())
        self.headless = not config["architectures"][0].endswith("ForSequenceClassification")
        reader = AutoModel if self.headless else AutoModelForSequenceClassification
        self.model = reader.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.truncation = {"truncation": True, "max_length": self.max_length(config)}

    def max_length(self, config):
        """As the engine chooses it: sentence-transformers' limit, or the tokenizer's, within the positions."""
        settings = self.folder / "sentence_bert_config.json"
        limit = json.loads(settings.read_text()).get("max_seq_length") if settings.exists() else None
        return min(limit or self.tokenizer.model_max_length, config["max_position_embeddings"])

    def by_length(self, texts):
        """Longest first, as sentence-transformers sorts: by characters, since it sorts before it tokenizes."""
        return sorted(range(len(texts)), key=lambda i: -len(texts[i]))

    def encode(self, forward, texts, indexes):
        """One vector a text, in the order of `texts`."""
        indexes = list(indexes)
        out = [None] * len(texts)
        for start in range(0, len(indexes), self.batch):
            chosen = indexes[start : start + self.batch]
            inputs = self.tokenizer([texts[i] for i in chosen], padding=True, return_tensors="np", **self.truncation)
            for i, vector in zip(chosen, forward(dict(inputs))):
                out[i] = vector
        return out

    def pooled(self, hidden, mask):
        weights = mask[..., None]
        vectors = (hidden * weights).sum(1) / weights.sum(1)
        return vectors / (vectors**2).sum(1, keepdims=True) ** 0.5

    def torch_forward(self):
        def forward(inputs):
            with self.torch.inference_mode():
                out = self.model(**{name: self.torch.from_numpy(x) for name, x in inputs.items()})
            return (
                self.pooled(out.last_hidden_state.numpy(), inputs["attention_mask"])
                if self.headless
                else out.logits.numpy()
            )

        return forward

    def onnxruntime_forward(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        session = onnxruntime.InferenceSession(self.export(), options, providers=["CPUExecutionProvider"])
        names = {x.name for x in session.get_inputs()}

        def forward(inputs):
            (out,) = session.run(None, {name: x for name, x in inputs.items() if name in names})
            return self.pooled(out, inputs["attention_mask"]) if self.headless else out

        return forward

    def export(self):
        """model.onnx, written once beside the model."""
        path = self.folder / "model.onnx"
        if path.exists():
            return path
        torch, outer = self.torch, self

        class Bare(torch.nn.Module):
            """The exporter wants plain tensors in and out."""

            def __init__(self):
                super().__init__()
                self.model = outer.model

            def forward(self, input_ids, attention_mask, token_type_ids):
                out = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
                return out.last_hidden_state if outer.headless else out.logits

        example = torch.ones(2, 16, dtype=torch.long)
        names = ["input_ids", "attention_mask", "token_type_ids"]
        axes = {name: {0: "batch", 1: "length"} for name in names}
        # The attention that the exporter can trace; ONNX Runtime fuses it into its own.
        self.model.set_attn_implementation("eager")
        warnings.simplefilter("ignore")  # this exporter is the older one, which needs no further package
        torch.onnx.export(
            Bare(),
            (example, example, torch.zeros_like(example)),
            path,
            input_names=names,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        self.model.set_attn_implementation("sdpa")
        return path


def wherefore_index(arguments, data, store):
    shutil.rmtree(store, ignore_errors=True)
    command = [arguments.binary, "index", "--model", arguments.model, "--data", data, "--store", store]
    subprocess.run([*map(str, command), "--threads", str(arguments.threads), "--device", "cpu", "--quiet"], check=True)


def stored_features(store):
    import numpy
    from safetensors.numpy import load_file

    return numpy.concatenate([load_file(shard)["features"] for shard in sorted(store.rglob("*.safetensors"))])


def largest_difference(ours, theirs):
    return max(float(abs(a - b).max()) for a, b in zip(ours, theirs))


if __name__ == "__main__":
    main()
