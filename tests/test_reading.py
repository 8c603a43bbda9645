"""Files that others wrote: what numpy, json and tomllib read is read alike, and what is damaged is one line."""

import io
import json
import os
import re
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from corral.errors import CorralError
from corral.reading import (
    check_file,
    memory_bytes,
    most_bytes,
    opened_zip,
    parse_json,
    parse_toml,
    read_arrays,
    read_bytes,
)

DTYPES = (
    arrays_of.boolean_dtypes()
    | arrays_of.integer_dtypes()
    | arrays_of.floating_dtypes()
    | arrays_of.unicode_string_dtypes()
)


def refusal(call):
    with pytest.raises(CorralError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def member(array, header=None):
    """The bytes of an .npy file, with another header if one is given."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    if header is None:
        return stream.getvalue()
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return path


@given(st.data())
def test_arrays_are_those_that_numpy_reads(tmp_path_factory, data):
    shape = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    array = data.draw(arrays_of.arrays(DTYPES, shape))
    if array.ndim > 1 and data.draw(st.booleans()):
        array = np.asfortranarray(array)
    path = tmp_path_factory.getbasetemp() / "any.npz"
    data.draw(st.sampled_from([np.savez, np.savez_compressed]))(path, one=array, other=np.arange(3))
    found = read_arrays(path, remedy="again")
    assert list(found) == ["one", "other"]
    assert (found["one"].dtype, found["one"].shape) == (array.dtype, array.shape)
    assert found["one"].tobytes() == array.tobytes()
    assert found["one"].flags.writeable


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000000000000,)}", "found 4"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 40,)}", "damaged"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}", "8,796,093,022,208 bytes, found 4"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -2)}", "shape (-2, -2)"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (5,)}", "5 bytes, found 4"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (4,)}", "Python objects, which are not unpickled"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (4,", "damaged"),
        ("[" * 110, "damaged"),
        ("", "damaged"),
    ],
)
def test_a_header_that_is_not_its_bytes_is_refused_before_it_costs_memory(tmp_path, header, words):
    path = archive(tmp_path / "a.npz", x=member(np.arange(4, dtype=np.uint8), header))
    message = refusal(lambda: read_arrays(path, remedy="write it again"))
    assert words in message
    assert f"{path}: not an .npz file, array x is damaged" in message
    assert message.endswith("; write it again")


def test_python_objects_are_not_unpickled(tmp_path):
    path = archive(tmp_path / "a.npz", x=member(np.array([print], dtype=object)))
    assert "not unpickled" in refusal(lambda: read_arrays(path, remedy="again"))


def test_every_cut_of_an_archive_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", x=np.arange(50), y=np.ones((2, 3)))
    content = (tmp_path / "whole.npz").read_bytes()
    for size in range(len(content)):
        (tmp_path / "cut.npz").write_bytes(content[:size])
        assert "again" in refusal(lambda: read_arrays(tmp_path / "cut.npz", remedy="again"))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "file").write_bytes(b"four")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in (("pipe", "a pipe"), ("zero", "a device"), (".", "a folder")):
        message = refusal(lambda name=name: read_bytes(tmp_path / name, remedy="another"))
        assert f"{words}, expected a regular file; another" in message
    for name in ("none", "loop"):
        assert "cannot be read" in refusal(lambda name=name: check_file(tmp_path / name, remedy="another"))
    assert read_bytes(tmp_path / "link", remedy="another") == b"four"
    assert "4 bytes, expected at most 3" in refusal(lambda: read_bytes(tmp_path / "file", remedy="another", most=3))


def test_a_file_larger_than_the_memory_is_refused_unread(tmp_path):
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(memory_bytes() + 1)
    assert "expected at most" in refusal(lambda: read_bytes(tmp_path / "sparse", remedy="another"))


def test_the_memory_is_this_machine_s_or_the_container_s(tmp_path, monkeypatch):
    monkeypatch.setattr("corral.reading.CONTAINER", tmp_path / "memory.max")
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert memory_bytes() == pytest.approx(1024 * int(total[1]), rel=0.001)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_bytes() == pytest.approx(1024 * int(total[1]), rel=0.001)
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_bytes() == 1048576


def test_without_sysconf_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("corral.reading.CONTAINER", tmp_path / "memory.max")
    monkeypatch.delattr("os.sysconf")
    (tmp_path / "x").write_bytes(b"four")
    assert read_bytes(tmp_path / "x", remedy="another") == b"four"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a": NaN}', "NaN is not a measurement"),
        ('{"a": [1e400]}', "not a finite number"),
        (f'{{"a": {2**63}}}', "64 bits"),
        ('{"a": ' + "9" * 4400 + "}", "4300 digits"),
        (r'{"a": "\ud800"}', "lone surrogate"),
        (r'{"\udfff": 1}', "lone surrogate"),
        ("{", "property name"),
    ],
)
def test_a_json_text_that_no_later_step_could_hold_is_refused(text, words):
    with pytest.raises(ValueError, match=words.replace("'", ".")):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 100_000, "nested too deep"),
        ("a = nan", "not a finite number"),
        ("a = [1, -inf]", "not a finite number"),
        (f"a = {2**64}", "64 bits"),
        ("a = " + "9" * 4400, "4300 digits"),
        ("a = ", "Invalid"),
    ],
)
def test_a_toml_text_that_no_later_step_could_hold_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_toml(text)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(), st.lists))
def test_every_other_json_text_is_what_json_reads(content):
    encodable = json.dumps(content, ensure_ascii=False).encode(errors="replace")
    assert parse_json(encodable) == json.loads(encodable)


def test_the_limit_of_digits_is_python_s():
    assert sys.get_int_max_str_digits() == 4300


def test_no_more_is_unpacked_than_half_of_the_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(4096, np.uint8))
    monkeypatch.setattr("corral.reading.memory_bytes", lambda: 8192)
    assert "4,224 bytes unpacked, expected at most 4,096; again" in refusal(
        lambda: read_arrays(tmp_path / "bomb.npz", remedy="again")
    )
    assert most_bytes() == 4096


def test_text_of_letters_that_are_none_is_refused(tmp_path):
    for letter in (0x110000, 0xD800, 2**32 - 1):
        content = np.array([65, letter], np.uint32)
        header = "{'descr': '<U1', 'fortran_order': False, 'shape': (2,)}"
        path = archive(tmp_path / "a.npz", x=member(content, header))
        assert "letters that are none" in refusal(lambda path=path: read_arrays(path, remedy="again"))


def test_an_archive_of_a_damaged_member_is_one_line_whatever_reads_it(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(500))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200] ^= 255
    (tmp_path / "a.npz").write_bytes(content)

    def read():
        with opened_zip(tmp_path / "a.npz", problem="damaged", remedy="again") as (found, members):
            found.read(members[0])

    assert refusal(read).startswith(f"{tmp_path / 'a.npz'}: damaged (")
