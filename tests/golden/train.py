"""Writes CASE/train.json: what PyTorch's AdamW makes of a tiny model of each family in float64, step by step.

    python train.py [CASE...]

Run it after generate.py, whose models it trains. README.md describes the file.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers

from generate import HERE, Reference, dumps, gold_label, refuse_other_versions
from texts import RECORDS
from tiny_models import CASES

# One of each family, of each kind of head, of each activation, and of layers in groups.
NAMES = [
    "bert-cls2",
    "bert-gelu-new",
    "bert-multilabel",
    "bert-regression",
    "ernie-task-cls2",
    "roberta-cls2",
    "xlm-roberta-cls3",
    "camembert-cls2",
    "distilbert-cls2",
    "electra-cls3",
    "albert-cls2",
    "albert-groups-cls3",
]
BATCH = 4
STEPS = 6
WEIGHTS = [1.0, 2.0, 0.5, 1.5]
SETTINGS = {"rate": 5e-3, "decay": 0.1, "clip": 0.5, "warmup": 2, "betas": [0.9, 0.999], "epsilon": 1e-8}
SCHEDULES = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
}


def usable(reference):
    """Records of this model in which no padding token was typed: transformers never moves its embedding."""
    pad = reference.tokenizer.pad_token_id
    encodings = [(i, reference.encode(*texts)) for i, texts in enumerate(RECORDS)]
    return [(i, encoding) for i, encoding in encodings if pad not in encoding.ids]


def loss(kind, logits, label, classes):
    if kind == "regression":
        return F.mse_loss(logits, torch.tensor([label], dtype=torch.float64))
    if kind == "multi-label":
        target = torch.tensor([float(k in label) for k in range(classes)], dtype=torch.float64)
        return F.binary_cross_entropy_with_logits(logits, target)
    return F.cross_entropy(logits[None], torch.tensor([label]))


def digest(tensor):
    """Three numbers that hold all of a tensor: its norm, and its products with two fixed waves."""
    flat = tensor.detach().flatten()
    places = torch.arange(1, len(flat) + 1, dtype=torch.float64)
    return [flat.norm().item(), (flat * places.cos()).sum().item(), (flat * (2 * places).cos()).sum().item()]


def train(case, schedule):
    reference = Reference(case)
    model = reference.model
    model.requires_grad_(True)
    records = usable(reference)[: 2 * BATCH]
    named = dict(model.named_parameters())
    plain = lambda name: name.endswith("bias") or "norm" in name.lower()
    groups = [
        {"params": [p for n, p in named.items() if not plain(n)], "weight_decay": SETTINGS["decay"]},
        {"params": [p for n, p in named.items() if plain(n)], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=SETTINGS["rate"], betas=SETTINGS["betas"], eps=SETTINGS["epsilon"])
    scheduler = SCHEDULES[schedule](optimiser, SETTINGS["warmup"], STEPS)
    steps, gradients = [], {}
    for step in range(STEPS):
        batch = [records[(step * BATCH + i) % len(records)] for i in range(BATCH)]
        losses = []
        for index, encoding in batch:
            inputs = {"input_ids": torch.tensor([encoding.ids])}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if case.takes_types:
                inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
            losses.append(loss(case.kind, model(**inputs).logits[0], gold_label(case, index), case.classes))
        weights = torch.tensor(WEIGHTS, dtype=torch.float64)
        (torch.stack(losses) * weights / weights.sum()).sum().backward()
        if step == 0:
            gradients = {name: digest(p.grad) for name, p in named.items() if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(named.values(), SETTINGS["clip"]).item()
        rate = optimiser.param_groups[0]["lr"]
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad()
        steps.append({"losses": [value.item() for value in losses], "norm": norm, "rate": rate})
    return {
        "schedule": schedule,
        "settings": SETTINGS | {"steps": STEPS, "batch": BATCH, "weights": WEIGHTS},
        "records": [index for index, _ in records],
        "steps": steps,
        "gradients": gradients,
        "parameters": {name: digest(p) for name, p in named.items() if name in gradients},
    }


def main(names):
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    cases = {case.name: case for case in CASES}
    for number, name in enumerate(NAMES):
        if names and name not in names:
            continue
        result = train(cases[name], ["linear", "cosine"][number % 2])
        lines = [f"{dumps(key)}:{dumps(value)}" for key, value in result.items()]
        Path(HERE / name / "train.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(name, [round(sum(step["losses"]), 4) for step in result["steps"]])


if __name__ == "__main__":
    main(sys.argv[1:])
