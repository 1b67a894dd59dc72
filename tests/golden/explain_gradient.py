"""Gradient methods by definition: every point of a path or a cloud as one batch, gradients by autograd.

Each function takes (subject, text, objective, settings) and returns the fields of a golden case.
"""

import numpy as np
import torch

import philox

WORD = "word-embeddings"


def nodes(quadrature, steps):
    """(α, w) on [0, 1], every rule's weights summing to 1. The trapezoid's steps are intervals: it has a node more."""
    k = np.arange(steps)
    if quadrature == "gauss-legendre":
        x, w = np.polynomial.legendre.leggauss(steps)
        alphas, weights = (1 + x) / 2, w / 2
    elif quadrature == "trapezoid":
        alphas, weights = np.arange(steps + 1) / steps, np.full(steps + 1, 1 / steps)
        weights[[0, -1]] /= 2
    else:
        shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[quadrature]
        alphas, weights = (k + shift) / steps, np.full(steps, 1 / steps)
    assert abs(weights.sum() - 1) < 1e-14
    return torch.from_numpy(alphas), torch.from_numpy(weights)


def integrated_gradients(subject, text, objective, settings):
    """Sundararajan et al. 2017: Σₑ (x − x′) Σₖ wₖ ∂f/∂x (x′ + αₖ(x − x′))."""
    layer = settings["layer"]
    x = subject.layer_output(text, layer)
    start = subject.baseline(text, layer, settings["baseline"], settings.get("baseline_ids"))
    alphas, weights = nodes(settings["quadrature"], settings["steps"])
    points = start + alphas[:, None, None] * (x - start)
    _, gradients = subject.gradient(text, layer, points, objective)
    ends, _ = subject.gradient(text, layer, torch.stack([x, start]), objective)
    scores = ((x - start) * torch.einsum("k,kte->te", weights, gradients)).sum(1)
    return {"value": ends[0], "baseline_value": ends[1], "scores": scores}


def saliency(subject, text, objective, _):
    """Simonyan et al. 2014, with the Euclidean norm over the embedding."""
    value, gradient = at_the_text(subject, text, objective)
    return {"value": value, "scores": gradient.norm(dim=1)}


def input_x_gradient(subject, text, objective, _):
    value, gradient = at_the_text(subject, text, objective)
    return {"value": value, "scores": (subject.layer_output(text, WORD) * gradient).sum(1)}


def at_the_text(subject, text, objective):
    values, gradients = subject.gradient(text, WORD, subject.layer_output(text, WORD)[None], objective)
    return values[0], gradients[0]


def noisy(x, settings):
    """x + σn [samples, T, E]: every token is moved, special ones too."""
    draws = [philox.noise(settings["seed"], settings["record"], s, *x.shape) for s in range(settings["samples"])]
    return x + settings["sigma"] * torch.from_numpy(np.stack(draws))


def smoothgrad(subject, text, objective, settings):
    """Smilkov et al. 2017: the norm of the mean gradient around the text."""
    points = noisy(subject.layer_output(text, WORD), settings)
    _, gradients = subject.gradient(text, WORD, points, objective)
    value, _ = at_the_text(subject, text, objective)
    return {"value": value, "scores": gradients.mean(0).norm(dim=1)}


def gradient_shap(subject, text, objective, settings):
    """Lundberg & Lee's expected gradients as Captum does them: one random point of a path for each noisy sample.

    The paths start from one baseline, or from one of several `given` ones, drawn for each sample.
    """
    x = subject.layer_output(text, WORD)
    ends, starts, alphas = shap_paths(subject, text, settings)
    points = starts + alphas[:, None, None] * (ends - starts)
    _, gradients = subject.gradient(text, WORD, points, objective)
    start_values, _ = subject.gradient(text, WORD, starts, objective)
    value, _ = subject.gradient(text, WORD, x[None], objective)
    scores = ((ends - starts) * gradients).sum(2).mean(0)
    return {"value": value[0], "baseline_value": start_values.mean(), "scores": scores}


def shap_paths(subject, text, settings):
    """(noisy ends [S, T, E], baselines [S, T, E], positions on the path [S])"""
    ends = noisy(subject.layer_output(text, WORD), settings)
    given = settings.get("baseline_ids") or [None]
    baselines = [subject.baseline(text, WORD, settings["baseline"], ids) for ids in given]
    draws = [(settings["seed"], settings["record"], sample) for sample in range(settings["samples"])]
    starts = [baselines[philox.baseline_number(*draw, len(baselines))] for draw in draws]
    alphas = [philox.path_position(*draw) for draw in draws]
    return ends, torch.stack(starts), torch.tensor(alphas, dtype=torch.float64)
