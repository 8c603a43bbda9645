"""The history of benchmarks: what counts as a change, and on which machine."""

import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "history.py"


@pytest.fixture(scope="module")
def history():
    spec = importlib.util.spec_from_file_location("benchmark_history", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_change_is_one_beyond_both_ranges_and_the_drift(history, tmp_path):
    file = tmp_path / "history.jsonl"
    assert (
        history.append(
            "speed", {"a": [0.7, 0.71, 0.72], "b": [1.0, 1.1, 1.3], "c": [2.0, 2.0, 2.01], "d": [1.0]}, file=file
        )
        == []
    )
    # b's ranges meet; c's do not, but by less than the machine's drift; one value has no range.
    later = {"a": [0.8, 0.81, 0.83], "b": [1.2, 1.4, 1.5], "c": [2.02, 2.02, 2.03], "d": [1.1]}
    (line,) = history.append("speed", later, file=file)
    assert line == "CHANGED a: 0.71 (0.7-0.72) before, 0.81 (0.8-0.83) now"
    assert history.append("other", {"a": [5.0]}, file=file) == []
    entries = [json.loads(one) for one in file.read_text().splitlines()]
    assert [entry["benchmark"] for entry in entries] == ["speed", "speed", "other"]
    assert entries[0]["ratios"]["a"] == [0.71, 0.7, 0.72, 3]
    assert {"torch", "corral", "python"} <= entries[0]["versions"].keys()


def test_another_kind_of_machine_is_not_compared(history, tmp_path):
    file = tmp_path / "history.jsonl"
    history.append("speed", {"a": [0.7]}, file=file, device="cpu")
    assert history.append("speed", {"a": [7.0]}, file=file, device="gpu") == []
    assert len(history.append("speed", {"a": [7.0]}, file=file, device="cpu")) == 1


def test_the_last_figure_of_a_name_counts_even_if_later_runs_lacked_it(history, tmp_path):
    file = tmp_path / "history.jsonl"
    history.append("speed", {"a": [0.7]}, file=file)
    history.append("speed", {"b": [0.7]}, file=file)
    assert len(history.append("speed", {"a": [1.4]}, file=file)) == 1
