"""Writes minilm.json: what a real sentence-embedding model makes of a few texts, in float64.

python ../../scripts/fetch_minilm.py FOLDER && python minilm.py FOLDER
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.nn.functional as F
import transformers

from generate import HERE, token_fields, write_lines
from texts import SENTENCES

MAX_LENGTH = 256  # of its sentence_bert_config.json


def main(folder):
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_padding()  # its tokenizer.json pads to 128
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    records = [record(tokenizer, model, *sentence) for sentence in SENTENCES]
    write_lines(HERE / "minilm.json", {"max_length": MAX_LENGTH, "records": records})


@torch.no_grad()
def record(tokenizer, model, text, pair):
    encoding = tokenizer(text, pair, truncation=True, max_length=MAX_LENGTH, padding=False).encodings[0]
    inputs = {"input_ids": torch.tensor([encoding.ids]), "token_type_ids": torch.tensor([encoding.type_ids])}
    hidden = model(**inputs).last_hidden_state[0]
    fields = token_fields(encoding)
    del fields["tokens"], fields["segments"]
    return {"text": text, "pair": pair, **fields, "features": F.normalize(hidden.mean(0), dim=0)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
