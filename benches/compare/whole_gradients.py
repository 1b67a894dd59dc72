#!/usr/bin/env python3
"""Whole-network attribution beside traker (TRAK) and kronfluence (EK-FAC): seconds, and how far the rankings agree.

    python whole_gradients.py --binary ../../target/release/wherefore --model ../../tests/golden/bert-cls2 --data labelled.jsonl --check
    python whole_gradients.py --binary ../../target/release/wherefore --model ../../target/models/minilm-classifier \
        --data ../../target/data/bench.jsonl --records 512 --queries 8 --out ../results/whole_gradients.jsonl

All three take the linear layers' gradients of the same model for the labels that it predicts, in f32, on the same threads. traker's CPU projector
holds its matrix; ours draws its own, so their rankings agree only as far as two projections do. With --check nothing is projected anywhere
(tiny models only), and rankings must agree: Spearman 0.99 with both (kronfluence's factors of the last step are of all tokens, ours of those
that are read: that comparison is printed alone).
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help='JSON lines with "text"; the last --queries of them ask')
    parser.add_argument("--records", type=int, default=256)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="records in a rival's batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="project nothing, and demand agreement")
    parser.add_argument("--skip", default="", help="rivals to leave out, comma-separated")
    parser.add_argument("--out", type=Path, help="a JSON line is appended for each job")
    arguments = parser.parse_args()
    lines = arguments.data.read_text(encoding="utf-8").splitlines()[: arguments.records + arguments.queries]
    texts = [json.loads(line)["text"] for line in lines]
    run(arguments, texts[: -arguments.queries], texts[-arguments.queries :])


def run(arguments, training, asked):
    from timing import Results

    results = Results(arguments.out, threads=arguments.threads, model=arguments.model.name, dimension=arguments.dimension)
    case = f"{len(training)} records x {len(asked)} queries"
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments, Path(folder), training, asked)
        seconds, scores = ours.run()
        for job, taken in seconds.items():
            results.add("wherefore", f"{case} / {job}", len(training), "records", {"seconds": taken})
    rivals = {"traker": traker, "kronfluence": kronfluence}
    for name in [name for name in rivals if name not in arguments.skip.split(",")]:
        taken, theirs = rivals[name](arguments, training, asked)
        for job, of_job in taken.items():
            results.add(name, f"{case} / {job}", len(training), "records", {"seconds": of_job})
        agreement = [spearman(a, b) for a, b in zip(scores[name], theirs)]
        print(f"Spearman with {name}: mean {sum(agreement) / len(agreement):.4f}, least {min(agreement):.4f}")
        if arguments.check and name == "traker" and min(agreement) < 0.99:
            raise SystemExit(f"{name}: rankings disagree")
    results.ratios()


class Ours:
    def __init__(self, arguments, folder, training, asked):
        self.arguments, self.folder = arguments, folder
        for name, texts in (("training", training), ("asked", asked)):
            rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")

    def command(self, line):
        common = f" --max-length {self.arguments.max_length} --threads {self.arguments.threads} --device cpu --quiet"
        start = time.perf_counter()
        words = [str(self.arguments.binary.resolve()), *(line + common).split()]
        done = subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, text=True, check=True)
        return time.perf_counter() - start, done.stdout

    def ranking(self, rule):
        line = f"search --store store --data asked.jsonl --rule {rule} --top-k all --format jsonl"
        seconds, out = self.command(line)
        scores = []
        for row in map(json.loads, out.splitlines()):
            by_index = {hit["index"]: hit["score"] for hit in row["proponents"]}
            scores.append([by_index[i] for i in sorted(by_index)])
        return seconds, scores

    def run(self):
        projection = "--projection identity" if self.arguments.check else f"--projection-dim {self.arguments.dimension}"
        model = self.arguments.model.resolve()
        data = f"--model {model} --data training.jsonl --store store"
        index, _ = self.command(f"index {data} --gradients projected {projection}")
        fit, _ = self.command("curvature --store store --fisher data")
        # As both rivals damp.
        trak, of_trak = self.ranking("trak --lambda 0.1")
        influence, of_influence = self.ranking("influence --hessian ekfac")
        seconds = {"gradients": index, "trak": trak, "factors": fit, "influence": influence}
        return seconds, {"traker": of_trak, "kronfluence": of_influence}


def prepared(arguments, texts):
    """The model, and texts as batches of tensors, padded to the longest of all."""
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(arguments.model, attn_implementation="eager").eval()
    rows = tokenizer(texts, truncation=True, max_length=arguments.max_length, padding=True, return_tensors="pt")
    rows.setdefault("token_type_ids", torch.zeros_like(rows["input_ids"]))
    with torch.no_grad():
        rows["labels"] = torch.cat([model(**{k: v[i : i + 16] for k, v in rows.items()}).logits for i in range(0, len(texts), 16)]).argmax(-1)
    return model, rows


def linear_parameters(model):
    import torch

    layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return [name for name, _ in model.named_parameters() if name.rpartition(".")[0] in layers]


def traker(arguments, training, asked):
    import torch
    from trak import TRAKer
    from trak.projectors import BasicProjector, NoOpProjector, ProjectionType

    class Logits(torch.nn.Module):
        def __init__(self, whole):
            super().__init__()
            self.whole = whole

        def forward(self, **inputs):
            return self.whole(**inputs).logits

    model, rows = prepared(arguments, training + asked)
    model = Logits(model).eval()
    wanted = linear_parameters(model)
    size = sum(parameter.numel() for name, parameter in model.named_parameters() if name in wanted)
    # What transformers asks of a mask [B, T] cannot be asked under vmap; it takes what is added to attention's logits as it is.
    rows["added"] = (1.0 - rows["attention_mask"][:, None, None, :]) * torch.finfo(torch.float32).min
    order = ("input_ids", "token_type_ids", "added", "labels")

    def batches(first, last):
        for start in range(first, last, arguments.batch):
            yield [rows[name][start : min(start + arguments.batch, last)] for name in order]

    if arguments.check:
        projector, kept = NoOpProjector(size, size, device="cpu"), size
    else:
        kept = arguments.dimension
        # Of one block alone the matrix is gone when it is asked for scores.
        projector = BasicProjector(size, kept, 0, ProjectionType.rademacher, "cpu", block_size=min(256, kept // 2))
    n = len(training)
    with tempfile.TemporaryDirectory() as folder:
        keep = dict(save_dir=folder, device="cpu", projector=projector, proj_dim=kept, grad_wrt=wanted, use_half_precision=False)
        tracer = TRAKer(model, "text_classification", n, lambda_reg=0.0, logging_level=40, **keep)
        start = time.perf_counter()
        tracer.load_checkpoint(model.state_dict(), model_id=0)
        for batch in batches(0, n):
            tracer.featurize(batch=batch, num_samples=len(batch[0]))
        featurized = time.perf_counter()
        gradients = torch.as_tensor(tracer.saver.current_store["grads"])
        # As ours: a tenth of the Gram matrix's mean diagonal.
        tracer.score_computer.lambda_reg = 0.1 * float((gradients * gradients).sum()) / kept
        tracer.finalize_features()
        tracer.start_scoring_checkpoint("a", model.state_dict(), 0, len(asked))
        for batch in batches(n, n + len(asked)):
            tracer.score(batch=batch, num_samples=len(batch[0]))
        scores = tracer.finalize_scores("a")
        done = time.perf_counter()
    return {"gradients": featurized - start, "trak": done - featurized}, scores.T.tolist()


def kronfluence(arguments, training, asked):
    import logging

    import kronfluence
    import torch.nn.functional as F
    from kronfluence.arguments import FactorArguments, ScoreArguments

    model, rows = prepared(arguments, training + asked)

    class Task(kronfluence.task.Task):
        def compute_train_loss(self, batch, model, sample=False):
            labels = batch["labels"]
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_attention_mask(self, batch):
            return batch["attention_mask"]

    logging.disable(logging.WARNING)
    items = [{name: rows[name][i] for name in rows} for i in range(len(training) + len(asked))]
    model = kronfluence.prepare_model(model, Task())
    n = len(training)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = kronfluence.Analyzer("a", model, Task(), cpu=True, output_dir=folder, disable_tqdm=True)
        start = time.perf_counter()
        factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
        analyzer.fit_all_factors("f", items[:n], per_device_batch_size=arguments.batch, factor_args=factors)
        fitted = time.perf_counter()
        sizes = dict(per_device_query_batch_size=len(asked), per_device_train_batch_size=arguments.batch)
        analyzer.compute_pairwise_scores("s", "f", items[n:], items[:n], score_args=ScoreArguments(damping_factor=None), **sizes)
        scores = analyzer.load_pairwise_scores("s")["all_modules"]
        done = time.perf_counter()
    return {"factors": fitted - start, "influence": done - fitted}, scores.tolist()


def spearman(a, b):
    import numpy

    ranks = [numpy.argsort(numpy.argsort(x)) for x in (a, b)]
    return float(numpy.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    main()
