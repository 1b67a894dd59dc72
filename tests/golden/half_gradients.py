"""Writes half-gradients.json: how far PyTorch's own gradients in half precision are from those in float64, of the records and parameters that
tests/gradients/device.rs takes them of.

    python half_gradients.py

By model and precision, the largest distance of a record's gradient from the exact one, over its length. The gradient is of the log-odds margin of
class (record mod 2); in float16 it is scaled by 2^8 on its way back, as whoever trains in it does.
"""

import json
import re

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from generate import HERE

PARAMETERS = {"bert-cls2": torch.nn.Linear, "albert-groups-cls3": torch.nn.Module}
SCALE = 2.0**8


def texts():
    source = (HERE.parent / "gradients" / "projected.rs").read_text(encoding="utf-8")
    return re.findall(r'"([^"]*)"', re.search(r"const TEXTS[^=]*= ?\[(.*?)\];", source, re.S).group(1))


def gradients(name, kind, dtype):
    model = AutoModelForSequenceClassification.from_pretrained(HERE / name, attn_implementation="eager").to(dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(HERE / name)
    parameters = {id(p): p for m in model.modules() if isinstance(m, kind) for p in m.parameters(recurse=False)}
    scale = SCALE if dtype == torch.float16 else 1.0
    for row, text in enumerate(texts()):
        model.zero_grad()
        z = model(**tokenizer(text, return_tensors="pt")).logits[0].to(torch.float64)
        others = torch.cat([z[: row % 2], z[row % 2 + 1 :]])
        ((z[row % 2] - others.logsumexp(0)) * scale).backward()
        yield torch.cat([p.grad.double().flatten() / scale for p in parameters.values() if p.grad is not None])


def main():
    found = {}
    for name, kind in PARAMETERS.items():
        exact = list(gradients(name, kind, torch.float64))
        for precision, dtype in [("f16", torch.float16), ("bf16", torch.bfloat16)]:
            pairs = zip(gradients(name, kind, dtype), exact)
            found.setdefault(name, {})[precision] = max(float((g - e).norm() / e.norm()) for g, e in pairs)
    (HERE / "half-gradients.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
