"""Writes explain.json beside each tiny classifier: what every token-level method says of a few texts, in float64.

    python explain.py [CASE...]

It reads the directories that generate.py wrote. Without names of cases it also writes draws.json: known answers of the
counter-based generator and the nodes of the quadratures. README.md describes the files.

The definitions are in explain_gradient.py, explain_perturbation.py and explain_attention.py. Every gradient they rest
on is held against finite differences here, and every score that Captum has against Captum's.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import captum
import networkx
import numpy as np
import scipy
import torch
import transformers

import explain_attention as attention
import explain_captum
import explain_gradient as gradient
import explain_perturbation as perturbation
import philox
from explain_model import Objective, Subject, assert_gradient_is_finite_difference
from generate import HERE, refuse_other_versions, write_lines
from texts import EXPLAINED, EXPLAINED_LONGER, EXPLAINED_SHORT
from tiny_models import CASES

WITH_EVERYTHING = "bert-cls2"
# One of each family, each activation and each kind of head; the others only differ in how their files look.
EXPLAINED_CASES = [
    WITH_EVERYTHING,
    "bert-cls5",
    "bert-multilabel",
    "bert-regression",
    "bert-gelu-new",
    "bert-zh",
    "ernie-task-cls2",
    "ernie-cls3",
    "roberta-cls2",
    "xlm-roberta-cls3",
    "camembert-cls2",
    "distilbert-cls2",
    "electra-cls3",
    "albert-cls2",
    "albert-groups-cls3",
]
SEED = 0x0123456789ABCDEF  # more than 32 bits, so that both halves are seen
DIGITS = 9
QUADRATURES = ("gauss-legendre", "trapezoid", "midpoint", "left", "right")

METHODS = {
    "integrated-gradients": gradient.integrated_gradients,
    "saliency": gradient.saliency,
    "input-x-gradient": gradient.input_x_gradient,
    "smoothgrad": gradient.smoothgrad,
    "gradient-shap": gradient.gradient_shap,
    "occlusion": perturbation.occlusion,
    "lime": perturbation.lime,
    "kernel-shap": perturbation.kernel_shap,
    "attention": attention.attention,
    "attention-rollout": attention.rollout,
    "attention-flow": attention.flow,
    "generic-attention": attention.generic_attention,
}


def main(names):
    refuse_other_versions(captum, networkx, np, scipy, torch, transformers)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    cases = {case.name: case for case in CASES}
    for name in names or EXPLAINED_CASES:
        write_lines(HERE / name / "explain.json", explained(Subject(cases[name], HERE / name)))
        print(name)
    if not names:
        numbers = {"philox": known_words(), "draws": known_draws(), "quadratures": known_nodes()}
        write_lines(HERE / "draws.json", numbers)


# --- one model ----------------------------------------------------------------------------------------------------


class Explained:
    """The texts of one model, and the cases made of them so far."""

    def __init__(self, subject):
        self.subject = subject
        self.texts, self.cases, self.compared = [], [], 0
        self.encoded = []

    def add_text(self, text, pair):
        encoded = self.subject.encode(text, pair)
        logits = self.subject.logits(encoded)[0]
        fields = {"text": text, "pair": pair, "ids": encoded.ids, "type_ids": encoded.type_ids}
        fields["special"] = encoded.special.nonzero().flatten()
        self.texts.append(fields | {"logits": logits})
        self.encoded.append(encoded)
        return len(self.texts) - 1

    def target(self, number, rank=0):
        """The class that the model finds most likely, or the one after it."""
        return int(self.texts[number]["logits"].argsort(descending=True)[rank])

    def objective(self, settings):
        return Objective(self.subject.case.kind, settings["output"], settings["target"], settings.get("against"))

    def add(self, number, method, output=None, target=None, **settings):
        """One case. Where no output is named it is the model's own: a probability, or a regression's number."""
        settings = {"method": method, **settings}
        objective = None
        if method not in ("attention", "attention-rollout", "attention-flow"):
            natural = "logit" if self.subject.case.kind == "regression" else "probability"
            settings |= {"output": output or natural, "target": self.target(number) if target is None else target}
            objective = self.objective(settings)
        text = self.encoded[number]
        result = METHODS[method](self.subject, text, objective, settings)
        self.compared += explain_captum.check(self.subject, text, objective, settings | result, result["scores"])
        settings.pop("mask_seed", None)
        self.cases.append({"text": number, **settings, **result})
        return self.cases[-1]


def explained(subject):
    out = Explained(subject)
    english, chinese, pair = (out.add_text(*text) for text in EXPLAINED)
    assert all(8 <= len(text) <= 30 for text in out.encoded), [len(text) for text in out.encoded]
    check_gradients(out)
    for number in (english, chinese, pair):
        add_core(out, number)
    add_settings(out, english)
    add_perturbations(out, english, out.add_text(*EXPLAINED_SHORT))
    tokens = {name: perturbation.token_of(subject, name) for name in ("pad", "mask", "unk")}
    result = {"kind": subject.case.kind, **tokens}
    if subject.case.name == WITH_EVERYTHING:
        add_everything(out, english, pair, out.add_text(*EXPLAINED_LONGER))
        result["norm-lime"] = norm_lime(out)
    assert out.compared > 20, f"only {out.compared} cases were compared with Captum's"
    return rounded(result | {"texts": out.texts, "cases": out.cases})


def check_gradients(out):
    """Every gradient that the scores rest on, against finite differences."""
    for number, text in enumerate(out.encoded):
        for output in ("logit",) if out.subject.case.kind == "regression" else ("logit", "probability"):
            objective = out.objective({"output": output, "target": out.target(number)})
            for layer in out.subject.layers:
                assert_gradient_is_finite_difference(out.subject, text, layer, objective)
            attention.assert_map_gradient_is_finite_difference(out.subject, text, objective)


def ig(out, number, quadrature, steps, baseline, layer=gradient.WORD, **more):
    method = "integrated-gradients"
    return out.add(number, method, quadrature=quadrature, steps=steps, baseline=baseline, layer=layer, **more)


def draws(samples, sigma, record=3):
    return {"samples": samples, "sigma": sigma, "seed": SEED, "record": record}


def add_core(out, number):
    """Each method once, for every model and text."""
    ig(out, number, "gauss-legendre", 12, "pad")
    ig(out, number, "midpoint", 7, "zero", output="logit")
    out.add(number, "saliency")
    out.add(number, "input-x-gradient", output="logit")
    out.add(number, "occlusion", occlude="mask")
    out.add(number, "attention", form="weights")
    out.add(number, "attention", form="scores")
    out.add(number, "attention-rollout", start_layer=0)
    out.add(number, "attention-flow", start_layer=0)
    out.add(number, "generic-attention", start_layer=0, output="logit")


def add_settings(out, number):
    """Settings that reach other code than the core's, on one text."""
    is_regression = out.subject.case.kind == "regression"
    ig(out, number, "gauss-legendre", 12, "mask")
    ig(out, number, "gauss-legendre", 12, "pad", layer="embeddings")
    ig(out, number, "trapezoid", 8, "zero", layer="embeddings")
    ig(out, number, "left", 6, "pad")
    ig(out, number, "right", 6, "pad")
    if not is_regression:
        second = out.target(number, 1)
        ig(out, number, "gauss-legendre", 12, "pad", target=second)
        ig(out, number, "gauss-legendre", 12, "pad", output="logit", against=second)
        out.add(number, "saliency", output="logit", against=second)
    out.add(number, "smoothgrad", **draws(4, 0.05))
    out.add(number, "gradient-shap", baseline="zero", **draws(4, 0.05))
    out.add(number, "gradient-shap", baseline="pad", **draws(4, 0.0, record=0))
    out.add(number, "attention-rollout", start_layer=1)
    out.add(number, "attention-flow", start_layer=1)
    out.add(number, "generic-attention", start_layer=1)


def add_perturbations(out, number, short):
    out.add(number, "occlusion", occlude="pad")
    out.add(number, "occlusion", occlude="delete")
    out.add(number, "lime", variant="trustai", replace="unk", samples=40, mask_seed=1)
    out.add(number, "lime", variant="original", replace="mask", samples=40, mask_seed=2)
    out.add(short, "kernel-shap", replace="mask")


# --- bert-cls2: every method and setting --------------------------------------------------------------------------


def add_everything(out, english, pair, longer):
    second = out.target(english, 1)
    add_quadratures(out, english)
    for layer in out.subject.layers:
        for baseline in ("zero", "pad", "mask"):
            for output in ({}, {"output": "logit"}, {"output": "logit", "against": second}):
                ig(out, english, "gauss-legendre", 20, baseline, layer=layer, **output)
        ig(out, pair, "gauss-legendre", 20, "pad", layer=layer)
        ig(out, longer, "gauss-legendre", 50, "pad", layer=layer)
    add_given_baselines(out, english)
    for number in (english, pair):
        for method in ("saliency", "input-x-gradient"):
            for output in ({"target": second}, {"output": "logit"}, {"output": "logit", "against": second}):
                # Against itself a class has no difference.
                if output.get("against") != out.target(number):
                    out.add(number, method, **output)
        out.add(number, "smoothgrad", **draws(20, 0.1))
        out.add(number, "gradient-shap", baseline="mask", **draws(20, 0.1, record=2**32 - 1))
        out.add(number, "generic-attention", start_layer=0, target=out.target(number, 1))
    out.add(pair, "lime", variant="trustai", replace="pad", samples=100, mask_seed=7, output="logit")
    out.add(pair, "kernel-shap", replace="unk", samples=100, mask_seed=8)
    add_longer(out, longer)


def add_quadratures(out, number):
    for quadrature in QUADRATURES:
        for steps in (1, 2, 5, 50):
            ig(out, number, quadrature, steps, "pad")


def add_given_baselines(out, number):
    """Other texts of the same length as baselines: one for the path, several for GradientSHAP to draw from."""
    ids = out.encoded[number].ids
    others = [rotated(ids, shift) for shift in (1, 2, 3)]
    for layer in out.subject.layers:
        ig(out, number, "gauss-legendre", 20, "given", layer=layer, baseline_ids=others[0])
    out.add(number, "gradient-shap", baseline="given", baseline_ids=others, **draws(8, 0.02))


def rotated(ids, shift):
    """The same tokens in another order, [CLS] and [SEP] in their places."""
    inner = ids[1:-1].tolist()
    return [int(ids[0]), *inner[shift:], *inner[:shift], int(ids[-1])]


def add_longer(out, number):
    add_core(out, number)
    out.add(number, "occlusion", occlude="delete", output="logit")
    out.add(number, "lime", variant="trustai", replace="mask", samples=200, mask_seed=3)
    for keep in (None, 4, 10):  # 4: by forward selection, 10: by the largest weights
        choice = {} if keep is None else {"keep": keep}
        out.add(number, "lime", variant="original", replace="unk", samples=200, mask_seed=4, **choice)
    out.add(number, "kernel-shap", replace="mask", samples=200, mask_seed=5)
    out.add(number, "kernel-shap", replace="pad", samples=200, mask_seed=6, output="logit")


def norm_lime(out):
    """Of TrustAI's LIME of probabilities above; `cases` are their numbers."""
    is_chosen = lambda case: case.get("variant") == "trustai" and case["output"] == "probability"
    chosen = [i for i, case in enumerate(out.cases) if is_chosen(case)]
    found = []
    for case in (out.cases[i] for i in chosen):
        text = out.encoded[case["text"]]
        found.append((case["target"], text.ids[text.features].tolist(), case["scores"][text.features.numpy()]))
    return {"cases": chosen, "weights": perturbation.norm_lime(found)}


# --- draws.json ---------------------------------------------------------------------------------------------------


def known_words():
    """Random123's answers, and others spread over the counters and keys that we use."""
    hexadecimal = lambda words: [f"{int(word):08x}" for word in words]
    counters = [((b, t, s, r), philox.key_of(seed, p)) for b, t, s, r, seed, p in spread()]
    known = [(counter, key) for counter, key, _ in philox.KNOWN] + counters
    rows = [(counter, key, philox.philox(counter, key)) for counter, key in known]
    return [dict(zip(("counter", "key", "words"), map(hexadecimal, row))) for row in rows]


def spread():
    """(block, token, sample, record, seed, purpose)"""
    yield 0, 0, 0, 0, 0, philox.NOISE
    yield 0, 0, 0, 0, 0, philox.PATH
    yield 95, 511, 49, 2**32 - 1, SEED, philox.NOISE
    yield 1, 2, 3, 4, 2**64 - 1, philox.NOISE


def known_draws():
    """Normals of a small corner of embeddings, path positions, one of ten baselines, and both distributions' ends."""
    rows = []
    for seed, record, sample in ((0, 0, 0), (42, 7, 3), (SEED, 3, 1)):
        row = {"seed": seed, "record": record, "sample": sample}
        row |= {"normals": philox.noise(seed, record, sample, 3, 6).tolist()}
        row |= {"position": philox.path_position(seed, record, sample)}
        rows.append(row | {"baseline_of_10": philox.baseline_number(seed, record, sample, 10)})
    words = np.array([0, 0xFF, 0x100, 0x12345678, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], dtype=np.uint32)
    ends = {"words": words, "normals": philox.normal(words), "uniforms": philox.uniform(words)}
    return {"of_embeddings": rows, "of_words": {name: values.tolist() for name, values in ends.items()}}


def known_nodes():
    """All digits."""
    named = [(rule, n) for n in (1, 2, 3, 5, 12) for rule in QUADRATURES]
    named += [("gauss-legendre", n) for n in (50, 64)]
    rows = [(rule, n, *(x.tolist() for x in gradient.nodes(rule, n))) for rule, n in named]
    return [dict(zip(("quadrature", "steps", "nodes", "weights"), row)) for row in rows]


# --- JSON ---------------------------------------------------------------------------------------------------------


def rounded(value):
    """Tensors and arrays as lists, floats to nine significant digits."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return rounded(value.tolist())
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(x) for x in value]
    return float(f"{value:.{DIGITS}g}") + 0.0 if isinstance(value, float) else value


if __name__ == "__main__":
    main(sys.argv[1:])
