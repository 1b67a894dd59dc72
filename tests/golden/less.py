"""Writes bert-cls2/less.json, LESS over two checkpoints in float64 and not projected, and the moments.safetensors beside both.

    python less.py

Run it after curvature.py, whose records and queries these are. The moments are those of PyTorch's AdamW after three steps on the records, with a
learning rate of 0, so that the weights stay what they are. README.md describes the files.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from generate import HERE, Reference, write_lines
from tiny_models import CASES

CHECKPOINTS = [("bert-cls2-checkpoint", 0.1), ("bert-cls2", 0.05)]
BETAS = (0.9, 0.999)
EPSILON = 1e-8  # inside the root, as LESS's code has it


class Checkpoint:
    def __init__(self, name):
        self.name = name
        self.reference = Reference(next(case for case in CASES if case.name == name))
        self.model = self.reference.model
        linear = [n for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)]
        self.parameters = {n: p for n, p in self.model.named_parameters() if n.rpartition(".")[0] in linear}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def loss(self, record):
        encoding = self.reference.encode(record["text"], record["pair"])
        ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
        logits = self.model(input_ids=ids, token_type_ids=types, attention_mask=torch.ones_like(ids)).logits
        return F.cross_entropy(logits, torch.tensor([record["label"]]))

    def gradient(self, record):
        self.model.zero_grad()
        self.loss(record).backward()
        return {name: parameter.grad.clone() for name, parameter in self.parameters.items()}

    def moments(self, records):
        """As float32 keeps them; written beside the weights."""
        optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.0, betas=BETAS, weight_decay=0.0)
        for step in range(3):
            optimizer.zero_grad()
            batch = records[step * 4 : step * 4 + 4]
            (sum(self.loss(record) for record in batch) / len(batch)).backward()
            optimizer.step()
        kept = {}
        for name, parameter in self.parameters.items():
            state = optimizer.state[parameter]
            kept[f"first_moment.{name}"] = state["exp_avg"].float().contiguous()
            kept[f"second_moment.{name}"] = state["exp_avg_sq"].float().contiguous()
        save_file(kept, HERE / self.name / "moments.safetensors", {"format": "pt", "betas": json.dumps(BETAS)})
        return kept

    def scores(self, records, queries):
        """Cosines [Q, N] between plain gradients and those that Adam would follow."""
        kept = self.moments(records)

        def adapted(record):
            parts = []
            for name, g in self.gradient(record).items():
                m, v = kept[f"first_moment.{name}"].double(), kept[f"second_moment.{name}"].double()
                m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
                parts.append((m / torch.sqrt(v + EPSILON)).flatten())
            return torch.cat(parts)

        plain = lambda record: torch.cat([g.flatten() for g in self.gradient(record).values()])
        asked, stored = torch.stack([plain(q) for q in queries]), torch.stack([adapted(r) for r in records])
        return F.normalize(asked) @ F.normalize(stored).T


def main():
    golden = json.loads((HERE / "bert-cls2" / "curvature.json").read_text(encoding="utf-8"))
    rates = sum(rate for _, rate in CHECKPOINTS)
    each = [Checkpoint(name).scores(golden["records"], golden["queries"]) for name, _ in CHECKPOINTS]
    scores = sum(rate / rates * some for (_, rate), some in zip(CHECKPOINTS, each))
    write_lines(HERE / "bert-cls2" / "less.json", {"checkpoints": CHECKPOINTS, "scores": scores.tolist()})


if __name__ == "__main__":
    main()
