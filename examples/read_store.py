"""A store read from Python, with safetensors and json alone: python examples/read_store.py STORE"""
import json, sys
from safetensors.numpy import load_file

store = sys.argv[1]
blocks = json.load(open(f"{store}/manifest.json"))["blocks"]
factors = [load_file(f"{store}/{block['factors']['name']}") for block in blocks]
records = [json.loads(line) for block in blocks for line in open(f"{store}/{block['records']['name']}", encoding="utf-8")]
for block in factors:
    if "feature_scales" in block:  # --dtype int8: integers times a scale, from a share of the center
        shares = block["feature_shares"][:, None] * block["feature_center"]
        block["features"] = block["features"] * block["feature_scales"][:, None] + shares
print(len(records), *(f"{name}{list(values.shape)}" for name, values in sorted(factors[0].items())))
