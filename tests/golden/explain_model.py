"""A tiny model as the token-level methods see it: what is explained, of which layer, against which baseline.

Everything is float64 and unpadded; a batch holds variants of one text, all of one length.
"""

from dataclasses import dataclass

import torch
import transformers

from tiny_models import POSITIONS


@dataclass(frozen=True)
class Text:
    """One encoded record: integers [T], and whether the tokenizer added the token itself."""

    ids: torch.Tensor
    type_ids: torch.Tensor
    special: torch.Tensor

    def __len__(self):
        return len(self.ids)

    @property
    def features(self):
        """Positions of the tokens that may be masked: those that are not special."""
        return (~self.special).nonzero().flatten()

    def without(self, position):
        keep = torch.arange(len(self)) != position
        return Text(self.ids[keep], self.type_ids[keep], self.special[keep])

    def replaced(self, token):
        """The ids with every token replaced that is not special."""
        return torch.where(self.special, self.ids, token)


@dataclass(frozen=True)
class Objective:
    """The number that is explained: a class's probability or logit, or a difference of two logits."""

    kind: str
    output: str
    target: int
    against: int | None = None

    def __call__(self, logits):
        """[B, K] to [B]."""
        chosen = logits[:, self.target]
        if self.against is not None:
            assert self.output == "logit"
            return chosen - logits[:, self.against]
        if self.output == "logit":
            return chosen
        assert self.kind != "regression", "a regression has no probability"
        return chosen.sigmoid() if self.kind == "multi-label" else logits.softmax(1)[:, self.target]


class Subject:
    """One model directory, read by transformers."""

    def __init__(self, case, folder):
        self.case = case
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self.model.requires_grad_(False)
        embeddings = getattr(self.model, self.model.base_model_prefix).embeddings
        self.layers = {"word-embeddings": embeddings.word_embeddings, "embeddings": embeddings}
        # RoBERTa's positions start behind the padding's own; they stay put when tokens are replaced by padding.
        is_roberta = self.case.family in ("Roberta", "XLMRoberta", "Camembert")
        self.first_position = self.model.config.pad_token_id + 1 if is_roberta else 0

    def encode(self, text, pair):
        encoding = self.tokenizer(text, pair, truncation=True, max_length=POSITIONS).encodings[0]
        special = torch.tensor(encoding.special_tokens_mask).bool()
        return Text(torch.tensor(encoding.ids), torch.tensor(encoding.type_ids), special)

    def logits(self, text, ids=None, layer=None, points=None):
        """[B, K]: of the text itself, of variants `ids` [B, T], or with `points` [B, T, E] as the layer's output."""
        ids = text.ids[None] if ids is None else ids
        rows = len(ids) if points is None else len(points)
        ids = ids.expand(rows, -1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["position_ids"] = (self.first_position + torch.arange(len(text))).expand(rows, -1)
        if self.case.takes_types:
            inputs["token_type_ids"] = text.type_ids.expand(rows, -1)
        if points is None:
            return self.model(**inputs).logits
        hook = self.layers[layer].register_forward_hook(lambda *_: points)
        try:
            return self.model(**inputs).logits
        finally:
            hook.remove()

    def layer_output(self, text, layer, ids=None):
        """[T, E]: what a layer makes of the text, or of other `ids` [T] in its place."""
        seen = []
        hook = self.layers[layer].register_forward_hook(lambda _, __, output: seen.append(output[0]))
        self.logits(text, None if ids is None else ids[None])
        hook.remove()
        return seen[0].detach()

    def baseline(self, text, layer, name, ids=None):
        """[T, E]. `zero` clears every vector; the others are what the layer makes of other token ids."""
        if name == "zero":
            return torch.zeros_like(self.layer_output(text, layer))
        if name == "given":
            return self.layer_output(text, layer, torch.tensor(ids))
        token = {"pad": self.tokenizer.pad_token_id, "mask": self.tokenizer.mask_token_id}[name]
        return self.layer_output(text, layer, text.replaced(token))

    def gradient(self, text, layer, points, objective):
        """(f [B], ∂f/∂points [B, T, E]) with the layer's output set to `points` [B, T, E]."""
        points = points.detach().clone().requires_grad_(True)
        values = objective(self.logits(text, layer=layer, points=points))
        (gradient,) = torch.autograd.grad(values.sum(), points)
        return values.detach(), gradient


def assert_gradient_is_finite_difference(subject, text, layer, objective, step=1e-5):
    """Along a random direction of length 1."""
    points = subject.layer_output(text, layer)[None]
    direction = torch.randn(points.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction /= direction.norm()
    _, gradient = subject.gradient(text, layer, points, objective)
    above, below = (subject.gradient(text, layer, points + s * step * direction, objective)[0] for s in (1, -1))
    expected, found = (above - below) / (2 * step), (gradient * direction).sum()
    assert (expected - found).abs() < 1e-8 + 1e-6 * found.abs(), f"{layer}: {found} is not {expected}"
