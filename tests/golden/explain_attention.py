"""Attention methods: recorded maps, their products, their flows, and their gradients.

The maps are recorded in the order in which attention is applied: where a model shares layers (ALBERT), each
application counts as a layer. Each method takes (subject, text, objective, settings), as the others do.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field

import networkx
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask


UNITS = 2**53


@dataclass
class Recording:
    """Of one forward: q·k/√d before the softmax and the weights after it, each [H, T, T], bottom layer first."""

    scores: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    offsets: dict = field(default_factory=dict)  # added to a layer's weights, for finite differences


current = Recording()


def recorded_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """What transformers' eager attention computes, kept."""
    scores = query @ key.transpose(2, 3) * (query.size(-1) ** -0.5 if scaling is None else scaling)
    weights = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
    weights = weights + current.offsets.get(len(current.weights), 0.0)
    current.scores.append(scores[0])
    current.weights.append(weights)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("recorded", recorded_attention)
AttentionMaskInterface.register("recorded", eager_mask)


@contextmanager
def recorded(subject, offsets):
    global current
    current = Recording(offsets=offsets)
    subject.model.set_attn_implementation("recorded")
    try:
        yield current
    finally:
        subject.model.set_attn_implementation("eager")


def record(subject, text, offsets=None):
    """(logits [1, K], recording), with gradients from the maps upwards."""
    points = subject.layer_output(text, "word-embeddings")[None].requires_grad_(True)
    with recorded(subject, offsets or {}) as recording:
        logits = subject.logits(text, layer="word-embeddings", points=points)
    if offsets is None:
        assert (logits - subject.logits(text)).abs().max() < 1e-13
    return logits, recording


def mean_maps(recording):
    """[L][T, T]: heads averaged."""
    return [weights[0].mean(0).detach() for weights in recording.weights]


def attention(subject, text, _, settings):
    """The last layer's [CLS] row: weights averaged over the heads, or TrustAI's raw scores summed over them."""
    _, recording = record(subject, text)
    if settings["form"] == "scores":
        return {"scores": recording.scores[-1].sum(0)[0].detach()}
    return {"scores": mean_maps(recording)[-1][0]}


def with_residual(recording, start_layer):
    """½A + ½I of each layer from `start_layer` on, rows normalised (they sum to 1 already)."""
    maps = mean_maps(recording)[start_layer:]
    mixed = [0.5 * a + 0.5 * torch.eye(len(a), dtype=a.dtype) for a in maps]
    return [a / a.sum(1, keepdim=True) for a in mixed]


def rollout(subject, text, _, settings):
    """Abnar & Zuidema 2020: the product of the layers' maps, the last on the left; [CLS] row."""
    _, recording = record(subject, text)
    product = torch.eye(len(text), dtype=torch.float64)
    for a in with_residual(recording, settings["start_layer"]):
        product = a @ product
    assert (product.sum(1) - 1).abs().max() < 1e-14
    return {"scores": product[0]}


def flow(subject, text, _, settings):
    """Abnar & Zuidema 2020: the greatest flow from the last layer's [CLS] node down to each token."""
    _, recording = record(subject, text)
    graph = flow_graph(with_residual(recording, settings["start_layer"]))
    top = len(recording.weights) - settings["start_layer"]
    scores = [greatest_flow(graph, (top, 0), (0, token)) for token in range(len(text))]
    return {"scores": torch.tensor(scores, dtype=torch.float64)}


def flow_graph(maps):
    """Node (l, t) is token t above l layers; its edges to (l − 1, ·) may carry row t of that layer's map.

    Capacities are whole units of 2⁻⁵³: with floats push-relabel can be left with a rounding error it cannot move.
    """
    graph = networkx.DiGraph()
    for level, a in enumerate(maps, start=1):
        for i, row in enumerate(a.tolist()):
            for j, share in enumerate(row):
                graph.add_edge((level, i), (level - 1, j), capacity=round(share * UNITS))
    return graph


def greatest_flow(graph, source, sink):
    """A cut of the same capacity proves that no flow is greater."""
    value, _ = networkx.maximum_flow(graph, source, sink)
    cut, _ = networkx.minimum_cut(graph, source, sink, flow_func=networkx.algorithms.flow.edmonds_karp)
    assert value == cut, f"a flow of {value} and a cut of {cut}"
    return value / UNITS


def generic_attention(subject, text, objective, settings):
    """Chefer et al. 2021, equations 5 and 6, self-attention: R += mean_h(relu(A ∘ ∂f/∂A)) R from R = I; [CLS] row.

    Layers below `start_layer` are left out. Their code keeps the identity in R, as here, and leaves [CLS] itself out of
    its pictures; we keep it.
    """
    logits, recording = record(subject, text)
    gradients = torch.autograd.grad(objective(logits).sum(), recording.weights)
    relevance = torch.eye(len(text), dtype=torch.float64)
    for weights, gradient in list(zip(recording.weights, gradients))[settings["start_layer"] :]:
        relevance = relevance + (weights * gradient)[0].clamp(min=0).mean(0).detach() @ relevance
    return {"value": objective(logits)[0].detach(), "scores": relevance[0]}


def assert_map_gradient_is_finite_difference(subject, text, objective, step=1e-5):
    """Each layer's map moved along a random direction of length 1."""
    logits, recording = record(subject, text)
    gradients = torch.autograd.grad(objective(logits).sum(), recording.weights)
    generator = torch.Generator().manual_seed(2)
    for layer, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        moved = [objective(record(subject, text, {layer: s * step * direction})[0]) for s in (1, -1)]
        expected, found = (moved[0] - moved[1]) / (2 * step), (gradient * direction).sum()
        assert (expected - found).abs() < 1e-8 + 1e-6 * found.abs(), f"map {layer}: {found} is not {expected}"
