#!/usr/bin/env python3
"""Converts the pickled weights of a Hugging Face model directory (pytorch_model.bin) to model.safetensors beside them.

    pip install torch safetensors && python3 scripts/to_safetensors.py MODEL_DIR

A pickle can run any code when it is opened. This script opens it with PyTorch's `weights_only`, which builds tensors
and plain containers and refuses everything else, so a hostile checkpoint fails here and never reaches an engine.
Tensors keep their names, types and values; two names of one tensor (tied weights) become two tensors. Sharded
checkpoints stay sharded, so that no more than one shard is in memory.
"""

import argparse
import json
import os
import sys
from pathlib import Path

try:
    import torch
    from safetensors.torch import save_file
except ImportError as missing:
    sys.exit(f"error: {missing}\nhint: pip install torch safetensors")

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


class Refused(Exception):
    """What is wrong with a checkpoint, for the one line that the user sees."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help=f"a directory with {SINGLE} or {INDEX}")
    parser.add_argument("--force", action="store_true", help="replace safetensors files that are already there")
    arguments = parser.parse_args()
    try:
        convert(arguments.model, arguments.force)
    except (Refused, OSError) as problem:
        sys.exit(f"error: {problem}")


def convert(folder, force=False):
    shards = find_shards(folder)
    targets = {shard: folder / target_name(shard) for shard in shards}
    present = [target for target in targets.values() if target.exists()]
    if present and not force:
        raise Refused(f"{present[0]} exists already (--force replaces it)")
    weight_map, total = {}, 0
    for shard, target in targets.items():
        tensors = read_pickle(folder / shard)
        write(tensors, target)
        weight_map |= dict.fromkeys(tensors, target.name)
        size = sum(tensor.nbytes for tensor in tensors.values())
        total += size
        print(f"{shard} -> {target.name}: {len(tensors)} tensors, {size:,} bytes")
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        replace(
            folder / "model.safetensors.index.json", lambda path: path.write_text(json.dumps(index, indent=2) + "\n")
        )


def find_shards(folder):
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        raise Refused(f"{folder} has neither {SINGLE} nor {INDEX}")
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise Refused(f"{folder / INDEX} is not an index of shards: {problem}") from problem
    for shard in shards:
        # An index is as little to be trusted as a pickle: its names must not lead out of the directory.
        if Path(shard).name != shard or not shard.endswith(".bin"):
            raise Refused(f"{folder / INDEX} names a shard {shard!r}: expected a .bin file of the same directory")
    return shards


def target_name(shard):
    return shard.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def read_pickle(path):
    """{name: tensor}, each in memory of its own."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as problem:
        raise Refused(f"{path} is not a file of plain tensors: {reason_of(problem)}") from problem
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise Refused(f"{path} holds a {type(content).__name__}, expected named tensors")
    tensors = {}
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            print(f"note: {path.name}: {name} is a {type(value).__name__}, left out", file=sys.stderr)
        elif value.layout != torch.strided or value.is_quantized:
            raise Refused(f"{path}: {name} is sparse or quantized, which safetensors cannot hold")
        else:
            # Tied weights share memory, which the format does not allow, and a slice drags its whole tensor along.
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
    if not tensors:
        raise Refused(f"{path} holds no tensor")
    return tensors


def reason_of(problem):
    """PyTorch wraps the reason in advice on how to switch the safety off, which is not for here."""
    text = str(problem)
    if text.startswith("Weights only load failed"):
        before, marker, after = text.partition("WeightsUnpickler error:")
        text = after if marker else before.partition("\n\n")[2]
    return text.strip().partition("\n")[0].partition(". Please use")[0] or type(problem).__name__


def write(tensors, target):
    # The metadata is what transformers asks for before it reads a safetensors file.
    replace(target, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def replace(target, write_to):
    """Writes a sibling, then renames it: what carries the final name is always whole."""
    sibling = target.with_name(target.name + ".partial")
    try:
        write_to(sibling)
        os.replace(sibling, target)
    finally:
        sibling.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
