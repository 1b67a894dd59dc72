"""Perturbation methods by definition: every variant of a text through the model, explicit masks and regressions.

A feature is a token that is not special; a mask has one digit a feature, 1 where it is kept. Special tokens score 0.
Each function takes (subject, text, objective, settings) and returns the fields of a golden case.
"""

import math
from itertools import combinations

import numpy as np
import torch
from sklearn.linear_model import LinearRegression, Ridge


def occlusion(subject, text, objective, settings):
    """f(x) − f(x with one token masked, padded over, or deleted with the positions behind it moving up)."""
    value = objective(subject.logits(text))[0]
    scores = torch.zeros(len(text), dtype=torch.float64)
    for position in text.features.tolist():
        scores[position] = value - objective(without(subject, text, position, settings["occlude"]))[0]
    return {"value": value, "scores": scores}


def without(subject, text, position, how):
    if how == "delete":
        return subject.logits(text.without(position))
    ids = text.ids.clone()
    ids[position] = token_of(subject, how)
    return subject.logits(text, ids[None])


def token_of(subject, name):
    return getattr(subject.tokenizer, f"{name}_token_id")


def outputs_of(subject, text, objective, masks, replacement):
    """f [S] of the text with the features cleared in `masks` [S, n] replaced by a token."""
    ids = text.ids.repeat(len(masks), 1)
    cleared = torch.zeros_like(ids, dtype=torch.bool)
    cleared[:, text.features] = torch.from_numpy(~masks)
    return objective(subject.logits(text, torch.where(cleared, replacement, ids))).numpy()


def at_features(text, values):
    scores = np.zeros(len(text))
    scores[text.features.numpy()] = values
    return scores


def written(masks):
    return ["".join("01"[kept] for kept in mask) for mask in masks.astype(int)]


# --- LIME ---------------------------------------------------------------------------------------------------------


def bernoulli_masks(features, samples, seed):
    """TrustAI's: each feature kept with probability ½, the first sample whole. The last here has nothing left."""
    masks = np.random.Generator(np.random.PCG64(seed)).random((samples, features)) < 0.5
    masks[0], masks[-1] = True, False
    return masks


def removal_masks(features, samples, seed):
    """The original's: 1 to n features removed, all numbers as likely; the first sample whole."""
    random = np.random.Generator(np.random.PCG64(seed))
    masks = np.ones((samples, features), dtype=bool)
    for mask in masks[1:]:
        mask[random.choice(features, random.integers(1, features + 1), replace=False)] = False
    return masks


def cosine_distance(masks):
    """To the whole text: 1 − √(k/n) for k of n features kept."""
    return 1 - np.sqrt(masks.mean(1))


# How each LIME draws and weighs its samples and the ridge it solves.
LIMES = {
    "trustai": (bernoulli_masks, lambda d: np.exp(-8 * d**2), 0.0),  # √exp(−d²/0.25²)
    "original": (removal_masks, lambda d: np.sqrt(np.exp(-((100 * d) ** 2) / 25**2)), 1.0),
}


def lime(subject, text, objective, settings):
    """Ribeiro et al. 2016. `keep` features at most stay in the regression, where given."""
    draw, kernel, ridge = LIMES[settings["variant"]]
    masks = draw(len(text.features), settings["samples"], settings["mask_seed"])
    outputs = outputs_of(subject, text, objective, masks, token_of(subject, settings["replace"]))
    weights = kernel(cosine_distance(masks))
    kept = selected(masks, outputs, weights, settings.get("keep"))
    coefficients, intercept, r2 = weighted_ridge(masks[:, kept], outputs, weights, ridge)
    chosen = np.zeros(masks.shape[1])
    chosen[kept] = coefficients
    result = {"value": outputs[0], "masks": written(masks), "outputs": outputs, "weights": weights}
    return result | {"intercept": intercept, "r2": r2, "scores": at_features(text, chosen)}


def weighted_ridge(x, y, weights, ridge):
    """(coefficients, intercept, weighted R²) of min Σ w (y − b − xβ)² + ridge ‖β‖²; the intercept goes free."""
    x_mean, y_mean = np.average(x, axis=0, weights=weights), np.average(y, weights=weights)
    centred = x - x_mean
    gram = centred.T @ (weights[:, None] * centred) + ridge * np.eye(x.shape[1])
    beta = np.linalg.solve(gram, centred.T @ (weights * (y - y_mean)))
    residual = y - y_mean - centred @ beta
    r2 = 1 - (weights @ residual**2) / (weights @ (y - y_mean) ** 2)
    judge = (Ridge(alpha=ridge) if ridge else LinearRegression()).fit(x, y, sample_weight=weights)
    assert np.abs(judge.coef_ - beta).max() < 1e-10 * max(1e-3, np.abs(beta).max())
    assert abs(judge.score(x, y, sample_weight=weights) - r2) < 1e-10
    return beta, y_mean - x_mean @ beta, r2


def selected(masks, outputs, weights, keep):
    """The original's choice of features: up to 6 one after the other, more by their weight in a ridge of 0.01."""
    if keep is None or keep >= masks.shape[1]:
        return list(range(masks.shape[1]))
    if keep > 6:
        beta, _, _ = weighted_ridge(masks, outputs, weights, 0.01)
        return sorted(range(len(beta)), key=lambda i: -abs(beta[i]))[:keep]
    chosen = []
    for _ in range(keep):
        left = [i for i in range(masks.shape[1]) if i not in chosen]
        explained = [weighted_ridge(masks[:, chosen + [i]], outputs, weights, 0.0)[2] for i in left]
        chosen.append(left[int(np.argmax(explained))])
    return chosen


# --- Shapley values -----------------------------------------------------------------------------------------------


def kernel_shap(subject, text, objective, settings):
    """Lundberg & Lee 2017 with Σφ = f(x) − f(nothing) kept exactly.

    Without `samples` every subset is there with the kernel as its weight, and φ are the Shapley values. With them
    subsets and their complements are drawn, their sizes by the kernel, and count alike.
    """
    n = len(text.features)
    if "samples" in settings:
        masks = paired_masks(n, settings["samples"], settings["mask_seed"])
        weights = np.ones(len(masks))
    else:
        masks = all_masks(n)[1:-1]
        weights = np.array([shapley_kernel(n, k) for k in masks.sum(1)])
    replacement = token_of(subject, settings["replace"])
    value, base = outputs_of(subject, text, objective, np.array([[True] * n, [False] * n]), replacement)
    outputs = outputs_of(subject, text, objective, masks, replacement)
    phi = constrained_regression(masks, outputs - base, weights, value - base)
    if "samples" not in settings:
        exact = shapley_values(outputs_of(subject, text, objective, all_masks(n), replacement))
        assert np.abs(phi - exact).max() < 1e-12
    result = {"value": value, "baseline_value": base, "masks": written(masks), "outputs": outputs, "weights": weights}
    return result | {"scores": at_features(text, phi)}


def shapley_kernel(n, k):
    return (n - 1) / (math.comb(n, k) * k * (n - k))


def all_masks(n):
    """Row r keeps feature i where bit i of r is set."""
    return (np.arange(2**n)[:, None] >> np.arange(n)) % 2 == 1


def paired_masks(n, samples, seed):
    random = np.random.Generator(np.random.PCG64(seed))
    sizes = np.arange(1, n)
    chance = 1 / (sizes * (n - sizes))
    masks = np.zeros((samples, n), dtype=bool)
    for i in range(0, samples, 2):
        masks[i, random.choice(n, random.choice(sizes, p=chance / chance.sum()), replace=False)] = True
        masks[i + 1] = ~masks[i]
    return masks


def constrained_regression(masks, y, weights, total):
    """min Σ w (y − zφ)² with Σφ = total: the last feature is eliminated; the Lagrangian system says the same."""
    z = masks.astype(float)
    reduced, target = z[:, :-1] - z[:, -1:], y - total * z[:, -1]
    root = np.sqrt(weights)[:, None]
    phi = np.linalg.lstsq(root * reduced, root[:, 0] * target, rcond=None)[0]
    phi = np.append(phi, total - phi.sum())
    n = len(phi)
    system = np.zeros((n + 1, n + 1))
    system[:n, :n], system[:n, n], system[n, :n] = z.T @ (weights[:, None] * z), 1, 1
    by_lagrange = np.linalg.solve(system, np.append(z.T @ (weights * y), total))[:n]
    assert np.abs(phi - by_lagrange).max() < 1e-11
    return phi


def shapley_values(outputs):
    """By definition, from f of every subset in the order of `all_masks`."""
    n = int(math.log2(len(outputs)))
    phi = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            weight = 1 / (n * math.comb(n - 1, size))
            for subset in combinations(others, size):
                row = sum(1 << j for j in subset)
                phi[i] += weight * (outputs[row | 1 << i] - outputs[row])
    return phi


# --- NormLIME -----------------------------------------------------------------------------------------------------


def norm_lime(explained):
    """Ahern et al. 2019, as TrustAI's dependency computes it: {class: {token id: [weight, count]}}.

    `explained` holds (class, ids, weights) of each record's features. A weight w > 0 counts as w²/Σ|w|, with the sum
    over its record, and a token's are averaged over its positive occurrences: a token that a record holds twice is two.
    """
    found = {}
    for target, ids, weights in explained:
        for token, w in zip(ids, weights):
            if w > 0:
                found.setdefault(target, {}).setdefault(token, []).append(w * w / np.abs(weights).sum())
    return {
        str(target): {str(token): [np.mean(shares), len(shares)] for token, shares in sorted(tokens.items())}
        for target, tokens in sorted(found.items())
    }
