"""The tiny models: which there are, their weights, and how their directories are written.

Every weight is drawn from a generator seeded by the case and the tensor's name, so it depends on neither the order of
the tensors nor the library's own initialisation.
"""

import json
import math
import shutil
import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_tokenizers

POSITIONS = 48

# Small, but not so regular that a swapped dimension would go unseen.
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BERT |= {"max_position_embeddings": POSITIONS}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": POSITIONS}
ROBERTA = BERT | {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
ROBERTA |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
CAMEMBERT = ROBERTA | {"bos_token_id": 5, "eos_token_id": 6}
ERNIE = BERT | {"type_vocab_size": 4, "layer_norm_eps": 1e-5}
ALBERT = BERT | {"embedding_size": 12, "num_hidden_layers": 3, "hidden_act": "gelu_new"}
ALBERT |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


@dataclass(frozen=True)
class Case:
    """One model directory. `seed` and `noise` name the weights: cases with an equal seed share them.

    The seeds were chosen so that each model's predictions on the records differ from one another.
    """

    name: str
    family: str  # as in transformers' class names: Bert, Roberta, ...
    config: dict
    seed: int
    classes: int = 2  # 0: an encoder without a head
    labels: tuple = ()  # names; transformers' own LABEL_0, ... where empty
    problem: str | None = None  # config.json's problem_type
    tokenizer: str = "wordpiece"
    tokenizer_options: dict = field(default_factory=dict)
    vocabulary_only: bool = False  # vocab.txt in place of tokenizer.json
    store: torch.dtype = torch.float32
    shard_size: str | None = None
    noise: float = 0.0  # relative size of a perturbation: another checkpoint of the same model
    legacy_names: bool = False
    pooling: dict | None = None  # 1_Pooling/config.json
    normalize: bool = False
    max_seq_length: int | None = None  # sentence_bert_config.json

    @property
    def kind(self):
        if self.classes == 0:
            return "headless"
        if self.problem == "multi_label_classification":
            return "multi-label"
        return "regression" if self.classes == 1 else "single-label"

    @property
    def takes_types(self):
        return self.family in ("Bert", "Ernie", "Electra", "Albert")

    @property
    def max_length(self):
        return min(self.max_seq_length or POSITIONS, POSITIONS)


BERT_WIDER = BERT | {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
UNLIMITED = {"max_length": int(1e30)}  # what transformers writes for a tokenizer that names no maximum
MEAN_AS_OF_2021 = {
    "word_embedding_dimension": 16,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
CLS_AS_OF_2026 = {"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True}
SENTIMENTS = ("very bad", "bad", "neutral", "good", "very good")

CASES = [
    Case("bert-cls2", "Bert", BERT_WIDER, seed=1),
    Case("bert-cls2-checkpoint", "Bert", BERT_WIDER, seed=1, noise=0.3),
    Case("bert-legacy-names", "Bert", BERT_WIDER, seed=1, legacy_names=True),
    Case("bert-sharded", "Bert", BERT_WIDER, seed=1, shard_size="30KB"),
    Case("bert-f16", "Bert", BERT, seed=122, store=torch.float16),
    Case("bert-bf16", "Bert", BERT, seed=122, store=torch.bfloat16),
    Case("bert-cls5", "Bert", BERT_WIDER | {"hidden_act": "relu"}, seed=163, classes=5, labels=SENTIMENTS),
    Case(
        "bert-multilabel",
        "Bert",
        BERT | {"hidden_act": "gelu_fast"},
        seed=24,
        classes=4,
        labels=("toxic", "funny", "old", "long"),
        problem="multi_label_classification",
    ),
    Case(
        "bert-regression",
        "Bert",
        BERT | {"hidden_size": 20, "num_attention_heads": 5, "hidden_act": "tanh"},
        seed=5,
        classes=1,
    ),
    Case("bert-gelu-new", "Bert", BERT | {"hidden_act": "gelu_new"}, seed=6, classes=3),
    Case("bert-vocab-only", "Bert", BERT, seed=7, vocabulary_only=True),
    Case(
        "bert-zh",
        "Bert",
        BERT,
        seed=548,
        labels=("差评", "好评"),
        tokenizer_options={"cased": True},
        vocabulary_only=True,
    ),
    Case(
        "ernie-task-cls2",
        "Ernie",
        ERNIE | {"use_task_id": True, "task_type_vocab_size": 3},
        seed=9,
        vocabulary_only=True,
    ),
    Case("ernie-cls3", "Ernie", ERNIE | {"hidden_act": "relu"}, seed=10, classes=3),
    Case("roberta-cls2", "Roberta", ROBERTA, seed=311, tokenizer="byte_level_bpe"),
    Case("xlm-roberta-cls3", "XLMRoberta", ROBERTA, seed=212, classes=3, tokenizer="xlm_roberta"),
    Case("camembert-cls2", "Camembert", CAMEMBERT, seed=153, tokenizer="camembert", tokenizer_options=UNLIMITED),
    Case("distilbert-cls2", "DistilBert", DISTILBERT, seed=114),
    Case("electra-cls3", "Electra", BERT | {"embedding_size": 12}, seed=15, classes=3),
    Case("albert-cls2", "Albert", ALBERT, seed=136, tokenizer="albert"),
    Case(
        "albert-groups-cls3",
        "Albert",
        ALBERT | {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
        seed=217,
        classes=3,
        tokenizer="albert",
    ),
    Case("minilm-mean", "Bert", BERT, seed=18, classes=0, pooling=MEAN_AS_OF_2021, normalize=True, max_seq_length=32),
    Case(
        "headless-cls", "Bert", BERT | {"hidden_act": "gelu_pytorch_tanh"}, seed=19, classes=0, pooling=CLS_AS_OF_2026
    ),
    Case(
        "headless-roberta", "Roberta", ROBERTA, seed=20, classes=0, tokenizer="byte_level_bpe", pooling=MEAN_AS_OF_2021
    ),
]


def draw(case, name, shape):
    """One tensor: matrices N(0, 1.5/sqrt(fan in)), embeddings N(0, 0.3), norms 1 + N(0, 0.1), biases N(0, 0.1).

    At these widths attention is far from uniform and no term is small enough to be forgotten unseen.
    """
    random = lambda salt: np.random.Generator(np.random.PCG64([case.seed, salt, zlib.crc32(name.encode())]))
    normal = random(0).standard_normal(shape)
    if len(shape) == 2:
        scale = 0.3 if name.endswith("embeddings.weight") else 1.5 / math.sqrt(shape[1])
        tensor = normal * scale
    else:
        is_norm = "norm" in name.lower() and name.endswith("weight")
        scale = 0.1
        tensor = is_norm + normal * scale
    return torch.from_numpy(tensor + case.noise * scale * random(1).standard_normal(shape)).float()


def build_model(case, tokenizer):
    options = dict(case.config, vocab_size=len(tokenizer))
    if case.classes:
        options |= {"num_labels": case.classes, "problem_type": case.problem}
    if case.labels:
        options |= {"id2label": dict(enumerate(case.labels)), "label2id": {y: i for i, y in enumerate(case.labels)}}
    config = getattr(transformers, case.family + "Config")(**options)
    head = "ForSequenceClassification" if case.classes else "Model"
    model = getattr(transformers, case.family + head)(config)
    model.load_state_dict({name: draw(case, name, tuple(x.shape)) for name, x in model.state_dict().items()})
    return model.to(case.store)


def build_tokenizer(case):
    options = {"max_length": POSITIONS} | case.tokenizer_options
    return getattr(tiny_tokenizers, case.tokenizer)(**options)


def write_json(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_directory(case, folder):
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = build_tokenizer(case)
    model = build_model(case, tokenizer)
    model.save_pretrained(folder, **({"max_shard_size": case.shard_size} if case.shard_size else {}))
    tokenizer.save_pretrained(folder)
    if case.vocabulary_only:
        write_vocabulary(tokenizer, folder)
    if case.legacy_names:
        rename_tensors(folder / "model.safetensors", legacy_name)
    if case.classes == 0:
        write_sentence_modules(case, folder)
    compact_json(folder / "tokenizer.json")


def write_vocabulary(tokenizer, folder):
    """What BERT and ERNIE checkpoints of 2018 to 2021 have: vocab.txt, and three settings."""
    (folder / "tokenizer.json").unlink()
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (folder / "vocab.txt").write_text("".join(piece + "\n" for piece in pieces), encoding="utf-8")
    settings = {"do_lower_case": tokenizer.do_lower_case, "model_max_length": tokenizer.model_max_length}
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": "BertTokenizer"})


def legacy_name(name):
    """The names of checkpoints converted from TensorFlow: gamma and beta, and an encoder without its prefix."""
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return name.removeprefix("bert.")


def rename_tensors(path, rename):
    tensors = {rename(name): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def write_sentence_modules(case, folder):
    """The files of sentence-transformers, and the int64 buffer that older transformers left among the weights."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * case.normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", case.pooling)
    if case.max_seq_length:
        settings = {"max_seq_length": case.max_seq_length, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", settings)
    path = folder / "model.safetensors"
    positions = torch.arange(case.config["max_position_embeddings"])[None]
    save_file(load_file(path) | {"embeddings.position_ids": positions}, path, metadata={"format": "pt"})


def compact_json(path):
    """tokenizer.json without its indentation: a third of the size."""
    if path.exists():
        value = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
