"""Writes CASE/train_bf16.json: what PyTorch makes of the same trainings in bf16 with parameters, moments and AdamW in float32.

    python train_bf16.py [CASE...]

Run it after train.py. Every step rounds the parameters to a model in bf16, whose gradients, record by record, are added up in float32. README.md
describes the file.
"""

import copy
import sys

import torch
import transformers

from generate import HERE, Reference, dumps, gold_label, refuse_other_versions
from tiny_models import CASES
from train import BATCH, SCHEDULES, SETTINGS, STEPS, WEIGHTS, digest, loss, usable

# One of each: plain, several labels, numbers, shared layers of projected embeddings, a task's embedding; with train.py's schedules.
NAMES = {
    "bert-cls2": "linear",
    "bert-multilabel": "linear",
    "bert-regression": "cosine",
    "albert-groups-cls3": "cosine",
    "ernie-task-cls2": "linear",
}


def train(case, schedule):
    reference = Reference(case)
    masters = reference.model.float()
    masters.requires_grad_(True)
    rounded = copy.deepcopy(masters).to(torch.bfloat16)
    records = usable(reference)[: 2 * BATCH]
    named = dict(masters.named_parameters())
    plain = lambda name: name.endswith("bias") or "norm" in name.lower()
    groups = [
        {"params": [p for n, p in named.items() if not plain(n)], "weight_decay": SETTINGS["decay"]},
        {"params": [p for n, p in named.items() if plain(n)], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=SETTINGS["rate"], betas=SETTINGS["betas"], eps=SETTINGS["epsilon"])
    scheduler = SCHEDULES[schedule](optimiser, SETTINGS["warmup"], STEPS)
    total, losses, gradients = sum(WEIGHTS), [], {}
    for step in range(STEPS):
        with torch.no_grad():
            for name, parameter in rounded.named_parameters():
                parameter.copy_(named[name])
        batch = [records[(step * BATCH + i) % len(records)] for i in range(BATCH)]
        losses.append([])
        for (index, encoding), weight in zip(batch, WEIGHTS):
            inputs = {"input_ids": torch.tensor([encoding.ids])}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if case.takes_types:
                inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
            value = loss(case.kind, rounded(**inputs).logits[0].double(), gold_label(case, index), case.classes)
            (value * weight / total).backward()
            losses[-1].append(value.item())
            for name, parameter in rounded.named_parameters():
                if parameter.grad is not None:
                    there = named[name].grad
                    named[name].grad = parameter.grad.float() if there is None else there + parameter.grad.float()
                    parameter.grad = None
        if step == 0:
            gradients = {name: digest(p.grad.double()) for name, p in named.items() if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(named.values(), SETTINGS["clip"])
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad()
    parameters = {name: digest(p.double()) for name, p in named.items() if name in gradients}
    return {"losses": losses, "gradients": gradients, "parameters": parameters}


def main(names):
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    cases = {case.name: case for case in CASES}
    for name, schedule in NAMES.items():
        if names and name not in names:
            continue
        result = train(cases[name], schedule)
        lines = [f"{dumps(key)}:{dumps(value)}" for key, value in result.items()]
        (HERE / name / "train_bf16.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(name, [round(sum(step), 4) for step in result["losses"]])


if __name__ == "__main__":
    main(sys.argv[1:])
