"""English shop reviews: 5,000 of Amazon's fine foods, as Debian packages R's `modeldata` (MIT), fetched by apt-get and read without R.

    python scripts/fine_foods.py DIR      # writes DIR/train.jsonl (4,000 records) and DIR/test.jsonl (1,000)

Labels are "great" (five stars) and "other". Of the markup that texts have, what they say is kept. Needs apt-get and dpkg-deb, and `pip install rdata`.
"""

import argparse
import html
import json
import lzma
import re
import subprocess
import tempfile
import warnings
from pathlib import Path

PACKAGE = "r-cran-modeldata"
DATABASE = "usr/lib/R/site-library/modeldata/data/Rdata"
DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "target/data/fine-foods"


def load(folder=DEFAULT_FOLDER):
    """{"train" and "test": [{"id", "text", "label"}]} in the order of the package."""
    if not (folder / "test.jsonl").exists():
        fetch(folder)
    read = lambda name: (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {name: [json.loads(line) for line in read(name)] for name in ["train", "test"]}


def fetch(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        archive = next(Path(scratch).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, scratch], check=True)
        database = Database(Path(scratch, DATABASE))
        for name, variable in [("train", "training_data"), ("test", "testing_data")]:
            columns = database.read(variable)
            rows = zip(columns["product"], columns["review"], columns["score"])
            lines = (json.dumps({"id": f"{name}-{i:04}", "text": plain(text), "label": str(label), "product": str(product)})
                     for i, (product, text, label) in enumerate(rows))
            (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def plain(text):
    """Without tags and entities; what was on a line of its own stays on one."""
    lines = re.sub(r"(\s*<(?:br|p)\b[^<>]*>\s*)+", "\n", text)
    return html.unescape(re.sub(r"</?[A-Za-z][^<>]*>", "", lines)).strip()


class Database:
    """R's lazily loaded objects: a directory of places (.rdx), and serialised values (.rdb), each packed by LZMA behind five bytes."""

    def __init__(self, path):
        self.places = decode(path.with_suffix(".rdx").read_bytes())["variables"]
        self.values = path.with_suffix(".rdb").read_bytes()

    def read(self, name):
        start, length = (int(x) for x in self.places[name])
        packed = self.values[start + 5 : start + length]
        return decode(lzma.decompress(packed, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}]))


def decode(serialised):
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rdata.conversion.convert(rdata.parser.parse_data(serialised))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER, metavar="DIR")
    fetch(parser.parse_args().folder)
