"""The last layer's attribution rules by definition: explicit gradients, explicit Hessians, explicit refits.

Nothing here uses the factorisation that the engine is built on. A record's gradient is whatever autograd returns for
the last layer's weight and bias, flattened; a Hessian is autograd's of the mean loss. All of it is float64.
"""

import torch
import torch.nn.functional as F

DAMPING = 0.01  # influence: H + DAMPING·I
REFIT_DECAY = 0.06  # representer: (1/N) Σ loss + (REFIT_DECAY/2) ‖[W;b]‖²


def loss(kind, logits, target):
    """Of one record. Multi-label losses are summed over the labels, so that δ = σ(z) − y."""
    if kind == "regression":
        return ((logits - target) ** 2).sum()
    if kind == "multi-label":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return F.cross_entropy(logits, target)  # target: a class, or probabilities


def with_one(features):
    return torch.cat([features, features.new_ones(*features.shape[:-1], 1)], dim=-1)


def mean_loss(kind, head, features, targets):
    """`head` is [W, b] flattened row by row: K rows of E + 1."""
    logits = with_one(features) @ head.view(-1, features.shape[1] + 1).T
    return sum(loss(kind, z, y) for z, y in zip(logits, targets)) / len(features)


def hessian(kind, head, features, targets):
    return torch.autograd.functional.hessian(lambda w: mean_loss(kind, w, features, targets), head)


def identity(n):
    return torch.eye(n, dtype=torch.float64)


def feature_rules(train, query):
    return {
        "feature-dot": query @ train.T,
        "feature-cos": F.normalize(query, dim=1) @ F.normalize(train, dim=1).T,
        "feature-euc": -torch.cdist(query, train, compute_mode="donot_use_mm_for_euclid_dist"),
    }


def gradient_rules(train, query):
    """`train` and `query` hold one flattened gradient a row."""
    return {"grad-dot": query @ train.T, "grad-cos": F.normalize(query, dim=1) @ F.normalize(train, dim=1).T}


def influence_rules(curvature, train, query):
    """q (H + λI)⁻¹ iᵀ, and the same over the record's own norm."""
    inverse = torch.linalg.inv(curvature + DAMPING * identity(len(curvature)))
    scores = query @ inverse @ train.T
    own = torch.einsum("ni,ij,nj->n", train, inverse, train).sqrt()
    return {"influence": scores, "relatif": scores / own}


def kronecker_hessian(kind, head, features, targets):
    """S ⊗ A: the mean curvature over logits, times the mean outer product of features."""
    x = with_one(features)
    logits = x @ head.view(-1, x.shape[1]).T
    curvature = lambda z, y: torch.autograd.functional.hessian(lambda v: loss(kind, v, y), z)
    over_logits = sum(curvature(z, y) for z, y in zip(logits, targets)) / len(x)
    return torch.kron(over_logits, x.T @ x / len(x))


def refit(features, targets, classes, weights=None):
    """The minimum of (1/N) Σ wᵢ CEᵢ + (λ/2)‖[W;b]‖², by Newton's method from zero."""
    n = len(features)
    weights = torch.ones(n, dtype=torch.float64) if weights is None else weights
    x = with_one(features)

    def objective(head):
        losses = F.cross_entropy(x @ head.view(classes, -1).T, targets, reduction="none")
        return (weights * losses).sum() / n + REFIT_DECAY / 2 * head @ head

    head = torch.zeros(classes * x.shape[1], dtype=torch.float64)
    for _ in range(50):
        head.requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(head), head)
        head = head.detach()
        if gradient.norm() < 1e-13:
            return head
        head -= torch.linalg.solve(torch.autograd.functional.hessian(objective, head), gradient)
    assert gradient.norm() < 1e-12, f"the refit stopped at a gradient of {gradient.norm():.1e}"
    return head


def representer(head, features, targets, classes):
    """α = −δ / (λN) at the refit head, so that Σ αᵢ [hᵢ;1] gives the head back."""
    probabilities = (with_one(features) @ head.view(classes, -1).T).softmax(1)
    onehot = F.one_hot(targets, classes).double() if targets.dim() == 1 else targets
    alpha = (onehot - probabilities) / (REFIT_DECAY * len(features))
    rebuilt = alpha.T @ with_one(features)
    assert (rebuilt - head.view(classes, -1)).abs().max() < 1e-10
    return alpha


def influence_by_reweighting(train, train_targets, query, query_targets, classes, step=1e-4):
    """Central differences of each query's loss in each record's weight, the head refitted each time.

    Weight 1 + ε stands for ε/N more of the record, so −N dL/dε is what removing it costs, times N.
    """
    rows = []
    n = len(train)
    for i in range(n):
        moved = []
        for sign in (1, -1):
            weights = torch.ones(n, dtype=torch.float64)
            weights[i] += sign * step
            head = refit(train, train_targets, classes, weights).view(classes, -1)
            moved.append(F.cross_entropy(with_one(query) @ head.T, query_targets, reduction="none"))
        rows.append(-n * (moved[0] - moved[1]) / (2 * step))
    return torch.stack(rows, dim=1)
