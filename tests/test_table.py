"""The curriculum's table: what it names is there, and both READMEs show it as `make table` writes it."""

import json
import os
import re
import subprocess
import sys

import pytest

import kerasnets as kn
from tests import table


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.en)
def test_what_a_row_names_is_there(row):
    for name in row.classes.split():
        found = kn
        for part in name.split("."):
            found = getattr(found, part)
    for name in row.file.split():
        assert (table.ROOT / "kerasnets" / name).exists()
    for name in row.tutorials.split():
        assert (table.ROOT / f"tutorials/{name}.py").exists()
    for name in row.tests.split():
        assert table.functions_of("tests/" + name.partition("[")[0])


@pytest.mark.parametrize("language", table.README)
def test_readme_shows_it(language):
    text = table.README[language].read_text(encoding="utf-8")
    lines = text.partition(table.BEGIN)[2].partition(table.END)[0].splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [cells[:-1] for cells in shown] == [table.cells(row, language, ())[:-1] for row in table.ROWS]
    for cells in shown:
        values = re.split(", |、", cells[-1])
        assert len(values) == 3
        assert all(v == table.WORDS[language]["equal"] or float(v) <= 1e-5 for v in values), cells


def test_differences_are_those_that_the_tests_saw(tmp_path):
    """Each test's largest difference as a share of the largest value expected; none where it compared words."""
    (tmp_path / "test_x.py").write_text(
        "import numpy as np\n"
        "from tests.models.parity import assert_close\n"
        "def test_near(): np.testing.assert_allclose([50.5, 100], [50, 100], rtol=1)\n"
        "def test_nearer(): assert_close(np.array([50.0, 100.1]), np.array([50, 100]), 1)\n"
        "def test_words(): assert 'a' == 'a'\n"
        "def test_wrong(): np.testing.assert_allclose(1, 2)\n"
    )
    report = tmp_path / "found.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.differences", str(tmp_path / "test_x.py")]
    subprocess.run(command, cwd=table.ROOT, env={**os.environ, "KERASNETS_DIFFERENCES": str(report)})
    found = {test.rpartition("::")[2]: value for test, value in json.loads(report.read_text()).items()}
    assert found == {"test_near": pytest.approx(5e-3), "test_nearer": pytest.approx(1e-3), "test_words": None}
