"""Writes the tiny models of this folder, and what PyTorch says about them in float64.

    pip install -r requirements.txt && python generate.py [CASE...]

With names of cases only those are written again, without their explain.json: run explain.py after this.
README.md describes the files.
"""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.nn.functional as F
import transformers

import last_layer
from texts import RECORDS, TOKEN_TEXTS, TRAIN
from tiny_models import CASES, write_directory

HERE = Path(__file__).parent
PINNED = dict(line.split("==") for line in (HERE / "requirements.txt").read_text().splitlines() if "==" in line)

# One folder for each tokenizer that differs.
TOKENIZERS = [
    "bert-cls2",
    "bert-vocab-only",
    "bert-zh",
    "roberta-cls2",
    "xlm-roberta-cls3",
    "camembert-cls2",
    "albert-cls2",
]

# TracIn's checkpoints and their learning rates; the labels explained are the last one's.
TRACIN = [("bert-cls2-checkpoint", 0.1), ("bert-cls2", 0.05)]
WITH_REFITS = ["bert-cls2", "bert-cls5"]


def main(names):
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    cases = {case.name: case for case in CASES if not names or case.name in names}
    for case in cases.values():
        write_directory(case, HERE / case.name)
    for case in cases.values():
        write_golden(HERE / case.name / "golden.json", golden(case))
        print(case.name)
    if not names:
        write_lines(HERE / "tokens.json", {name: token_records(name) for name in TOKENIZERS})


def refuse_other_versions(*modules):
    for module in modules:
        version, pinned = module.__version__.split("+")[0], PINNED[module.__name__]
        if version != pinned:
            sys.exit(f"{module.__name__} is {version}, these files were made with {pinned}")


# --- one model ---------------------------------------------------------------------------------------------------


class Reference:
    """A model directory, read by transformers and computed in float64, one text at a time without padding."""

    def __init__(self, case):
        self.case = case
        folder = HERE / case.name
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        reader = transformers.AutoModelForSequenceClassification if case.classes else transformers.AutoModel
        self.model = reader.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        self.model.requires_grad_(False)
        self.last = self.last_layer()
        if self.last is not None:
            self.last.requires_grad_(True)

    def last_layer(self):
        """The linear layer that makes the logits; the families with a deeper head call it out_proj."""
        head = getattr(self.model, "classifier", None)
        return getattr(head, "out_proj", head)

    def encode(self, text, pair):
        cut = {"truncation": True, "max_length": self.case.max_length}
        return self.tokenizer(text, pair, **cut).encodings[0]

    def length(self, text, pair):
        return len(self.tokenizer(text, pair, verbose=False).input_ids)

    def run(self, encoding):
        """(hidden states of the last layer [T, H], input of the last linear layer or the pooled vector, logits)"""
        seen = {}
        inputs = {"input_ids": torch.tensor([encoding.ids])}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if self.case.takes_types:
            inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
        if self.case.classes == 0:
            hidden = self.model(**inputs).last_hidden_state[0]
            return hidden, self.pool(hidden), None
        keep_features = self.last.register_forward_pre_hook(lambda _, x: seen.update(features=x[0][0]))
        encoder = getattr(self.model, self.model.base_model_prefix)
        keep_hidden = encoder.register_forward_hook(lambda _, __, out: seen.update(hidden=out.last_hidden_state[0]))
        logits = self.model(**inputs).logits[0]
        keep_features.remove(), keep_hidden.remove()
        return seen["hidden"], seen["features"], logits

    def pool(self, hidden):
        is_cls = self.case.pooling.get("pooling_mode") == "cls"
        pooled = hidden[0] if is_cls else hidden.mean(0)
        return F.normalize(pooled, dim=0) if self.case.normalize else pooled


def gold_label(case, index):
    """Labels follow no rule of the texts; every class occurs among the first TRAIN records."""
    scattered = (index * 7 + index // 3) % 11
    if case.kind == "headless":
        return None
    if case.kind == "regression":
        return scattered * 0.5 - 2.0
    if case.kind == "multi-label":
        return [k for k in range(case.classes) if (scattered >> k) & 1]
    return scattered % case.classes


def predicted_label(case, logits):
    if case.kind == "regression":
        return logits.item()
    if case.kind == "multi-label":
        return (logits > 0).nonzero().flatten().tolist()
    return logits.argmax().item()


def target_of(case, label):
    """A label as the loss takes it."""
    if case.kind == "regression":
        return torch.tensor([label], dtype=torch.float64)
    if case.kind == "multi-label":
        return torch.tensor([float(k in label) for k in range(case.classes)], dtype=torch.float64)
    return torch.tensor(label)


def gradients(reference, logits, target):
    """(loss, δ = d loss / d logits, gradient of the last layer's [W;b], flattened row by row)"""
    layer = reference.last
    value = last_layer.loss(reference.case.kind, logits, target)
    delta, weight, bias = torch.autograd.grad(value, [logits, layer.weight, layer.bias], retain_graph=True)
    return value, delta, torch.cat([weight, bias[:, None]], dim=1).flatten()


def token_fields(encoding):
    """Special tokens that the tokenizer added have no offsets and no segment; those typed in a text have both."""
    specials = encoding.special_tokens_mask
    return {
        "ids": encoding.ids,
        "type_ids": encoding.type_ids,
        "tokens": encoding.tokens,
        "offsets": [None if special else list(span) for span, special in zip(encoding.offsets, specials)],
        "segments": encoding.sequence_ids,
    }


def record(reference, index, text, pair):
    """(what golden.json says of one record, its last layer's gradient for the gold and the predicted label)"""
    case = reference.case
    encoding = reference.encode(text, pair)
    hidden, features, logits = reference.run(encoding)
    result = {"text": text, "pair": pair, "label": gold_label(case, index), **token_fields(encoding)}
    result["truncated"] = reference.length(text, pair) > case.max_length
    result |= {"features": features, "last_hidden_cls": hidden[0]}
    if case.kind == "headless":
        return result | {"last_hidden_mean": hidden.mean(0)}, {}
    result |= {"logits": logits, "predicted": predicted_label(case, logits)}
    value, delta, gold = gradients(reference, logits, target_of(case, result["label"]))
    _, predicted_delta, predicted = gradients(reference, logits, target_of(case, result["predicted"]))
    result |= {"loss": value, "delta": delta, "predicted_delta": predicted_delta}
    return result, {"gold": gold, "predicted": predicted}


# --- the scores of a model's records ------------------------------------------------------------------------------


def golden(case):
    reference = Reference(case)
    records, by_label = zip(*(record(reference, i, *texts) for i, texts in enumerate(RECORDS)))
    result = {
        "kind": case.kind,
        "max_length": case.max_length,
        "train": TRAIN,
        "queries": len(RECORDS) - TRAIN,
        "records": records,
    }
    features = torch.stack([r["features"] for r in records])
    train, query = features[:TRAIN], features[TRAIN:]
    if case.kind == "headless":
        return result | {"scores": {"features": last_layer.feature_rules(train, query)}}
    gradient = {which: torch.stack([g[which] for g in by_label]) for which in ("gold", "predicted")}
    scores = {which: all_rules(reference, records, features, gradient, which) for which in ("gold", "predicted")}
    result |= {"damping": last_layer.DAMPING, "scores": scores}
    if case.name in WITH_REFITS:
        result["refit"] = refits(case, records, features)
    if case.name == TRACIN[-1][0]:
        result["tracin"] = tracin(records)
    return result


def head_of(reference):
    layer = reference.last
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().flatten()


def all_rules(reference, records, features, gradient, which):
    """Scores [queries][train]. Training records are explained for their gold labels, queries for `which`."""
    kind = reference.case.kind
    targets = [target_of(reference.case, r["label"]) for r in records[:TRAIN]]
    train, query = features[:TRAIN].detach(), features[TRAIN:].detach()
    train_gradient, query_gradient = gradient["gold"][:TRAIN], gradient[which][TRAIN:]
    curvature = last_layer.hessian(kind, head_of(reference), train, targets)
    kronecker = last_layer.kronecker_hessian(kind, head_of(reference), train, targets)
    rules = last_layer.feature_rules(train, query)
    rules |= last_layer.gradient_rules(train_gradient, query_gradient)
    rules |= last_layer.influence_rules(curvature, train_gradient, query_gradient)
    factored = last_layer.influence_rules(kronecker, train_gradient, query_gradient)
    return rules | {f"{rule}-kronecker": scores for rule, scores in factored.items()}


def refits(case, records, features):
    """Representer points with gold targets and with TrustAI's soft ones; influence at the gold refit's optimum."""
    train, query = features[:TRAIN].detach(), features[TRAIN:].detach()
    labels = torch.tensor([r["label"] for r in records])
    predicted = torch.tensor([r["predicted"] for r in records[TRAIN:]])
    soft = torch.stack([r["logits"] for r in records[:TRAIN]]).softmax(1).detach()
    result = {"decay": last_layer.REFIT_DECAY}
    heads = {}
    for name, targets, bias in (("gold", labels[:TRAIN], 1.0), ("trustai", soft, 0.0)):
        heads[name] = head = last_layer.refit(train, targets, case.classes)
        alpha = last_layer.representer(head, train, targets, case.classes)
        weight = head.view(case.classes, -1)
        similarity = query @ train.T + bias
        result[name] = {
            "weight": weight[:, :-1],
            "bias": weight[:, -1],
            "alpha": alpha,
            "scores": {
                "gold": alpha.T[labels[TRAIN:]] * similarity,
                "predicted": alpha.T[predicted] * similarity,
            },
        }
    result["gold"]["influence"] = refit_influence(heads["gold"], train, labels[:TRAIN], query, labels[TRAIN:])
    by_reweighting = last_layer.influence_by_reweighting(train, labels[:TRAIN], query, labels[TRAIN:], case.classes)
    result["gold"]["influence_by_reweighting"] = by_reweighting
    assert (by_reweighting - result["gold"]["influence"]).abs().max() < 1e-5 * by_reweighting.abs().max()
    return result


def refit_influence(head, train, train_labels, query, query_labels):
    """Damped by the refit's own decay: the curvature of the objective that the head is the minimum of."""

    def gradient(features, label):
        weight = head.clone().requires_grad_(True)
        return torch.autograd.grad(last_layer.mean_loss("single-label", weight, features[None], label[None]), weight)[0]

    curvature = last_layer.hessian("single-label", head, train, train_labels)
    inverse = torch.linalg.inv(curvature + last_layer.REFIT_DECAY * last_layer.identity(len(head)))
    of = lambda features, labels: torch.stack([gradient(h, y) for h, y in zip(features, labels)])
    return of(query, query_labels) @ inverse @ of(train, train_labels).T


def tracin(final_records):
    """Σ rate × grad-dot over the checkpoints; a query's predicted label is the final model's at every one."""
    total = {"gold": 0.0, "predicted": 0.0}
    cases = {case.name: case for case in CASES}
    for name, rate in TRACIN:
        reference = Reference(cases[name])
        per_label = {"gold": [], "predicted": []}
        for final in final_records:
            _, _, logits = reference.run(reference.encode(final["text"], final["pair"]))
            for which, label in (("gold", final["label"]), ("predicted", final["predicted"])):
                per_label[which].append(gradients(reference, logits, target_of(reference.case, label))[2])
        train = torch.stack(per_label["gold"][:TRAIN])
        for which, rows in per_label.items():
            total[which] = total[which] + rate * torch.stack(rows[TRAIN:]) @ train.T
    return {"checkpoints": [{"directory": name, "rate": rate} for name, rate in TRACIN], "scores": total}


# --- tokenizers ---------------------------------------------------------------------------------------------------


def token_records(name):
    """Each text by itself and in front of its successor, cut at the model's maximum."""
    case = next(case for case in CASES if case.name == name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / name)
    records = []
    for text, successor in zip(TOKEN_TEXTS, TOKEN_TEXTS[1:] + TOKEN_TEXTS[:1]):
        for pair in (None, successor):
            encoding = tokenizer(text, pair, truncation=True, max_length=case.max_length).encodings[0]
            fields = token_fields(encoding)
            del fields["tokens"], fields["segments"]
            records.append({"text": text, "pair": pair, **fields})
    return records


# --- JSON ---------------------------------------------------------------------------------------------------------


def plain(value):
    """Tensors as lists; Python writes the shortest digits that read back as the same float64."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    return value


def dumps(value):
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_golden(path, value):
    """One line a record and one a rule, so that a change shows where it is."""
    write_lines(path, value)


def write_lines(path, value):
    path.write_text(layout(value) + "\n", encoding="utf-8")


def layout(value, depth=0):
    """Two levels are broken over lines, what lies deeper stays on its line."""
    if depth == 3 or not isinstance(value, (dict, list, tuple)) or not value:
        return dumps(value)
    if isinstance(value, dict):
        items = [f"{dumps(key)}:{layout(x, depth + 1)}" for key, x in value.items()]
        return "{\n" + ",\n".join(items) + "\n}"
    return "[\n" + ",\n".join(dumps(x) for x in value) + "\n]"


if __name__ == "__main__":
    main(sys.argv[1:])
