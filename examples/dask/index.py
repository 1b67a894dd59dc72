"""One store from the workers of a Dask cluster: python examples/dask/index.py --model M --data F --store DIR --parts 8

Without --scheduler the cluster is this machine's. Each part is one `wherefore index --shard I/N` in a process of its own; one that dies is
run again alone, up to --retries times, and goes on where it stopped. `wherefore` must be on the workers' path, and the paths given must be
the same files there.
"""

import argparse
import subprocess

from dask.distributed import Client, as_completed


def index(part, parts, model, data, store, more):
    command = ["wherefore", "index", "--model", model, "--data", data, "--store", f"{store}.part-{part}"]
    command += ["--shard", f"{part}/{parts}", "--resume", "--quiet", *more]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):  # 1: done, some records skipped
        raise RuntimeError(f"part {part}: exit code {done.returncode}: {done.stderr.strip()}")
    return part


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--scheduler", help="tcp://HOST:PORT of a cluster that is there")
    parser.add_argument("--retries", type=int, default=2)
    arguments, more = parser.parse_known_args()  # what is left goes to `wherefore index`

    with Client(arguments.scheduler) as client:
        jobs = [
            client.submit(
                index, part, arguments.parts, arguments.model, arguments.data, arguments.store, more,
                retries=arguments.retries, pure=False,
            )
            for part in range(arguments.parts)
        ]
        for job in as_completed(jobs):
            print(f"part {job.result()} done", flush=True)

    parts = [f"{arguments.store}.part-{part}" for part in range(arguments.parts)]
    subprocess.run(["wherefore", "merge", "--store", arguments.store, *parts], check=True)


if __name__ == "__main__":
    main()
