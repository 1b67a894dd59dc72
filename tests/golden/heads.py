"""Tiny models that say something of tokens (answer spans, tags, masked pieces), and what PyTorch says about them in float64.

    python heads.py [CASE...]

Writes CASE/ and CASE/heads.json; README.md describes them.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

import explain_attention
import explain_gradient
import explain_perturbation
import tiny_models
from explain_model import Subject, Text
from generate import refuse_other_versions, write_lines
from tiny_models import ALBERT, BERT, BERT_WIDER, CAMEMBERT, DISTILBERT, ERNIE, ROBERTA, Case

HERE = Path(__file__).parent
STRIDE = 8
MAX_ANSWER = 6
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CLASSES = {"spans": "QuestionAnswering", "tags": "TokenClassification", "masks": "MaskedLM"}


def case(name, family, config, seed, kind, **options):
    labels = {"spans": (), "tags": TAGS, "masks": ()}[kind]
    classes = len(labels) or 2
    return kind, Case(name, family, config, seed=seed, classes=classes, labels=labels, **options)


CASES = [
    case("bert-spans", "Bert", BERT_WIDER, 31, "spans"),
    case("roberta-spans", "Roberta", ROBERTA, 32, "spans", tokenizer="byte_level_bpe"),
    case("distilbert-spans", "DistilBert", DISTILBERT, 33, "spans"),
    case("electra-spans", "Electra", BERT | {"embedding_size": 12}, 34, "spans"),
    case("albert-spans", "Albert", ALBERT, 35, "spans", tokenizer="albert"),
    case("bert-tags", "Bert", BERT_WIDER, 41, "tags"),
    case("ernie-tags", "Ernie", ERNIE, 42, "tags", vocabulary_only=True),
    case("camembert-tags", "Camembert", CAMEMBERT, 43, "tags", tokenizer="camembert"),
    case("distilbert-tags", "DistilBert", DISTILBERT, 44, "tags"),
    case("bert-masks", "Bert", BERT_WIDER | {"hidden_act": "relu"}, 51, "masks"),
    case("roberta-masks", "Roberta", ROBERTA, 52, "masks", tokenizer="byte_level_bpe"),
    case("distilbert-masks", "DistilBert", DISTILBERT, 53, "masks"),
    case("electra-masks", "Electra", BERT | {"embedding_size": 20}, 54, "masks"),
    case("albert-masks", "Albert", ALBERT, 55, "masks", tokenizer="albert"),
    case("bert-untied-masks", "Bert", BERT | {"tie_word_embeddings": False}, 56, "masks"),
]

QUESTIONS = [
    ("Where is the hotel?", "The hotel is two minutes from the station, and the food is very good."),
    ("服务怎么样?", "这个房间很好,服务也不错,质量太差了,再也不来了。"),
    (
        "What did we buy?",
        "In the movie we buy a book about a hotel; the staff of that hotel is happy. " * 3 + "Café Müller is near.",
    ),
    ("质量?", "good"),
]
TAGGED = [
    ["Anna", "loved", "the", "hotel", "in", "Bonn", "."],
    ["We", "read", "unaffable", "books"],
    ["中国", "人", "很", "好"],
    ["good"],
]
# Longer than the models; the second in words of several pieces.
LONG_TAGGED = [
    ["Anna", "loved", "the", "hotel", "in", "Bonn", "."] * 13,
    ["unaffable", "books", "Café", "中国"] * 11,
]
MASKED = ["The {} was not good.", "这个房间很{},服务也不{}。", "{}"]


class Spans:
    """A model of answer spans with its two logits a token side by side."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **inputs):
        out = self.model(**inputs)
        return SimpleNamespace(logits=torch.stack([out.start_logits, out.end_logits], -1))


class TokenSubject(Subject):
    """One model directory; its logits are [B, T, K]."""

    def __init__(self, kind, case, folder):
        self.case = case
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = getattr(transformers, "AutoModelFor" + CLASSES[kind]).from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        )
        model.eval().requires_grad_(False)
        self.model = Spans(model) if kind == "spans" else model
        embeddings = getattr(model, model.base_model_prefix).embeddings
        self.layers = {"word-embeddings": embeddings.word_embeddings, "embeddings": embeddings}
        is_roberta = case.family in ("Roberta", "XLMRoberta", "Camembert")
        self.first_position = model.config.pad_token_id + 1 if is_roberta else 0


def text_of(encoding):
    return Text(
        torch.tensor(encoding.ids), torch.tensor(encoding.type_ids), torch.tensor(encoding.special_tokens_mask).bool()
    )


def fields(encoding):
    specials = encoding.special_tokens_mask
    return {
        "ids": encoding.ids,
        "type_ids": encoding.type_ids,
        "offsets": [None if special else list(span) for span, special in zip(encoding.offsets, specials)],
        "segments": encoding.sequence_ids,
    }


# --- what is explained -------------------------------------------------------------------------------------------------


def span_objective(start, end):
    return lambda z: z[:, :, 0].softmax(1)[:, start] + z[:, :, 1].softmax(1)[:, end]


def tags_objective(tokens):
    """The mean probability of tags (token, class)."""
    return lambda z: sum(z[:, token].softmax(1)[:, tag] for token, tag in tokens) / len(tokens)


IG = {"quadrature": "gauss-legendre", "steps": 6, "layer": "word-embeddings", "baseline": "pad"}


def explanations(subject, text, objective, roots):
    """Scores by each method; attention's are followed from the tokens explained, in equal parts."""
    yield "integrated-gradients", explain_gradient.integrated_gradients(subject, text, objective, IG)["scores"]
    yield "saliency", explain_gradient.saliency(subject, text, objective, {})["scores"]
    yield "input-x-gradient", explain_gradient.input_x_gradient(subject, text, objective, {})["scores"]
    yield "occlusion", explain_perturbation.occlusion(subject, text, objective, {"occlude": "mask"})["scores"]
    logits, recording = explain_attention.record(subject, text)
    of_roots = lambda matrix: matrix[roots].mean(0)
    yield "attention", of_roots(explain_attention.mean_maps(recording)[-1])
    product = relevance = torch.eye(len(text), dtype=torch.float64)
    for a in explain_attention.with_residual(recording, 0):
        product = a @ product
    yield "attention-rollout", of_roots(product)
    gradients = torch.autograd.grad(objective(logits).sum(), recording.weights)
    for weights, gradient in zip(recording.weights, gradients):
        relevance = relevance + (weights * gradient)[0].clamp(min=0).mean(0).detach() @ relevance
    yield "generic-attention", of_roots(relevance)


def explained(subject, text, objective, roots, **of):
    value = objective(subject.logits(text))[0].item()
    return [
        {**of, "method": method, "value": value, "scores": scores}
        for method, scores in explanations(subject, text, objective, roots)
    ]


# --- each kind of head -------------------------------------------------------------------------------------------------


def golden_spans(subject):
    records, explains = [], []
    for question, context in QUESTIONS:
        encodings = subject.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=tiny_models.POSITIONS,
            stride=STRIDE,
            return_overflowing_tokens=True,
        ).encodings
        windows, best = [], {}
        for w, encoding in enumerate(encodings):
            z = subject.logits(text_of(encoding))[0]
            windows.append(fields(encoding) | {"logits": z})
            places = [t for t, segment in enumerate(encoding.sequence_ids) if segment == 1]
            for s in places:
                for e in range(s, min(s + MAX_ANSWER, places[-1] + 1)):
                    (start, _), (_, end) = encoding.offsets[s], encoding.offsets[e]
                    score = (z[s, 0] + z[e, 1]).item()
                    if end > start and score > best.get((start, end), (-1e9,))[0]:
                        best[start, end] = (score, w, s, e)
        ranked = sorted(best.items(), key=lambda item: -item[1][0])[:5]
        n_best = [{"start": s, "end": e, "score": found[0], "text": context[s:e]} for (s, e), found in ranked]
        none = min(window["logits"][0].sum().item() for window in windows)
        _, window, s, e = ranked[0][1]
        records.append(
            {"question": question, "context": context, "windows": windows, "n_best": n_best, "no_answer": none}
        )
        of = {"record": len(records) - 1, "window": window, "tokens": [s, e]}
        text = text_of(encodings[window])
        explains += explained(subject, text, span_objective(s, e), sorted({s, e}), **of)
    return records, explains


def golden_tags(subject):
    records, explains = [], []
    for words in TAGGED:
        chinese = all("\u4e00" <= c <= "\u9fff" for word in words for c in word)
        joined = ("" if chinese else " ").join(words)
        encoding = subject.tokenizer(joined).encodings[0]
        if subject.case.tokenizer == "wordpiece":
            assert encoding.ids == subject.tokenizer(words, is_split_into_words=True).encodings[0].ids
        text = text_of(encoding)
        z = subject.logits(text)[0]
        records.append({"words": words, "text": joined, **fields(encoding), "logits": z})
        own = text.features.tolist()
        token = own[len(own) // 2]
        of = {"record": len(records) - 1}
        one = [[token, z[token].argmax().item()]]
        explains += explained(subject, text, tags_objective(one), [token], tokens=one, **of)
        if len(own) > 2:
            some = [[own[1], 1], [own[2], 2]]
            explains += explained(subject, text, tags_objective(some), own[1:3], tokens=some, **of)
    return records, explains


def most_around(windows, token):
    """The window that shows most of what is around a token, `_check_is_max_context` of Google's BERT without its bonus for length, and its place there."""
    text = max(start + length for start, length in windows)

    def around(window):
        start, length = windows[window]
        if not start <= token < start + length:
            return -1
        before = token - start if start > 0 else text
        after = start + length - 1 - token if start + length < text else text
        return min(before, after)

    window = max(range(len(windows)), key=around)
    return window, token - windows[window][0]


def long_tags(subject):
    """Texts in windows, and which window's logits are each token's; special tokens are the outer windows'."""
    records = []
    for words in LONG_TAGGED:
        joined = " ".join(words)
        options = {"truncation": True, "max_length": tiny_models.POSITIONS, "stride": STRIDE}
        encodings = subject.tokenizer(joined, **options, return_overflowing_tokens=True).encodings
        if subject.case.tokenizer == "wordpiece":
            again = subject.tokenizer(words, is_split_into_words=True, **options, return_overflowing_tokens=True)
            assert [e.ids for e in encodings] == [e.ids for e in again.encodings]
        assert len(encodings) > 2
        whole = subject.tokenizer(joined).encodings[0]
        own = [t for t, special in enumerate(whole.special_tokens_mask) if not special]
        lengths = [e.special_tokens_mask.count(0) for e in encodings]
        starts = [sum(lengths[:w]) - w * STRIDE for w in range(len(lengths))]
        assert starts[-1] + lengths[-1] == len(own)
        z = [subject.logits(text_of(encoding))[0] for encoding in encodings]
        said = []
        for token in range(len(whole.ids)):
            if token < own[0]:
                said.append(z[0][token])
            elif token > own[-1]:
                said.append(z[-1][token - len(whole.ids)])
            else:
                window, place = most_around(list(zip(starts, lengths)), token - own[0])
                said.append(z[window][own[0] + place])
        windows = [fields(encoding) for encoding in encodings]
        records.append({"words": words, "text": joined, "windows": windows, **fields(whole), "logits": torch.stack(said)})
    return records


def golden_masks(subject):
    records, explains = [], []
    mask = subject.tokenizer.mask_token
    for text in MASKED:
        text = text.replace("{}", mask)
        encoding = subject.tokenizer(text).encodings[0]
        masks = [t for t, token in enumerate(encoding.ids) if token == subject.tokenizer.mask_token_id]
        seen = text_of(encoding)
        seen.special[masks] = True
        z = subject.logits(seen)[0]
        records.append({"text": text, **fields(encoding), "masks": masks, "logits": z[masks]})
        token, piece = masks[-1], z[masks[-1]].argmax().item()
        of = {"record": len(records) - 1, "tokens": [[token, piece]]}
        explains += explained(subject, seen, tags_objective([(token, piece)]), [token], **of)
    return records, explains


GOLDEN = {"spans": golden_spans, "tags": golden_tags, "masks": golden_masks}


def write_directory(kind, case, folder):
    tokenizer = tiny_models.build_tokenizer(case)
    options = dict(case.config, vocab_size=len(tokenizer))
    if kind == "tags":
        options |= {"id2label": dict(enumerate(case.labels)), "label2id": {y: i for i, y in enumerate(case.labels)}}
    config = getattr(transformers, case.family + "Config")(**options)
    model = getattr(transformers, f"{case.family}For{CLASSES[kind]}")(config)
    model.load_state_dict(
        {name: tiny_models.draw(case, name, tuple(x.shape)) for name, x in model.state_dict().items()}
    )
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if case.vocabulary_only:
        tiny_models.write_vocabulary(tokenizer, folder)
    tiny_models.compact_json(folder / "tokenizer.json")


def main(names):
    refuse_other_versions(torch, transformers)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for kind, case in CASES:
        if names and case.name not in names:
            continue
        folder = HERE / case.name
        write_directory(kind, replace(case), folder)
        subject = TokenSubject(kind, case, folder)
        records, explains = GOLDEN[kind](subject)
        long = {"long": long_tags(subject)} if kind == "tags" else {}
        settings = {"kind": kind, "stride": STRIDE, "max_answer_tokens": MAX_ANSWER, "max_length": tiny_models.POSITIONS}
        write_lines(folder / "heads.json", settings | long | {"records": records, "explain": explains})
        print(case.name)


if __name__ == "__main__":
    main(sys.argv[1:])
