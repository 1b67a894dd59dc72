"""The same scores from Captum, where it has the method and has it right: a cross-check, not a source.

Captum rounds step sizes, samples and coefficients to f32 on the way; inside `double_precision` it does not. Its
trapezoid is not compared: its weights sum to (n − 1)/n.
"""

import warnings
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import torch
from captum import attr
from captum._utils.models.linear_model.model import SkLearnLinearModel
from captum.attr._core.gradient_shap import InputBaselineXGradient

import explain_gradient as gradient
from explain_perturbation import token_of

warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")

QUADRATURES = {
    "gauss-legendre": "gausslegendre",
    "left": "riemann_left",
    "midpoint": "riemann_middle",
    "right": "riemann_right",
}


@contextmanager
def double_precision():
    wider = [(torch.Tensor, "float", torch.Tensor.double), (torch, "FloatTensor", torch.DoubleTensor)]
    wider += [(torch, "float", torch.float64)]
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        for owner, name, replacement in wider:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def check(subject, text, objective, settings, scores):
    """Asserts that Captum's scores are ours. False where it does not have the method or the settings."""
    judge = JUDGES.get(settings["method"])
    with double_precision():
        theirs = judge(subject, text, objective, settings) if judge else None
    if theirs is None:
        return False
    ours, theirs = torch.as_tensor(scores), theirs.detach()
    scale = max(1e-6, float(ours.abs().max()))
    error = float((ours - theirs).abs().max()) / scale
    assert error < 1e-9, f"{settings}: Captum differs by {error:.1e}"
    return True


def of_points(subject, text, objective, layer=gradient.WORD):
    return lambda points: objective(subject.logits(text, layer=layer, points=points))


def of_ids(subject, text, objective):
    return lambda ids: objective(subject.logits(text, ids))


def integrated_gradients(subject, text, objective, settings):
    fewest = 1 if settings["quadrature"] == "gauss-legendre" else 2  # that Captum takes
    if settings["quadrature"] not in QUADRATURES or settings["steps"] < fewest:
        return None
    options = {"method": QUADRATURES[settings["quadrature"]], "n_steps": settings["steps"]}
    layer, name = settings["layer"], settings["baseline"]
    if name == "zero":
        x = subject.layer_output(text, layer)[None]
        return attr.IntegratedGradients(of_points(subject, text, objective, layer)).attribute(x, **options)[0].sum(1)
    other = torch.tensor(settings["baseline_ids"]) if name == "given" else text.replaced(token_of(subject, name))
    method = attr.LayerIntegratedGradients(of_ids(subject, text, objective), subject.layers[layer])
    return method.attribute(text.ids[None], other[None], **options)[0].sum(1)


def saliency(subject, text, objective, _):
    x = subject.layer_output(text, gradient.WORD)[None]
    return attr.Saliency(of_points(subject, text, objective)).attribute(x, abs=False)[0].norm(dim=1)


def input_x_gradient(subject, text, objective, _):
    x = subject.layer_output(text, gradient.WORD)[None]
    return attr.InputXGradient(of_points(subject, text, objective)).attribute(x)[0].sum(1)


def smoothgrad(subject, text, objective, settings):
    points = gradient.noisy(subject.layer_output(text, gradient.WORD), settings)
    return attr.Saliency(of_points(subject, text, objective)).attribute(points, abs=False).mean(0).norm(dim=1)


def gradient_shap(subject, text, objective, settings):
    """GradientShap's inner method, with its positions on the path drawn by us."""
    ends, starts, alphas = gradient.shap_paths(subject, text, settings)
    with mock.patch.object(np.random, "uniform", lambda *_: alphas.numpy()):
        scores = InputBaselineXGradient(of_points(subject, text, objective)).attribute(ends, starts)
    return scores.sum(2).mean(0)


def occlusion(subject, text, objective, settings):
    if settings["occlude"] == "delete":
        return None
    replacement = token_of(subject, settings["occlude"])
    method = attr.FeatureAblation(of_ids(subject, text, objective))
    return method.attribute(text.ids[None], baselines=replacement)[0].double() * ~text.special


def lime(subject, text, objective, settings):
    """LimeBase over the masks and weights of the case."""
    if "keep" in settings:
        return None
    masks = torch.tensor([[digit == "1" for digit in mask] for mask in settings["masks"]])
    weights, replacement = iter(settings["weights"]), token_of(subject, settings["replace"])

    def in_order(*_, **__):
        yield from masks.double()[:, None]

    def to_ids(mask, ids, **_):
        changed = ids.clone()
        changed[0, text.features] = torch.where(mask[0].bool(), ids[0, text.features], replacement)
        return changed

    ridge = {"trustai": ("LinearRegression", {}), "original": ("Ridge", {"alpha": 1.0})}[settings["variant"]]
    model = SkLearnLinearModel(f"linear_model.{ridge[0]}")
    model.construct_kwargs |= ridge[1]
    method = attr.LimeBase(
        of_ids(subject, text, objective), model, lambda *_, **__: next(weights), in_order, True, to_ids, None
    )
    return at_features(text, method.attribute(text.ids[None], n_samples=len(masks))[0])


def kernel_shap(subject, text, objective, settings):
    """Exact Shapley values by permutations, which are few only for short texts."""
    if "samples" in settings or len(text.features) > 5:
        return None
    groups = torch.zeros_like(text.ids)
    groups[text.features] = 1 + torch.arange(len(text.features))
    kept = text.ids.clone()
    kept[text.features] = token_of(subject, settings["replace"])
    options = {"feature_mask": groups[None], "perturbations_per_eval": 120}
    method = attr.ShapleyValues(of_ids(subject, text, objective))
    return method.attribute(text.ids[None], kept[None], **options)[0].double() * ~text.special


def at_features(text, values):
    scores = torch.zeros(len(text))
    scores[text.features] = values
    return scores


JUDGES = {
    "integrated-gradients": integrated_gradients,
    "saliency": saliency,
    "input-x-gradient": input_x_gradient,
    "smoothgrad": smoothgrad,
    "gradient-shap": gradient_shap,
    "occlusion": occlusion,
    "lime": lime,
    "kernel-shap": kernel_shap,
}
