"""Writes CASE/train_tokens.json of models that say something of tokens: what PyTorch's AdamW makes of them in float64, step by step.

    python train_heads.py [CASE...]

Run it after heads.py, whose models it trains. README.md describes the file.
"""

import sys

import torch
import torch.nn.functional as F
import transformers

from generate import dumps, refuse_other_versions
from heads import CASES, CLASSES, HERE, MASKED, QUESTIONS, TAGGED
from train import BATCH, SCHEDULES, SETTINGS, STEPS, WEIGHTS, digest

# Of answers, those whose head drops something and those that share layers; of masks, tied to narrow embeddings and to wide ones, or not tied.
NAMES = [
    "bert-spans",
    "distilbert-spans",
    "albert-spans",
    "bert-tags",
    "camembert-tags",
    "ernie-tags",
    "bert-masks",
    "roberta-masks",
    "electra-masks",
    "albert-masks",
    "bert-untied-masks",
]
LENGTH = 40


def sequences(tokenizer, kind):
    """Four texts, encoded."""
    if kind == "spans":
        pairs = [(question, context) for question, context in QUESTIONS]
        return [tokenizer(*pair, truncation="only_second", max_length=LENGTH) for pair in pairs]
    if kind == "tags":
        return [tokenizer(words, is_split_into_words=True, truncation=True, max_length=LENGTH) for words in TAGGED]
    texts = [text.replace("{}", "good") for text in [*MASKED, "The food is very good, and we are happy."]]
    return [tokenizer(text, truncation=True, max_length=LENGTH) for text in texts]


def terms_of(kind, number, encoding, classes):
    """What is to be learned: start and end; or tokens, averaged where there are several, and a class."""
    ids = encoding["input_ids"]
    own = [place for place, special in enumerate(encoding.encodings[0].special_tokens_mask) if not special]
    if kind == "spans":
        start = own[-1 - number] if number < 3 else 0
        return [[start], [own[-1] if number < 3 else 0]]
    if kind == "tags":
        terms = [[[place], (place + number) % classes] for place in own[::2]]
        # The mean of two tokens' logits: a sentence between its markers.
        return terms + [[[0, len(ids) - 1], 1]]
    chosen = own[number % 2 :: 3] or own
    return [[[place], ids[place]] for place in chosen]


def losses(kind, out, terms):
    """Each term's loss for one sequence."""
    if kind == "spans":
        ends = [out.start_logits[0], out.end_logits[0]]
        return torch.stack([F.cross_entropy(z[None], torch.tensor(place)) for z, place in zip(ends, terms)])
    z = out.logits[0]
    means = torch.stack([z[tokens].mean(0) for tokens, _ in terms])
    return F.cross_entropy(means, torch.tensor([gold for _, gold in terms]), reduction="none")


def train(kind, case, schedule):
    folder = HERE / case.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, "AutoModelFor" + CLASSES[kind]).from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    model.eval().requires_grad_(True)
    examples = []
    for number, encoding in enumerate(sequences(tokenizer, kind)):
        terms = terms_of(kind, number, encoding, case.classes)
        ids = list(encoding["input_ids"])
        if kind == "masks":
            for place, (tokens, _) in enumerate(terms):
                ids[tokens[0]] = [tokenizer.mask_token_id, ids[0], ids[tokens[0]]][place % 3]
        types = list(encoding.get("token_type_ids", [0] * len(ids))) if case.takes_types else [0] * len(ids)
        examples.append({"ids": ids, "type_ids": types, "terms": terms})
    # The pooler of a pre-training head, and what else is not on the way, has no gradient and no part.
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
        found, total = [], torch.tensor(0.0, dtype=torch.float64)
        mass = 0.0
        for weight, example in zip(WEIGHTS, examples[:BATCH]):
            inputs = {"input_ids": torch.tensor([example["ids"]])}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if case.takes_types:
                inputs["token_type_ids"] = torch.tensor([example["type_ids"]])
            own = losses(kind, model(**inputs), example["terms"])
            found.append(own.mean().item())
            # Start and end are one loss; tags and pieces are one each.
            total = total + weight * (own.mean() if kind == "spans" else own.sum())
            mass += weight * (1 if kind == "spans" else len(own))
        (total / mass).backward()
        if step == 0:
            gradients = {name: digest(p.grad) for name, p in named.items() if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(named.values(), SETTINGS["clip"]).item()
        rate = optimiser.param_groups[0]["lr"]
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad()
        steps.append({"losses": found, "norm": norm, "rate": rate})
    return {
        "schedule": schedule,
        "settings": SETTINGS | {"steps": STEPS, "batch": BATCH, "weights": WEIGHTS},
        "kind": kind,
        "examples": examples,
        "steps": steps,
        "gradients": gradients,
        "parameters": {name: digest(p) for name, p in named.items() if name in gradients},
    }


def main(names):
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    cases = {case.name: (kind, case) for kind, case in CASES}
    for number, name in enumerate(NAMES):
        if names and name not in names:
            continue
        kind, case = cases[name]
        result = train(kind, case, ["linear", "cosine"][number % 2])
        lines = [f"{dumps(key)}:{dumps(value)}" for key, value in result.items()]
        (HERE / name / "train_tokens.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(name, [round(sum(step["losses"]), 4) for step in result["steps"]])


if __name__ == "__main__":
    main(sys.argv[1:])
