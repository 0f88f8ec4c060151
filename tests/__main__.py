"""`python -m tests [backend …] [pytest arguments]`: the tests on each backend, one after the other, then a summary."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

BACKENDS = ("tensorflow", "jax", "torch")
WORKERS = min(4, os.cpu_count() or 1)
# As many processes as cores, so one thread each: more would only wait for one another.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}
# Compiled programs are kept and shared: most tests ask JAX for the same small ones again and again.
SHARED = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
# The tests' programs run for milliseconds after compiling for seconds, so XLA is not to optimise the machine code. The
# conformance tests, the tutorials and the table have it as users do; `XLA_FLAGS= make test` has it here too.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def main(arguments):
    asked = [name for name in arguments if name in BACKENDS]
    rest = [argument for argument in arguments if argument not in BACKENDS]
    results = {name: run(name, rest) for name in asked or filter(importlib.util.find_spec, BACKENDS)}
    print("\nTests on each backend")
    for name, (passed, failed, skipped, seconds) in results.items():
        print(f"{name:10}  {passed} passed, {failed} failed, {skipped} skipped  {seconds:.0f} s")
    passed, failed, skipped, _ = (sum(column) for column in zip(*results.values(), strict=True))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return int(failed > 0)


def run(backend, arguments):
    """(passed, failed, skipped, seconds) of the tests on one backend, in a process of its own."""
    print(f"\n=== {backend}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-n", str(WORKERS), f"--junitxml={report}", *arguments]
        settings = {**ONE_THREAD, **SHARED, **QUICK, "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(folder, "compiled"))}
        code = subprocess.run(command, env={**settings, **os.environ, "KERAS_BACKEND": backend}).returncode
        passed, failed, skipped = counts(report)
    # A run that broke off, or found no test, counts as a failure though no test of it failed.
    return passed, max(failed, int(code != 0)), skipped, time.monotonic() - start


def counts(report):
    """(passed, failed, skipped) of a JUnit report; nothing passed where pytest broke off before it wrote one."""
    if not report.exists():
        return 0, 0, 0
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(name)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return tests - failures - errors - skipped, failures + errors, skipped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
