"""Writes CASE/curvature.json: influence over every linear layer of a tiny model by K-FAC and EK-FAC, in float64, and what kronfluence says.

    python curvature.py [CASE...]

Run it after generate.py. Everything is computed twice: from the formulas, over each record's own gradients, and by kronfluence
(https://github.com/pomonam/kronfluence) with the empirical Fisher and its heuristic damping. README.md describes the file.
"""

import sys

import torch
import torch.nn.functional as F

from generate import HERE, Reference, write_lines
from texts import RECORDS
from tiny_models import CASES

NAMES = ["bert-cls2", "electra-cls3"]
# Short and whole; the last four ask.
TEXTS = [RECORDS[i] for i in (0, 1, 2, 4, 5, 6, 7, 8, 12)]
TEXTS += [("the food was bad", None), ("not good, not bad", None), ("这个房间不好", None), ("I loved it", None)]
TEXTS += [("the staff was good to us", None), ("服务很差", None), ("bad", None)]
TRAIN = 12
DAMPING = 0.1


class Recorder:
    """What each linear layer reads and the gradient of what it puts out, of the last pass."""

    def __init__(self, model):
        self.layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        self.read, self.slopes = {}, {}
        for name, layer in self.layers.items():
            layer.requires_grad_(True)
            layer.register_forward_hook(self.keep(name))

    def keep(self, name):
        def hook(_, inputs, output):
            self.read[name] = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            if output.requires_grad:
                output.register_hook(lambda d: self.slopes.__setitem__(name, d.detach().reshape(-1, d.shape[-1])))

        return hook

    def factors(self):
        one = lambda x: torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        return {name: (one(self.read[name]), self.slopes[name]) for name in self.layers}


def last_step(model, names):
    """Layers of the encoder's last step whose outputs are read for first tokens alone."""
    number = model.config.num_hidden_layers - 1
    inner = [n for n in names if f"layer.{number}." in n]
    return [n for n in inner if not n.endswith((".query", ".key", ".value"))]


def run(reference, recorder, text, seed):
    encoding = reference.encode(*text)
    inputs = {"input_ids": torch.tensor([encoding.ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if reference.case.takes_types:
        inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
    logits = reference.model(**inputs).logits[0]
    reference.model.zero_grad()
    (logits * seed(logits.detach())).sum().backward()
    return recorder.factors()


def loss_seed(label):
    return lambda z: torch.softmax(z, -1) - F.one_hot(torch.tensor(label), len(z))


def fisher_seed(z):
    p = torch.softmax(z, -1)
    return (p[0] * p[1]).sqrt() * torch.tensor([1.0, -1.0], dtype=z.dtype)


def fit(factors, first_only):
    """For each layer Q_A, Q_S, and the eigenvalues of K-FAC and EK-FAC."""
    layers = {}
    for name in factors[0]:
        rows = (lambda x: x[:1]) if name in first_only else (lambda x: x)
        a = torch.cat([rows(f[name][0]) for f in factors])
        d = torch.cat([rows(f[name][1]) for f in factors])
        values_a, q_a = torch.linalg.eigh(a.T @ a / len(a))
        values_s, q_s = torch.linalg.eigh(d.T @ d / len(factors))
        turned = [q_s.T @ (f[name][1].T @ f[name][0]) @ q_a for f in factors]
        corrected = torch.stack([t * t for t in turned]).mean(0)
        layers[name] = (q_a, q_s, {"kfac": torch.outer(values_s.clamp(min=0), values_a.clamp(min=0)), "ekfac": corrected})
    return layers


def influences(layers, form, queries, training):
    """[Q, N], and the training records' own."""
    scores, own = torch.zeros(len(queries), len(training), dtype=torch.float64), torch.zeros(len(training), dtype=torch.float64)
    for name, (q_a, q_s, values) in layers.items():
        damped = values[form] + DAMPING * values[form].mean()
        turn = lambda f: q_s.T @ (f[name][1].T @ f[name][0]) @ q_a
        asked, kept = torch.stack([turn(f) for f in queries]), torch.stack([turn(f) for f in training])
        scores += torch.einsum("qij,nij->qn", asked / damped, kept)
        own += (kept * kept / damped).sum((1, 2))
    return scores, own


def by_kronfluence(reference, labels):
    import logging
    import tempfile

    import kronfluence
    from kronfluence.arguments import FactorArguments, ScoreArguments

    class Task(kronfluence.task.Task):
        def compute_train_loss(self, batch, model, sample=False):
            return F.cross_entropy(self.logits(batch, model), batch["labels"], reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def logits(self, batch, model):
            return model(**{k: v for k, v in batch.items() if k != "labels"}).logits

        def get_attention_mask(self, batch):
            return batch["attention_mask"]

    logging.disable(logging.WARNING)
    rows = []
    for text, label in zip(TEXTS, labels):
        encoding = reference.encode(*text)
        row = {"input_ids": torch.tensor(encoding.ids), "attention_mask": torch.ones(len(encoding.ids), dtype=torch.long)}
        if reference.case.takes_types:
            row["token_type_ids"] = torch.tensor(encoding.type_ids)
        rows.append(row | {"labels": torch.tensor(label)})
    model = kronfluence.prepare_model(reference.model, Task())
    with tempfile.TemporaryDirectory() as folder:
        analyzer = kronfluence.Analyzer("a", model, Task(), cpu=True, output_dir=folder, disable_tqdm=True)
        arguments = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
        for field in ("activation_covariance_dtype", "gradient_covariance_dtype", "per_sample_gradient_dtype", "lambda_dtype"):
            setattr(arguments, field, torch.float64)
        analyzer.fit_all_factors("f", rows[:TRAIN], per_device_batch_size=1, factor_args=arguments)
        scoring = ScoreArguments(damping_factor=None, per_sample_gradient_dtype=torch.float64, score_dtype=torch.float64)
        scoring.precondition_dtype = torch.float64
        analyzer.compute_pairwise_scores(
            "s", "f", rows[TRAIN:], rows[:TRAIN], per_device_query_batch_size=1, per_device_train_batch_size=1, score_args=scoring
        )
        return analyzer.load_pairwise_scores("s")["all_modules"].double()


def golden(case):
    reference = Reference(case)
    reference.model.requires_grad_(False)
    recorder = Recorder(reference.model)
    labels = [(i * 5 + i // 3) % case.classes for i in range(len(TEXTS))]
    factors = [run(reference, recorder, text, loss_seed(label)) for text, label in zip(TEXTS, labels)]
    first_only = last_step(reference.model, recorder.layers)
    sets = {"data": factors[:TRAIN]}
    if case.classes == 2:
        sets["model"] = [run(reference, recorder, text, fisher_seed) for text in TEXTS[:TRAIN]]
    scores, own = {}, {}
    for kind, statistics in sets.items():
        layers = fit(statistics, first_only)
        if kind == "data":
            agreement(case, layers, fit(statistics, []), factors, by_kronfluence(Reference(case), labels))
        for form in ("kfac", "ekfac"):
            pair = influences(layers, form, factors[TRAIN:], factors[:TRAIN])
            scores[f"{form}-{kind}"], own[f"{form}-{kind}"] = (x.tolist() for x in pair)
    records = [{"text": text, "pair": pair, "label": label} for (text, pair), label in zip(TEXTS, labels)]
    return {
        "records": records[:TRAIN],
        "queries": records[TRAIN:],
        "scores": scores,
        "self_influence": own,
    }


def agreement(case, layers, over_all_tokens, factors, rival):
    """kronfluence takes every token's input where only first tokens' outputs are read: so fitted, the formulas are its own."""
    queries, training = factors[TRAIN:], factors[:TRAIN]
    ranks = lambda x: x.argsort(-1).argsort(-1).double()
    correlation = lambda a, b: torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1].item()
    for name, fitted in (("over all tokens", over_all_tokens), ("over tokens that are read", layers)):
        ours = influences(fitted, "ekfac", queries, training)[0]
        correlations = [correlation(a, b) for a, b in zip(ours, rival)]
        print(f"{case.name}, last step {name}: Spearman with kronfluence {[round(c, 4) for c in correlations]}")
        assert fitted is layers or min(correlations) > 0.999


if __name__ == "__main__":
    wanted = sys.argv[1:] or NAMES
    for case in CASES:
        if case.name in wanted:
            write_lines(HERE / case.name / "curvature.json", golden(case))
