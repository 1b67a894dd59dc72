"""The explicit gradient of each record's loss in a head over tokens, by autograd in float64, and the dot products of all pairs of them.

    python head_gradients.py

Writes CASE/gradients.json for some of the models that heads.py makes; README.md describes it. The loss is a sum: over the start and the end of every
window that holds the answer (the first token where there is none), over the tags of words' first tokens, over masks.
"""

import torch
import torch.nn.functional as F
import transformers

import tiny_models
from generate import refuse_other_versions, write_lines
from heads import CASES, HERE, QUESTIONS, STRIDE, TAGGED, TAGS, TokenSubject, text_of

NAMES = [
    "bert-spans", "roberta-spans", "distilbert-spans", "bert-tags", "camembert-tags", "distilbert-tags", "bert-masks",
    "roberta-masks", "electra-masks",
]
ANSWERS = [["two minutes"], ["服务也不错"], ["a book", "hotel"], []]
GOLD = [[1, 0, 0, 3, 0, 3, 0], [0, 0, 1, 2], [3, 4, 0, 0], [2]]
MASKED = [("The {} was not good.", ["hotel"]), ("这个房间很{},服务也不{}。", ["好", "错"]), ("{} good {}", ["is", "not"])]


def last_layer(kind, model):
    if kind == "masks":
        layer = model.get_output_embeddings()
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())  # the embeddings keep theirs
        return layer
    return model.qa_outputs if kind == "spans" else model.classifier


def placed(encoding, start, end):
    """The first and the last token of characters of the context, where all of them are in the window."""
    own = [(t, *encoding.offsets[t]) for t, segment in enumerate(encoding.sequence_ids) if segment == 1]
    first = next((item for item in own if item[2] > start), None)
    last = next((item for item in own if item[2] >= end), None)
    if first is None or last is None or first[1] > start or last[1] >= end:
        return None
    return first[0], last[0]


def span_records(subject):
    for (question, context), answers in zip(QUESTIONS, ANSWERS):
        starts = [context.index(answer) for answer in answers]
        encodings = subject.tokenizer(
            question, context, truncation="only_second", max_length=tiny_models.POSITIONS, stride=STRIDE,
            return_overflowing_tokens=True,
        ).encodings
        terms = []
        for encoding in encodings:
            place = placed(encoding, starts[0], starts[0] + len(answers[0])) if answers else (0, 0)
            if place is not None:
                terms.append((encoding, place))
        assert terms

        def loss(terms=terms):
            total = 0
            for encoding, (start, end) in terms:
                z = subject.logits(text_of(encoding))[0]
                total = total - F.log_softmax(z[:, 0], 0)[start] - F.log_softmax(z[:, 1], 0)[end]
            return total

        record = {"question": question, "context": context}
        record["answers"] = {"text": answers, "answer_start": starts}
        yield record, 2 * len(terms), loss


def tag_records(subject):
    for words, tags in zip(TAGGED, GOLD):
        chinese = all("\u4e00" <= c <= "\u9fff" for word in words for c in word)
        between = "" if chinese else " "
        encoding = subject.tokenizer(between.join(words)).encodings[0]
        own = [(t, *encoding.offsets[t]) for t, special in enumerate(encoding.special_tokens_mask) if not special]
        at, tokens = 0, []
        for word in words:
            token = next(t for t, start, end in own if end > at and start < at + len(word))
            tokens.append(token)
            at += len(word) + len(between)

        def loss(encoding=encoding, tokens=tokens, tags=tags):
            z = subject.logits(text_of(encoding))[0]
            return sum(F.cross_entropy(z[token], torch.tensor(tag)) for token, tag in zip(tokens, tags))

        yield {"tokens": words, "ner_tags": [TAGS[tag] for tag in tags]}, len(words), loss


def mask_records(subject):
    for text, pieces in MASKED:
        text = text.replace("{}", subject.tokenizer.mask_token)
        encoding = subject.tokenizer(text).encodings[0]
        masks = [t for t, token in enumerate(encoding.ids) if token == subject.tokenizer.mask_token_id]
        # Those of a vocabulary that has not got them are others.
        own = subject.tokenizer.get_vocab()
        pieces = [piece if piece in own else sorted(own)[len(own) // 2 + i] for i, piece in enumerate(pieces)]
        assert len(pieces) == len(masks)

        def loss(encoding=encoding, masks=masks, ids=[own[piece] for piece in pieces]):
            z = subject.logits(text_of(encoding))[0]
            return sum(F.cross_entropy(z[token], torch.tensor(piece)) for token, piece in zip(masks, ids))

        yield {"text": text, "label": pieces}, len(masks), loss


RECORDS = {"spans": span_records, "tags": tag_records, "masks": mask_records}


def main():
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for kind, case in CASES:
        if case.name not in NAMES:
            continue
        folder = HERE / case.name
        subject = TokenSubject(kind, case, folder)
        layer = last_layer(kind, subject.model)
        parameters = [layer.weight.requires_grad_(True), layer.bias.requires_grad_(True)]
        records, gradients, losses, factors = [], [], [], []
        for record, count, loss in RECORDS[kind](subject):
            value = loss()
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]))
            records.append(record)
            losses.append(value.item())
            factors.append(count)
        dots = torch.stack(gradients) @ torch.stack(gradients).T
        settings = {"stride": STRIDE, "kind": kind, "losses": losses, "factors": factors, "dots": dots.tolist()}
        write_lines(folder / "gradients.json", settings | {"records": records})
        print(case.name)


if __name__ == "__main__":
    main()
