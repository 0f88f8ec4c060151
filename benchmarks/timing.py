"""Side-by-side timing for shared, noisy machines: the same work by several hands, in turns, medians and ratios only.

    results = [timing.compare("MLP fit", {"kerasnets": ours, "keras": theirs}, rounds=15, steps=31)]
    timing.report(results, options)

A ratio is taken within one round, where both hands saw the same machine, and the median is taken over the rounds:
ratio = medianᵣ(oursᵣ / theirsᵣ). Below 1.0 ours is faster. The callables block until their result is there: JAX and
GPUs return before they are done, so convert the result to NumPy.
"""

import argparse
import dataclasses
import gc
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

BACKENDS = ("tensorflow", "jax", "torch")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Seconds per step of each hand, round by round; the first name is ours."""

    title: str
    seconds: dict

    @property
    def ours(self):
        return next(iter(self.seconds))

    def median(self, name):
        return statistics.median(self.seconds[name])

    def ratio(self, theirs):
        """(lower quartile, median, upper quartile) of ours/theirs over the rounds."""
        ratios = [a / b for a, b in zip(self.seconds[self.ours], self.seconds[theirs], strict=True)]
        return tuple(statistics.quantiles(ratios, n=4, method="inclusive")) if len(ratios) > 1 else (ratios[0],) * 3


def compare(title, work, rounds=15, steps=1, warmup=1):
    """Time the callables of `work` {name: callable}, ours first, in turns; `steps` is how many steps one call takes."""
    for function in work.values():
        for _ in range(warmup):
            function()
    seconds = {name: [] for name in work}
    names = list(work)
    for turn in range(rounds):
        first = turn % len(names)  # everyone goes first equally often: what ran before leaves its caches behind
        for name in names[first:] + names[:first]:
            gc.collect()
            start = time.perf_counter()
            work[name]()
            seconds[name].append((time.perf_counter() - start) / steps)
    return Comparison(title, seconds)


def table(comparisons):
    """Aligned lines: one a comparison and peer, medians in milliseconds per step, the ratio and its quartiles."""
    rows = [("", "ours ms", "theirs ms", "ours/theirs", "quartiles", "peer")]
    for comparison in comparisons:
        for theirs in list(comparison.seconds)[1:]:
            low, middle, high = comparison.ratio(theirs)
            rows.append(
                (
                    comparison.title,
                    f"{comparison.median(comparison.ours) * 1e3:.3f}",
                    f"{comparison.median(theirs) * 1e3:.3f}",
                    f"{middle:.2f}",
                    f"{low:.2f}..{high:.2f}",
                    theirs,
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def report(comparisons, options):
    """Print the table of this backend and, with `--json FILE`, append every round to the list in FILE."""
    backend = os.environ["KERAS_BACKEND"]
    print(f"{backend}: {platform.machine()}, {os.cpu_count()} cores, {options.rounds} rounds in turns")
    print(table(comparisons), end="\n\n", flush=True)
    if options.json:
        path = pathlib.Path(options.json)
        records = json.loads(path.read_text()) if path.exists() else []
        records += [{"backend": backend, "cores": os.cpu_count(), **dataclasses.asdict(c)} for c in comparisons]
        path.write_text(json.dumps(records, indent=1) + "\n")


def start(module, rounds=15):
    """Read the command line and settle the backend; call it before Keras is imported.

    With `--backend` or `KERAS_BACKEND` this process measures that one. With neither it starts `python -m module` once
    for each installed backend, one after the other, and ends with them.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--backend", choices=BACKENDS, default=os.environ.get("KERAS_BACKEND"))
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each hand is timed (%(default)s)")
    parser.add_argument("--only", default="", help="measure only the rows whose title contains this")
    parser.add_argument("--json", metavar="FILE", help="append every round's seconds to the list in FILE")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, received {options.rounds}")
    if options.backend:
        os.environ["KERAS_BACKEND"] = options.backend
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        return options
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    command = [sys.executable, "-m", module, *sys.argv[1:], "--backend"]
    failed = [name for name in installed if subprocess.run([*command, name]).returncode]
    sys.exit(f"failed on {failed}" if failed else 0)
