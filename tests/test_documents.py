"""Documents: numbers on one line, strings as they are, the same content when read back."""

import json

from hypothesis import given
from hypothesis import strategies as st

from corral.documents import Document, read_document, write_document


class Sample(Document):
    format: str = "corral-sample-2"
    words: str
    numbers: tuple[float, ...]
    rows: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()


@given(
    words=st.text(),
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    rows=st.lists(st.lists(st.integers(-(2**63) + 1, 2**63 - 1))),
    names=st.lists(st.text()),
)
def test_what_is_written_is_read_back(tmp_path_factory, words, numbers, rows, names):
    path = tmp_path_factory.mktemp("documents") / "a.json"
    document = Sample(words=words, numbers=tuple(numbers), rows=tuple(map(tuple, rows)), names=tuple(names))
    write_document(document, path)
    assert read_document(path, Sample, kind="sample", command="nothing") == document


def test_a_list_of_numbers_is_one_line(tmp_path):
    path = tmp_path / "a.json"
    document = Sample(words="[\n 1,\n 2\n]", numbers=(1.5, -2e-7, 3.0), rows=((1, 2), ()), names=("1", "2"))
    write_document(document, path)
    lines = path.read_text().splitlines()
    assert '  "numbers": [1.5, -2e-7, 3.0],' in lines
    assert "    [1, 2]," in lines
    assert '    "1",' in lines
    assert json.loads(path.read_text())["words"] == "[\n 1,\n 2\n]"
