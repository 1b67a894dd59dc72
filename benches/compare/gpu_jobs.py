#!/usr/bin/env python3
"""Whole jobs on one GPU: PyTorch and Captum against `wherefore --device cuda`, on BERT-base with random weights.

    python gpu_jobs.py --binary ../../target/release/wherefore --tokenizer ../../target/models/minilm \
        --data ../../target/data/bench.jsonl --out ../results/gpu.jsonl

Rivals get what favours them: 16 bits, the model loaded and warm, texts tokenized and on the device beforehand, sorted by
length so that padding is least, the batch size the best of a few. Ours is what `wherefore bench` reports (packed
texts, from tokens in memory to results in memory), and for `train` and `index` the whole process.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

BATCHES = (64, 256, 1024)
STEPS = 50  # path points, all of a text's in one pass
REPEATS = 10  # of ours in one epoch, so that steps take longer than starting and saving vary
TOGETHER = (1, 4, 16)  # texts that rivals' explainers take at a time
EXPLAINED = 32  # texts, as many as `wherefore bench` takes
STREAMED = 1 << 19  # texts beside which a start and an end weigh nothing
JOBS = ("launches", "forward", "explain", "search", "train", "index", "stream")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True, help="our release binary")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a BERT tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with `text` (scripts/make_bench_texts.py)")
    parser.add_argument("--limit", type=int, default=4096, help="texts, from the front of the data")
    parser.add_argument("--search-records", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each case")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        Jobs(arguments, Path(scratch)).run()


class Jobs:
    def __init__(self, arguments, scratch):
        import torch
        from timing import Results

        self.torch, self.arguments, self.scratch = torch, arguments, scratch
        self.results = Results(arguments.out, device=torch.cuda.get_device_name(), torch=torch.__version__)
        self.data = scratch / "texts.jsonl"
        self.model, self.rival, self.ids = make(arguments, scratch, self.data)

    def run(self):
        for job in self.arguments.jobs:
            getattr(self, job)()
        self.results.ratios()

    def bench(self, precision, *options):
        """The rows of `wherefore bench`."""
        command = [self.arguments.binary, "bench", "--device", "cuda", "--precision", precision, "--format", "json"]
        command += ["--quiet", "--samples", self.arguments.samples, *options]
        output = subprocess.run([str(x) for x in command], check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in output.splitlines()]

    def ours(self, case, precision, unit, units, *options):
        job = options[options.index("--job") + 1]
        for row in self.bench(precision, *options):
            if row["job"] == job:
                about = {"share_of_ceiling": row["fraction"], "precision": precision}
                if row["case"].startswith(("feature", "grad")):
                    case = row["case"].split(", ")[-1] + " / " + row["case"].split(", ")[-1]
                    units = int(row["case"].split(", ")[-1].split()[0])
                self.results.add("wherefore", case, units, unit, {"seconds": row["seconds"]}, **about)

    def median(self, work):
        """Median seconds of a few calls after one to warm up, the device's work included."""
        taken = []
        for _ in range(self.arguments.samples + 1):
            self.torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            self.torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
        return {"seconds": sorted(taken[1:])[len(taken[1:]) // 2]}

    def best(self, tool, case, unit, units, choices, work):
        """The fastest of several sizes."""
        taken = {size: self.median(lambda: work(size)) for size in choices}
        size = min(taken, key=lambda size: taken[size]["seconds"])
        self.results.add(tool, f"by {size} / {case}", units, unit, taken[size])

    def padded(self, size):
        """(ids, attention mask) of the texts sorted by length, `size` at a time."""
        for start in range(0, len(self.ids), size):
            yield pad(self.torch, self.ids[start : start + size])

    def launches(self):
        """Kernels begun before the last has ended against one after another: how long whole processes take, and that what they write is the same."""
        store, explained = self.scratch / "launched", self.scratch / "explained.jsonl"
        index = ("index", "--model", self.model, "--data", self.data, "--store", store)
        explain = ("explain", "--model", self.model, "--data", self.data, "--method", "integrated-gradients", "--out", explained)
        search = ("search", "--store", store, "--data", self.data, "--rule", "grad-cos", "--top-k", 10, "--out", self.scratch / "found.jsonl")
        texts = self.data.read_text(encoding="utf-8").splitlines(keepends=True)
        for name, command, result in (("index", index, store / "manifest.json"), ("explain", explain, explained), ("search", search, search[-1])):
            written = {}
            # Explaining takes hundreds of passes a text.
            chosen = texts[:: max(1, len(texts) // 256)] if name == "explain" else texts
            self.data.write_text("".join(chosen), encoding="utf-8")
            for way in ("early", "serial"):
                environment = os.environ | ({"WHEREFORE_LAUNCHES": "serial"} if way == "serial" else {})
                taken = []
                for _ in range(self.arguments.samples):
                    if name == "index":
                        shutil.rmtree(store, ignore_errors=True)
                    start = time.perf_counter()
                    subprocess.run([str(x) for x in (self.arguments.binary, *command, "--device", "cuda", "--quiet")], check=True, env=environment)
                    taken.append(time.perf_counter() - start)
                written[way] = result.read_bytes()
                self.results.add("wherefore", f"{way} / launches, {name}", len(chosen), "texts", {"seconds": min(taken)})
            if written["early"] != written["serial"]:
                raise SystemExit(f"{name}: kernels that are begun early write something else than one after another")
        self.data.write_text("".join(texts), encoding="utf-8")

    def forward(self):
        torch, tokens = self.torch, sum(map(len, self.ids))
        half = self.rival.half().cuda().eval()
        batches = {size: list(self.padded(size)) for size in BATCHES}

        def work(size):
            with torch.inference_mode():
                for ids, mask in batches[size]:
                    half(input_ids=ids, attention_mask=mask).logits.float().cpu()

        self.best("torch", "forward, f16", "tokens", tokens, BATCHES, work)
        for precision in ("f16", "bf16", "bf16x3", "f32"):
            case = f"{precision} / forward, f16"
            self.ours(case, precision, "tokens", tokens, "--job", "forward", "--model", self.model, "--data", self.data)

    def explain(self):
        """Integrated gradients by Captum, and by hand without it: a few texts of like length together, all their steps in one pass."""
        torch = self.torch
        half = self.rival.half().cuda().eval().requires_grad_(False)
        chosen = self.ids[:: -(-len(self.ids) // EXPLAINED)]
        table = half.bert.embeddings.word_embeddings
        units, case = len(chosen) * STEPS, f"integrated gradients, {STEPS} steps, f16"
        batches = {size: [pad(torch, chosen[start : start + size]) for start in range(0, len(chosen), size)] for size in TOGETHER}
        alphas = (torch.arange(STEPS, device="cuda", dtype=torch.float16) + 0.5) / STEPS

        def by_hand(size):
            """The same sum with nothing but what it needs."""
            for ids, mask in batches[size]:
                end = table(ids)
                start = table(torch.zeros_like(ids))
                # [steps, texts, length, width], then every point of every text as a text of its own.
                points = (start + alphas[:, None, None, None] * (end - start)).flatten(0, 1).requires_grad_()
                logits = half(inputs_embeds=points, attention_mask=mask.repeat(STEPS, 1)).logits[:, 0].sum()
                total = torch.autograd.grad(logits, points)[0].float().unflatten(0, (STEPS, -1)).sum(0)
                (total * (end - start) / STEPS).sum(-1).cpu()

        self.best("torch", case, "gradients", units, TOGETHER, by_hand)
        try:
            from captum.attr import LayerIntegratedGradients
        except ImportError:
            print("no captum: left out")
        else:
            method = LayerIntegratedGradients(lambda ids, mask: half(input_ids=ids, attention_mask=mask).logits, table)

            def by_captum(size):
                for ids, mask in batches[size]:
                    options = {"target": 0, "n_steps": STEPS, "internal_batch_size": size * STEPS}
                    method.attribute(ids, torch.zeros_like(ids), additional_forward_args=(mask,), **options).sum(-1).cpu()

            self.best("captum", case, "gradients", units, TOGETHER, by_captum)
        for precision in ("f16", "bf16x3", "f32"):
            options = ("--job", "explain", "--model", self.model, "--data", self.data)
            self.ours(f"{precision} / {case}", precision, "gradients", units, *options)

    def search(self):
        """Exact top 10 at both ends: the store is on the device."""
        torch, count, width = self.torch, self.arguments.search_records, 768
        for dtype in (torch.float32, torch.float16):
            rows = torch.rand(count, width, device="cuda", dtype=dtype) - 0.5
            for queries in (1, 64, 1024):
                asked = (torch.rand(queries, width, device="cuda", dtype=dtype) - 0.5)

                def work():
                    for some in asked.split(256):  # scores of all are 4 GB a thousand
                        scores = some @ rows.T
                        scores.topk(10)[0].cpu(), scores.topk(10, largest=False)[0].cpu()

                case = f"{str(dtype).removeprefix('torch.')}, matmul and two topk / {queries} queries"
                self.results.add("torch", case, queries, "queries", self.median(work))
            del rows
        options = ("--job", "search", "--records", count, "--width", width, "--rule", "feature-dot")
        # The precision is that of bounds: rows and scores are f32.
        self.ours("", "f16", "queries", 1, *options)

    def train(self):
        """An epoch in batches of 32 with dropout: PyTorch by autocast, ours as the whole process less one with a single step."""
        torch, texts = self.torch, 2048
        model = self.rival.float().cuda().train().requires_grad_(True)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        batches = [pad(torch, self.ids[start : start + 32]) for start in range(0, texts, 32)]
        labels = torch.arange(32, device="cuda") % 2
        tokens = sum(map(len, self.ids[:texts]))

        def epoch():
            for ids, mask in batches:
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)

        self.results.add("torch", "autocast bf16, sorted by length / train", tokens, "tokens", self.median(epoch))
        command = ["train", "--model", self.model, "--batch-size", 32, "--device", "cuda", "--precision", "bf16"]
        command += ["--learning-rate", "1e-5", "--overwrite", "--out", self.scratch / "trained"]
        lines = self.data.read_text(encoding="utf-8").splitlines(keepends=True)[:texts]
        taken = []
        for name, some in {"one": lines[:32], "all": lines * REPEATS}.items():
            data = self.scratch / f"train-{name}.jsonl"
            data.write_text("".join(some), encoding="utf-8")
            taken.append(self.process(*command, "--data", data, "--epochs", 1))
        units = REPEATS * tokens
        self.results.add("wherefore", f"bf16, whole process, {REPEATS * texts} texts / train", units, "tokens", {"seconds": taken[1]})
        steps = {"seconds": taken[1] - taken[0], "process_with_one_step": taken[0]}
        self.results.add("wherefore", "bf16, steps alone / train", units - sum(map(len, self.ids[:32])), "tokens", steps)

    def index(self):
        """Whole processes, with nothing beside them."""
        tokens = sum(map(len, self.ids))
        command = ["index", "--model", self.model, "--data", self.data, "--store", self.scratch / "store"]
        projected = ("--gradients", "projected", "--projection-dim", 1024)
        cases = {
            "factors": (),
            "gradients, 1,024 numbers": projected,
            "the same, sparse": (*projected, "--projection", "sjlt"),
            "the same of all parameters": (*projected, "--parameters", "all"),
        }
        for name, options in cases.items():
            seconds = self.process(*command, *options, "--device", "cuda")
            self.results.add("wherefore", f"{name}, whole process / index", tokens, "tokens", {"seconds": seconds})

    def stream(self):
        """How much of a long index the model runs: texts of the words, and the lengths, of those there are."""
        draw = random.Random(0)
        texts = [json.loads(line)["text"].split() for line in self.data.read_text(encoding="utf-8").splitlines()]
        words = [word for text in texts for word in text]
        long = self.scratch / "long.jsonl"
        with long.open("w", encoding="utf-8") as file:
            for i in range(STREAMED):
                text = " ".join(draw.choices(words, k=len(texts[i % len(texts)])))
                file.write(json.dumps({"text": text, "label": i % 2}) + "\n")
        store = self.scratch / "long-store"
        self.process("index", "--model", self.model, "--data", long, "--store", store, "--device", "cuda", times=1)
        summary = json.loads((self.scratch / "long-store.run.json").read_text(encoding="utf-8"))["summary"]
        busy = summary["stages"]["running"] / summary["seconds"]
        case = f"factors, {STREAMED} texts / stream"
        self.results.add("wherefore", case, summary["tokens"], "tokens", {"seconds": summary["seconds"]}, busy=busy)

    def process(self, *options, times=2):
        """Seconds of the fastest of some runs of the binary."""
        taken = []
        for _ in range(times):
            shutil.rmtree(self.scratch / "store", ignore_errors=True)
            start = time.perf_counter()
            subprocess.run([str(x) for x in (self.arguments.binary, *options, "--quiet")], check=True)
            taken.append(time.perf_counter() - start)
        return min(taken)


def make(arguments, scratch, data):
    """BERT-base with random weights in a folder, and the texts: written for ours in the order of `ids`, which is by length."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer, model_max_length=512)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=2))
    folder = scratch / "bert-base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with arguments.data.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, arguments.limit)]
    ids = tokenizer(texts, truncation=True)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    lines = (json.dumps({"text": texts[i], "label": i % 2}) + "\n" for i in order)
    data.write_text("".join(lines), encoding="utf-8")
    ids = [ids[i] for i in order]
    print(f"{len(ids)} texts, {sum(map(len, ids))} tokens", flush=True)
    return folder, model, ids


def pad(torch, ids):
    longest = max(map(len, ids))
    rows = torch.tensor([list(one) + [0] * (longest - len(one)) for one in ids], device="cuda")
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids], device="cuda")
    return rows, mask


if __name__ == "__main__":
    main()
