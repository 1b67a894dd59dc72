"""Writes bert-cls2/trak.json: what traker (https://github.com/MadryLab/trak) says of the records of curvature.json, over one model: it weighs
several by numbers of its own.

    python traker.py

Run it after curvature.py. traker takes the gradients, in float64, of linear layers alone and of all parameters; they are projected by the matrices
that our draws make (philox.py), handed to it as a projector, so that scores must agree to rounding. README.md describes the file.
"""

import json
import math
import tempfile

import numpy as np
import torch
import transformers
from trak import TRAKer
from trak.projectors import AbstractProjector

from philox import key_of, philox

from generate import HERE, write_lines

NAME = "bert-cls2"
PROJECTION = 12  # the purpose of the draws
DIMENSION, SEED, DAMPING = 400, 5, 0.1


def layers_of(model, parameters):
    """Parts of each layer's gradient: names of its weight, bias or table, in the order of our layers' numbers."""
    layers = []
    for number in range(model.config.num_hidden_layers):
        layer = f"bert.encoder.layer.{number}."
        three = [f"{layer}attention.self.{which}" for which in ("query", "key", "value")]
        layers += [three, [f"{layer}attention.output.dense"], [f"{layer}intermediate.dense"], [f"{layer}output.dense"]]
    layers += [["bert.pooler.dense"], ["classifier"]]
    kinds = ["linear"] * len(layers)
    if parameters == "all":
        norms = ["bert.embeddings.LayerNorm"]
        for number in range(model.config.num_hidden_layers):
            norms += [f"bert.encoder.layer.{number}.{place}.LayerNorm" for place in ("attention.output", "output")]
        tables = [f"bert.embeddings.{which}_embeddings" for which in ("word", "position", "token_type")]
        layers += [[name] for name in norms + tables]
        kinds += ["norm"] * len(norms) + ["table"] * len(tables)
    return list(zip(layers, kinds))


def matrix_of(names, kind, gradients):
    """A layer's gradient [B, outputs, inputs]."""
    weight = [gradients[f"{name}.weight"] for name in names]
    if kind == "table":
        return weight[0].transpose(1, 2)
    bias = [gradients[f"{name}.bias"].unsqueeze(-1) for name in names]
    if kind == "norm":
        return torch.cat([weight[0].unsqueeze(-1), bias[0]], -1)
    return torch.cat([torch.cat(pair, -1) for pair in zip(weight, bias)], 1)


def kept_sides(sizes):
    """How many rows and columns of each layer are kept: DIMENSION dealt out from the smallest layer on."""
    kept, left = [None] * len(sizes), DIMENSION
    order = sorted(range(len(sizes)), key=lambda at: sizes[at][0] * sizes[at][1])
    for done, at in enumerate(order):
        budget, (outputs, inputs) = left // (len(sizes) - done), sizes[at]
        rows = min(max(math.isqrt(budget), 1), outputs)
        columns = min(max(budget // rows, 1), inputs)
        rows = min(max(budget // columns, 1), outputs)
        kept[at] = (rows, columns)
        left -= rows * columns
    return kept


def side(number, which, whole, kept):
    """One side's matrix [kept, whole] of ±1/√kept."""
    if whole == kept:
        return torch.eye(whole, dtype=torch.float64)
    counters = [[block, row, number, which] for row in range(kept) for block in range(-(-whole // 4))]
    words = philox(counters, key_of(SEED, PROJECTION)).reshape(kept, -1)[:, :whole]
    return torch.from_numpy(np.where(words >> 31 == 0, 1.0, -1.0) / math.sqrt(kept))


class TwoSided(AbstractProjector):
    def __init__(self, layers, shapes):
        self.layers, self.shapes, self.proj_dim, self.proj_type, self.seed = layers, shapes, DIMENSION, "rademacher", SEED
        example = {name: torch.zeros(1, *shape) for name, shape in shapes.items()}
        sizes = [tuple(matrix_of(names, kind, example).shape[1:]) for names, kind in layers]
        self.sides = [
            (side(number, 1, outputs, rows), side(number, 0, inputs, columns))
            for number, ((outputs, inputs), (rows, columns)) in enumerate(zip(sizes, kept_sides(sizes)))
        ]

    def project(self, grads, model_id):
        if not isinstance(grads, dict):
            parts = grads.split([math.prod(shape) for shape in self.shapes.values()], 1)
            grads = {name: part.reshape(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts)}
        grads = {name: grad.reshape(-1, *self.shapes[name]).double() for name, grad in grads.items()}
        pieces = [
            (output @ matrix_of(names, kind, grads) @ inputs.T).flatten(1)
            for (names, kind), (output, inputs) in zip(self.layers, self.sides)
        ]
        kept = torch.cat(pieces, 1)
        return torch.nn.functional.pad(kept, (0, DIMENSION - kept.shape[1]))

    def free_memory(self):
        pass


class Logits(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        whole = transformers.AutoModelForSequenceClassification.from_pretrained(HERE / name, attn_implementation="eager")
        self.whole = whole.double().eval()

    def forward(self, **inputs):
        return self.whole(**inputs).logits


def batch_of(records):
    tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / NAME)
    # One text at a time, or two: None is no second one.
    encoded = [tokenizer(r["text"], r["pair"], truncation=True, max_length=48, padding="max_length") for r in records]
    column = lambda name: torch.tensor([one[name] for one in encoded])
    # What transformers asks of a mask [B, T] cannot be asked under vmap; it takes what is added to attention's logits as it is.
    added = (1.0 - column("attention_mask")[:, None, None, :].double()) * torch.finfo(torch.float32).min
    return [column("input_ids"), column("token_type_ids"), added, torch.tensor([r["label"] for r in records])]


def scores(parameters, records, queries):
    model = Logits(NAME)
    layers = layers_of(model.whole, parameters)
    parts = {f"whole.{name}" for names, _ in layers for name in names}
    wanted = [name for name, _ in model.named_parameters() if name.rpartition(".")[0] in parts]
    shapes = {name: tuple(model.get_parameter(name).shape) for name in wanted}
    layers = [([f"whole.{name}" for name in names], kind) for names, kind in layers]
    with tempfile.TemporaryDirectory() as folder:
        keep = dict(save_dir=folder, device="cpu", projector=TwoSided(layers, shapes), proj_dim=DIMENSION, grad_wrt=wanted)
        tracer = TRAKer(model, "text_classification", len(records), use_half_precision=False, logging_level=40, **keep)
        tracer.load_checkpoint(model.state_dict(), model_id=0)
        tracer.featurize(batch=batch_of(records), num_samples=len(records))
        # λ is a share of the mean diagonal.
        gradients = torch.as_tensor(tracer.saver.current_store["grads"]).double()
        tracer.score_computer.lambda_reg = DAMPING * float((gradients * gradients).sum()) / DIMENSION
        tracer.finalize_features(model_ids=[0])
        tracer.start_scoring_checkpoint("a", model.state_dict(), 0, len(queries))
        tracer.score(batch=batch_of(queries), num_samples=len(queries))
        return tracer.finalize_scores("a").T.tolist()


def main():
    golden = json.loads((HERE / NAME / "curvature.json").read_text(encoding="utf-8"))
    found = {parameters: scores(parameters, golden["records"], golden["queries"]) for parameters in ("linear", "all")}
    found |= {"dimension": DIMENSION, "seed": SEED, "damping": DAMPING}
    write_lines(HERE / NAME / "trak.json", found)


if __name__ == "__main__":
    main()
