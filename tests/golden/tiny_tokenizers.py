"""A tokenizer of each kind that the model families use, with vocabularies small enough to read.

Each function returns a transformers tokenizer; `max_length` becomes its `model_max_length`.
"""

import string
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import AlbertTokenizer, BertTokenizer, CamembertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

from texts import RECORDS

WORDS = """the a is was not and of to it movie book hotel food good bad great very room service price
station from love happy this that with for in on do you we they quality read two""".split()
SUFFIXES = "ing ed er ly s able ness ion st".split()
HANZI = "这个房间很好服务也不错本书怎么样内容差值价质量太了再来我在年月买元再见的是有人大中国"
PUNCTUATION = ".,!?'\"-:;()$%&/=+@#[]<>。,、!?;:「」…"
ACCENTED = "éñüßışçα"
MASK = AddedToken("<mask>", lstrip=True, special=True)  # as published: it swallows the space before it


def unique(pieces):
    return list(dict.fromkeys(pieces))


def wordpiece_vocabulary(cased=False):
    """Special tokens first, in BERT's order; letters and digits also as continuations, so that most words are known."""
    letters = string.ascii_lowercase + (string.ascii_uppercase if cased else "")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [*PUNCTUATION, *string.digits, *letters, *ACCENTED, *HANZI, *WORDS]
    pieces += ["##" + piece for piece in [*string.digits, *letters, *SUFFIXES]]
    pieces += ["😀"]
    return unique(pieces)


def wordpiece(max_length, cased=False):
    vocabulary = {piece: index for index, piece in enumerate(wordpiece_vocabulary(cased))}
    return BertTokenizer(vocab=vocabulary, do_lower_case=not cased, model_max_length=max_length)


def byte_level_bpe(max_length):
    """RoBERTa's: every byte is a piece, so nothing is ever unknown; a few merges are learnt from the records."""
    corpus = [text for record in RECORDS for text in record if text] + WORDS * 4
    trainer = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer.train_from_iterator(corpus, vocab_size=360, special_tokens=specials, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_model(folder)
        files = {"vocab": str(Path(folder) / "vocab.json"), "merges": str(Path(folder) / "merges.txt")}
        return RobertaTokenizer(**files, mask_token=MASK, model_max_length=max_length)


def unigram_pieces(seed):
    """Pieces with made-up log probabilities: longer ones likelier, no two alike, so that no segmentation is a tie."""
    characters = unique([*string.ascii_letters, *string.digits, *PUNCTUATION, *ACCENTED, *HANZI])
    pieces = ["▁", *("▁" + word for word in WORDS), *SUFFIXES, *characters, "服务", "不错", "▁😀"]
    noise = np.random.Generator(np.random.PCG64(seed)).uniform(0, 2, len(pieces))
    return [(piece, round(-9 + 1.5 * min(len(piece), 4) - x, 6)) for piece, x in zip(unique(pieces), noise)]


def charsmap():
    """A SentencePiece normalisation compiled from a few of NFKC's rules.

    The full table of the published models would be a quarter of a megabyte; it is read by the same code.
    """
    rules = {chr(wide): chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)}
    rules |= {"\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": " ", "\u0007": ""}
    rules |= {"ﬁ": "fi", "㎏": "kg", "…": "...", "½": "1/2", "Ⅷ": "VIII", "e\u0301": "é", "n\u0303": "ñ"}
    code_points = lambda text: " ".join(f"{ord(character):X}" for character in text)
    with tempfile.TemporaryDirectory() as folder:
        table, prefix = Path(folder) / "rules.tsv", Path(folder) / "model"
        table.write_text("".join(f"{code_points(a)}\t{code_points(b)}\n" for a, b in rules.items()))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(WORDS * 8), model_prefix=str(prefix), vocab_size=60, model_type="unigram",
            hard_vocab_limit=False, normalization_rule_tsv=str(table), minloglevel=2,
        )  # fmt: skip
        model = spm_proto.ModelProto.FromString(prefix.with_suffix(".model").read_bytes())
    return model.normalizer_spec.precompiled_charsmap


def xlm_roberta(max_length):
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*specials, *unigram_pieces(seed=1), ("<mask>", 0.0)]
    options = {"_spm_precompiled_charsmap": charsmap(), "mask_token": MASK, "model_max_length": max_length}
    return XLMRobertaTokenizer(vocab=vocabulary, **options)


def camembert(max_length):
    """Its <s> and </s> stand at 5 and 6, behind fairseq's unused ones."""
    unused = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    specials = [("<s>", 0.0), ("</s>", 0.0)]
    vocabulary = [*unused, *specials, *unigram_pieces(seed=2), ("<mask>", 0.0)]
    return CamembertTokenizer(vocab=vocabulary, model_max_length=max_length)


def albert(max_length):
    specials = [("<pad>", 0.0), ("<unk>", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[MASK]", 0.0)]
    return AlbertTokenizer(vocab=[*specials, *unigram_pieces(seed=3)], model_max_length=max_length)
