import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monstera.measure import WrongAnswerError, max_error, reference
from monstera.measure.answers import Inputs, arguments


def test_the_error_is_relative_to_the_largest_magnitude_of_the_reference():
    assert max_error(torch.tensor([1.0, -20.0]), torch.tensor([2.0, -20.0])) == pytest.approx(0.05)


def test_every_part_of_a_nested_answer_counts_and_the_worst_decides():
    reference = {"a": torch.ones(2), "b": [torch.ones(3), (torch.ones(1),)]}
    answer = {"a": np.ones(2), "b": [np.ones(3), (np.full(1, 1.5),)]}
    assert max_error(answer, reference) == pytest.approx(0.5)


X, Y = torch.ones(2), torch.zeros(3)


@pytest.mark.parametrize(
    ("example", "args", "kwargs"),
    [
        (X, [X], {}),
        ((X, Y), [X, Y], {}),
        ([X, Y], [X, Y], {}),
        (([X, Y],), [[X, Y]], {}),
        ((), [], {}),
        ({"x": X, "y": (Y,)}, [], {"x": X, "y": (Y,)}),
    ],
)
def test_a_model_is_called_with_each_of_a_tuple_or_list_and_with_a_mapping_by_name(
    example: Inputs | list[torch.Tensor], args: list[object], kwargs: dict[str, object]
):
    assert arguments(example) == (tuple(args), kwargs)


def test_the_right_answer_is_computed_in_float64_and_the_model_stays_as_it_was():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0**-30, -1.0]]))
    # In fp32 the middle term is lost in the sum.
    assert reference(model, torch.ones(1, 3)).item() == 2.0**-30
    assert model.weight.dtype == torch.float32
    assert reference(model, {"input": torch.ones(2, 3)}).dtype == torch.float64


def test_inputs_that_are_no_numbers_with_a_point_are_left_alone():
    table = nn.Embedding(5, 2)
    assert torch.equal(reference(table, torch.tensor([3, 1])), table.weight[[3, 1]].double())


def test_nan_in_an_answer_is_an_infinite_error():
    assert max_error(torch.tensor([float("nan"), 1.0]), torch.ones(2)) == float("inf")


def test_an_answer_of_another_shape_is_wrong_however_close_its_values():
    with pytest.raises(WrongAnswerError, match=r"expected \[\(2,\)\], got \[\(1, 2\)\]"):
        max_error(torch.ones(1, 2), torch.ones(2))


def test_a_missing_output_is_wrong():
    with pytest.raises(WrongAnswerError):
        max_error((torch.ones(2),), (torch.ones(2), torch.ones(2)))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1))
def test_an_answer_has_no_error_against_itself(values: list[float]):
    assert max_error(np.array(values), torch.tensor(values, dtype=torch.float64)) == 0.0
