"""A plugin of pytest, `-p tests.differences`: the largest relative difference that each test saw, as JSON.

The path of the file is in `KERASNETS_DIFFERENCES`. A difference is relative to the largest value that was expected, as
in `parity.assert_close`; a test that compares no numbers, but ids or words, has null. Tests that failed have no entry.
"""

import json
import os
import pathlib

import numpy as np

found, passed = {}, {}


def note(actual, desired):
    actual, desired = (np.asarray(x, "float64") for x in (actual, desired))
    if actual.size and actual.shape == desired.shape and np.isfinite(desired).all():
        largest = np.abs(desired).max() or 1.0
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        found[test] = max(found.get(test, 0.0), float(np.abs(actual - desired).max() / largest))


def pytest_configure():
    from tests.models import parity

    def noting(compare, to_numpy):
        def compare_and_note(actual, desired, *args, **kwargs):
            note(to_numpy(actual), to_numpy(desired))
            return compare(actual, desired, *args, **kwargs)

        return compare_and_note

    parity.assert_close = noting(parity.assert_close, parity.to_numpy)
    np.testing.assert_allclose = noting(np.testing.assert_allclose, np.asarray)


def pytest_runtest_logreport(report):
    if report.when == "call":
        passed[report.nodeid] = report.passed


def pytest_sessionfinish():
    differences = {test: found.get(test) for test, is_good in passed.items() if is_good}
    pathlib.Path(os.environ["KERASNETS_DIFFERENCES"]).write_text(json.dumps(differences), encoding="utf-8")
