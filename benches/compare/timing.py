"""Timing beside other processes, and one JSON line for each case measured.

Every sample is at least a quarter of a second of work, and knows how many cores the rest of the machine was using
meanwhile. The median is taken over the undisturbed samples where there are enough of them, else over all; the record
says which, so that a figure taken on a busy machine can be told from one that was not.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
QUIET = 0.15  # cores that others may use during an undisturbed sample
MINIMUM_SECONDS = 0.25
PATIENCE = 2  # samples are repeated until enough were undisturbed, but at most this many times as often


def busy_seconds():
    """Core seconds that the machine has spent on anything since it started."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting = fields[3], fields[4]
    return (sum(fields) - idle - waiting) / TICKS


def own_seconds():
    """Core seconds of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(work, samples=5, warm_up=1):
    """Statistics of the seconds that one call of `work` takes."""
    for _ in range(warm_up):
        work()
    repeats = 1
    taken = []
    while len(taken) < samples * PATIENCE and sum(other < QUIET for _, other, _ in taken) < samples:
        busy, own, start = busy_seconds(), own_seconds(), time.perf_counter()
        for _ in range(repeats):
            work()
        wall = time.perf_counter() - start
        if wall < MINIMUM_SECONDS:
            repeats = max(repeats * 2, int(repeats * 1.2 * MINIMUM_SECONDS / max(wall, 1e-9)))
            continue
        mine = own_seconds() - own
        other = max(0.0, (busy_seconds() - busy - mine) / wall)
        taken.append((wall / repeats, other, mine / repeats))
    quiet = [sample for sample in taken if sample[1] < QUIET]
    kept = quiet if len(quiet) >= min(3, samples) else taken
    chosen = [seconds for seconds, _, _ in kept]
    return {
        "seconds": statistics.median(chosen),
        "fastest": min(chosen),
        "slowest": max(chosen),
        "samples": len(taken),
        "undisturbed": len(quiet),
        "cores_used_by_others": round(statistics.median(other for _, other, _ in taken), 2),
        # What work took of the cores it got: on a busy machine the fairer figure.
        "core_seconds": round(statistics.median(mine for _, _, mine in kept), 3),
    }


class Results:
    """What was measured in one run: appended to a file as it comes, and set against each other at the end."""

    def __init__(self, path, **common):
        self.path = path
        self.common = common | machine()
        self.rows = []
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, tool, case, units, unit, statistics, **more):
        """`units` pieces of work, of which one is a `unit`, in statistics["seconds"]."""
        rate = units / statistics["seconds"]
        row = {"tool": tool, "case": case, f"{unit}_per_second": rate, **statistics, **more, **self.common}
        self.rows.append((tool, case, rate, units / statistics.get("core_seconds", statistics["seconds"])))
        disturbed = "" if statistics.get("undisturbed", 1) else "   (machine was busy)"
        print(f"{tool:<12} {case:<46} {rate:>12,.1f} {unit}/s{disturbed}", flush=True)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def ratios(self, ours="wherefore"):
        """Our rate over each rival's in the cases that end in the same words, as "… / same words": by the clock, and a core second."""
        subject = lambda case: case.rpartition(" / ")[2]
        for tool, case, rate, frugal in self.rows:
            for mine, my_case, my_rate, my_frugal in self.rows:
                if mine == ours != tool and subject(my_case) == subject(case):
                    print(f"{ours} {my_case}: {my_rate / rate:.2f}x ({my_frugal / frugal:.2f}x a core second) {tool} {case}")


def machine():
    model = next(
        (line.split(":", 1)[1].strip() for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "commit": commit(), "when": time.strftime("%Y-%m-%dT%H:%M:%S")}


def commit():
    if "WHEREFORE_COMMIT" in os.environ:  # of a bundle, which has no history
        return os.environ["WHEREFORE_COMMIT"]
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""
