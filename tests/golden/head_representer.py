"""What each training answer adds to the logits of every other's boundaries in a head refitted to all of them, by PyTorch in float64.

    python head_representer.py

Writes CASE/representer.json for some of the models that heads.py makes; README.md describes it. The head is fitted to the tokens' features by Newton's
method with autograd's Hessian, `(1/F) Σ_f cross-entropy over tokens + (λ/2) ‖W‖²`; what a boundary adds is read off autograd's gradient of its own loss there.
"""

import torch
import torch.nn.functional as F
import transformers

import tiny_models
from generate import refuse_other_versions, write_lines
from head_gradients import ANSWERS, placed
from heads import CASES, HERE, QUESTIONS, STRIDE, TokenSubject, text_of

NAMES = ["bert-spans", "roberta-spans"]
PENALTY = 0.06


def windows(subject):
    """Of each record, (features [T, E], start, end) of each window that holds its answer."""
    kept = []
    subject.model.qa_outputs.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0][0].detach()))
    for (question, context), answers in zip(QUESTIONS, ANSWERS):
        encodings = subject.tokenizer(
            question, context, truncation="only_second", max_length=tiny_models.POSITIONS, stride=STRIDE,
            return_overflowing_tokens=True,
        ).encodings
        own = []
        for encoding in encodings:
            start = context.index(answers[0]) if answers else None
            place = placed(encoding, start, start + len(answers[0])) if answers else (0, 0)
            if place is not None:
                kept.clear()
                subject.logits(text_of(encoding))
                own.append((kept[-1], *place))
        yield own


def fitted(records):
    """W [2, E] where the objective is least."""
    terms = [window for own in records for window in own]
    weight = torch.zeros(2, terms[0][0].shape[1], dtype=torch.float64)

    def objective(flat):
        w = flat.view_as(weight)
        loss = sum(loss_of(w, window, output) for window in terms for output in range(2))
        return loss / (2 * len(terms)) + PENALTY / 2 * (w * w).sum()

    flat = weight.flatten()
    for _ in range(100):
        flat = flat.detach().requires_grad_(True)
        gradient = torch.autograd.grad(objective(flat), flat)[0]
        if gradient.norm() < 1e-13:
            break
        flat = flat.detach() - torch.linalg.solve(torch.autograd.functional.hessian(objective, flat.detach()), gradient)
    assert gradient.norm() < 1e-12, gradient.norm()
    return flat.detach().view_as(weight)


def loss_of(weight, window, output):
    features, *places = window
    return -F.log_softmax(features @ weight[output], 0)[places[output]]


def main():
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for kind, case in CASES:
        if case.name not in NAMES:
            continue
        folder = HERE / case.name
        records = list(windows(TokenSubject(kind, case, folder)))
        weight = fitted(records)
        count = 2 * sum(len(own) for own in records)
        points = []
        for own in records:
            w = weight.clone().requires_grad_(True)
            loss = sum(loss_of(w, window, output) for window in own for output in range(2))
            points.append(-torch.autograd.grad(loss, w)[0] / (PENALTY * count))
        asked = []
        for own in records:
            ends = torch.zeros_like(weight)
            for features, start, end in own:
                ends[0] += features[start]
                ends[1] += features[end]
            asked.append(ends)
        values = [[(point * ends).sum().item() for point in points] for ends in asked]
        logits = [(weight * ends).sum().item() for ends in asked]
        # The points of all records are the head.
        for row, logit in zip(values, logits):
            assert abs(sum(row) - logit) < 1e-9 * max(1, abs(logit)), (sum(row), logit)
        write_lines(folder / "representer.json", {"penalty": PENALTY, "logits": logits, "values": values})
        print(case.name)


if __name__ == "__main__":
    main()
