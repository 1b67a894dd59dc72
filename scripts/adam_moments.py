#!/usr/bin/env python3
"""Puts AdamW's moments of a checkpoint of transformers' Trainer (optimizer.pt) beside its weights, for `index --adam`.

    pip install torch transformers safetensors && python3 scripts/adam_moments.py CHECKPOINT_DIR...

optimizer.pt numbers parameters as Trainer handed them to the optimiser: those that decay first, then biases and normalisations, each in the model's
order. It is opened with PyTorch's `weights_only`, which refuses everything but tensors and plain containers.
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers.trainer_pt_utils import get_parameter_names
except ImportError as missing:
    sys.exit(f"error: {missing}\nhint: pip install torch transformers safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="+", help="a directory with optimizer.pt beside the weights")
    for folder in parser.parse_args().checkpoint:
        try:
            convert(folder)
        except (ValueError, OSError) as problem:
            sys.exit(f"error: {folder}: {problem}")


def convert(folder):
    optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    groups, state = optimizer["param_groups"], optimizer["state"]
    names = names_of(transformers.AutoModelForSequenceClassification.from_pretrained(folder), groups)
    tensors = {}
    for (name, shape), number in zip(names, [number for group in groups for number in group["params"]]):
        for which, field in (("first_moment", "exp_avg"), ("second_moment", "exp_avg_sq")):
            moment = state[number][field]
            if moment.shape != shape:
                raise ValueError(f"parameter {number}: expected the shape of {name}, {tuple(shape)}, found {tuple(moment.shape)}")
            tensors[f"{which}.{name}"] = moment.float().contiguous()
    file = folder / "moments.safetensors"
    save_file(tensors, file, {"format": "pt", "betas": json.dumps(groups[0]["betas"])})
    file.chmod(0o644)
    print(f"{file}: moments of {len(names)} parameters")


def names_of(model, groups):
    """Names and shapes in the optimiser's order."""
    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decaying = set(get_parameter_names(model, [torch.nn.LayerNorm], forbidden))
    parameters = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    ordered = [p for p in parameters if p[0] in decaying] + [p for p in parameters if p[0] not in decaying]
    counts = [len(group["params"]) for group in groups]
    if counts != [len(decaying), len(parameters) - len(decaying)]:
        raise ValueError(f"expected the groups of a Trainer over every parameter, {len(decaying)} that decay of {len(parameters)}, found {counts}")
    return ordered


if __name__ == "__main__":
    main()
