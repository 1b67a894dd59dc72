"""Writes CASE/train_rationale.json: losses and gradients of a tiny classifier whose attention is drawn to marked tokens, in float64.

    python train_rationale.py [CASE...]

Run it after generate.py. README.md describes the file.
"""

import sys

import torch
import torch.nn.functional as F
import transformers

from generate import HERE, Reference, dumps, gold_label, refuse_other_versions
from tiny_models import CASES
from train import BATCH, WEIGHTS, digest, loss, usable

NAMES = ["bert-cls2", "roberta-cls2", "distilbert-cls2", "albert-groups-cls3"]
RATIONALE = 0.3


def scores(model, inputs):
    """Raw scores of the first token's query in every head of the last layer: [heads, tokens]."""
    kept = {}
    names = ("query", "key", "q_lin", "k_lin")
    modules = [(name, module) for name, module in model.named_modules() if name.split(".")[-1] in names]
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: kept.update({name.split(".")[-1][0]: out}))
        for name, module in modules
    ]
    out = model(**inputs)
    for hook in hooks:
        hook.remove()
    heads = model.config.num_attention_heads
    # The last call of each is the last layer's, where layers are shared too.
    q, k = [kept[name][0].unflatten(-1, (heads, -1)).transpose(0, 1) for name in "qk"]
    return out, (q[:, :1] @ k.transpose(1, 2) / q.shape[-1] ** 0.5)[:, 0]


def main(names):
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    cases = {case.name: case for case in CASES}
    for name in names or NAMES:
        case = cases[name]
        reference = Reference(case)
        model = reference.model
        model.requires_grad_(True)
        records = usable(reference)[:BATCH]
        weights = torch.tensor(WEIGHTS, dtype=torch.float64)
        taught, guided, marks = [], [], []
        for number, (index, encoding) in enumerate(records):
            inputs = {"input_ids": torch.tensor([encoding.ids])}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if case.takes_types:
                inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
            out, raw = scores(model, inputs)
            taught.append(loss(case.kind, out.logits[0], gold_label(case, index), case.classes))
            # The second record has none.
            marked = [] if number == 1 else [float(place % 3 == number % 3) for place in range(len(encoding.ids))]
            marks.append([int(mark) for mark in marked])
            if marked:
                target = torch.tensor(marked, dtype=torch.float64).softmax(0)
                guided.append((weights[number], F.cross_entropy(raw, target.expand_as(raw))))
        total = (torch.stack(taught) * weights / weights.sum()).sum()
        drawn = sum(weight * value for weight, value in guided) / sum(weight for weight, _ in guided)
        (total + RATIONALE * drawn).backward()
        result = {
            "weights": WEIGHTS,
            "rationale": RATIONALE,
            "records": [index for index, _ in records],
            "marked": marks,
            "losses": [value.item() for value in taught],
            "guided": [value.item() for _, value in guided],
            "gradients": {n: digest(p.grad) for n, p in model.named_parameters() if p.grad is not None},
        }
        lines = [f"{dumps(key)}:{dumps(value)}" for key, value in result.items()]
        (HERE / name / "train_rationale.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(name, result["losses"], result["guided"])


if __name__ == "__main__":
    main(sys.argv[1:])
