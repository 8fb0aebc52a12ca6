"""What callers pass is converted where the engine takes it, and refused where it does not, with the place."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from monstera.runtime.arrays import as_array, random_array
from monstera.runtime.manifest import ArtifactError, InputSpec, read_manifest
from monstera.runtime.structure import Record, build_output

IDS = InputSpec("ids", (2, 3), "int64", True, 10)
COUNTS = InputSpec("counts", (3,), "int32")


def test_whole_numbers_and_truth_values_become_floats():
    ids = as_array(np.array([[0, 9, 3], [1, 2, 4]]), IDS)
    assert ids.dtype == np.float32
    np.testing.assert_array_equal(ids, [[0, 9, 3], [1, 2, 4]])
    mask = as_array(torch.tensor([True, False]), InputSpec("mask", (2,), "bool"))
    np.testing.assert_array_equal(mask, [1, 0])


@pytest.mark.parametrize(("number", "place"), [(10, [1, 2]), (-1, [0, 0]), (2**40, [1, 0])])
def test_a_number_that_is_no_row_of_its_table_is_named_with_its_place(number, place):
    ids = np.zeros((2, 3), np.int64)
    ids[tuple(place)] = number
    with pytest.raises(ValueError, match=rf"'ids' holds {number} at \[{place[0]}, {place[1]}\].*from 0 to 9"):
        as_array(ids, IDS)


def test_a_number_that_fp32_cannot_hold_is_refused_and_the_largest_is_not():
    most = np.array([2**24, -(2**24), 0], np.int32)
    np.testing.assert_array_equal(as_array(most, COUNTS), most)
    with pytest.raises(ValueError, match=r"'counts' holds 16777217 at \[1\]"):
        as_array(np.array([0, 2**24 + 1, 0], np.int32), COUNTS)


def test_a_row_that_fp32_cannot_hold_is_refused_however_large_the_table_is():
    spec = InputSpec("ids", (2,), "int64", True, 2**48)
    np.testing.assert_array_equal(as_array(np.array([0, 2**24]), spec), [0, 2**24])
    with pytest.raises(ValueError, match=r"'ids' holds 16777217 at \[0\].*from 0 to 16777216"):
        as_array(np.array([2**24 + 1, 0]), spec)


def test_another_dtype_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"torch.int32; expected int64: pass it .to\(torch.int64\)"):
        as_array(torch.zeros(2, 3, dtype=torch.int32), IDS)
    with pytest.raises(TypeError, match="'ids' is float64; expected int64"):
        as_array(np.zeros((2, 3)), IDS)


def test_random_arrays_are_what_a_caller_may_pass():
    rng = np.random.default_rng(0)
    many = InputSpec("ids", (9,), "int32", True, 2**48)
    for spec in (IDS, COUNTS, many, InputSpec("x", (4,)), InputSpec("mask", (5,), "bool")):
        value = random_array(spec, rng)
        assert (value.dtype, value.shape) == (np.dtype(spec.dtype), spec.shape)
        as_array(value, spec)


def test_a_record_is_a_dict_with_attributes_that_can_be_counted_through():
    items = [{"kind": "value", "index": 1}, {"kind": "value", "index": 0}]
    tree = {"kind": "record", "name": "Output", "keys": ["state", "pooled"], "items": items}
    record = build_output(tree, ["a", "b"])
    assert isinstance(record, Record)
    assert (record.state, record["pooled"], record[0], record[1:], record.to_tuple()) == (
        "b",
        "a",
        "b",
        ("a",),
        ("b", "a"),
    )
    with pytest.raises(AttributeError, match="no 'logits'; it has state, pooled"):
        _ = record.logits


def test_named_tuples_of_two_answers_are_of_one_class():
    items = [{"kind": "value", "index": 0}]
    tree = {"kind": "namedtuple", "name": "Pair", "keys": ["left"], "items": items}
    first, second = build_output(tree, ["a"]), build_output(tree, ["b"])
    assert type(first) is type(second)
    assert (first.left, repr(second)) == ("a", "Pair(left='b')")
    other = build_output({**tree, "keys": ["right"]}, ["a"])
    assert other.right == "a"


@pytest.mark.parametrize(("change", "words"), [({"dtype": "int8"}, "no dtype"), ({"limit": 0}, "no number of rows")])
def test_a_manifest_with_an_input_that_cannot_be_is_refused(engine, change, words):
    manifest = json.loads(engine.manifest.to_json())
    manifest["programs"][0]["inputs"][0] |= change
    with pytest.raises(ArtifactError, match=words):
        read_manifest(json.dumps(manifest).encode(), "here")
