from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from monstera.measure import Timing
from monstera.report import Table, circumstances, columns, comparison_table, markdown, milliseconds, terminal
from report.example import COMPARISON, ROWS


def test_a_comparison_reads_as_expected_in_markdown():
    assert markdown(comparison_table(COMPARISON)) == (
        "| engine | weights | MMAC left | ms | min | spread | against openvino | of FMA peak | error |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
        "| torch eager | dense | 50.0 | 4.20 | 3.90 | 10% | 0.50x | 24% | 0e+00 |\n"
        "| openvino | dense | 50.0 | 2.00 | 1.90 | 100% | 1.00x | 50% | 2e-07 |\n"
        "| torch.compile | dense | 50.0 | needs a C++ compiler |  |  |  |  |  |\n"
        "| monstera | dense | 50.0 | 1.60 | 1.50 | 0% | 1.25x | 62% | 3e-07 |\n"
        "| **monstera** | **4x1 at density 0.1** | **5.0** | **0.250** | **0.200** | **100%** | **8.00x** | **40%** "
        "| **4e-07** |\n"
    )


def test_the_title_says_what_was_measured_and_the_footer_where():
    assert comparison_table(COMPARISON).title == "resnet50, input 1x3x8x8, 1 thread"
    assert comparison_table(replace(COMPARISON, threads=2)).title.endswith("2 threads")
    assert circumstances(COMPARISON) == "Some CPU (avx2, fma), FMA peak 100 GFLOP/s; torch 2.13.0; 2026-01-01"


def test_without_a_guest_there_is_nothing_to_be_faster_than():
    alone = replace(COMPARISON, rows=ROWS[3:])
    assert not any(title.startswith("against") for title in columns(alone))


def test_monstera_is_never_its_own_guest_and_sparse_guests_do_not_count():
    sparse_guest = replace(ROWS[1], weights="4x1", timing=Timing((0.1, 0.1, 0.1), 0.1, 9))
    assert "against openvino" in columns(COMPARISON)
    assert "against torch eager" in columns(replace(COMPARISON, rows=(ROWS[0], sparse_guest, *ROWS[3:])))


def test_a_guest_that_rounds_to_bf16_is_fast_but_not_the_fp32_one_to_beat():
    rounded = replace(ROWS[1], engine="openvino default", precision="bf16", timing=Timing((1.0, 1.0, 1.0), 0.9, 30))
    both = replace(COMPARISON, rows=(*ROWS[:2], rounded, *ROWS[3:]))
    shown = columns(both)
    assert [title for title in shown if title.startswith("against")] == ["against openvino", "against openvino default"]
    assert shown["against openvino default"](ROWS[-1]) == "4.00x"
    assert [shown["computes in"](row) for row in both.rows] == ["fp32", "fp32", "bf16", "fp32", "fp32"]


def test_where_openvino_chooses_fp32_it_is_a_guest_like_the_others():
    chosen = replace(ROWS[1], engine="openvino default", timing=Timing((1.0, 1.0, 1.0), 0.9, 30))
    shown = columns(replace(COMPARISON, rows=(*ROWS[:2], chosen)))
    assert [title for title in shown if title.startswith("against")] == ["against openvino default"]
    assert "computes in" not in shown


def test_the_terminal_shows_every_cell_and_takes_brackets_literally():
    table = Table("t", ("engine", "weights", "ms"), (("a [bold]", "dense", "1.0"),))
    file = StringIO()
    Console(width=80, file=file).print(terminal(table))
    shown = file.getvalue()
    assert "a [bold]" in shown
    assert "1.0" in shown


def test_a_bar_in_a_cell_does_not_end_the_cell():
    assert markdown(Table("t", ("a",), (("x|y",),))).endswith("| x\\|y |\n")


def test_a_line_with_too_few_cells_is_refused():
    with pytest.raises(ValueError, match="expected 2 cells a line, got 1"):
        Table("t", ("a", "b"), (("only",),))


@given(st.floats(0.01, 9e4))
def test_a_time_is_shown_within_half_a_percent_or_half_a_microsecond(value: float):
    assert abs(float(milliseconds(value)) - value) <= max(0.005 * value, 0.00051)


def test_times_have_three_digits_that_matter():
    assert [milliseconds(v) for v in (0.1234, 1.234, 12.34, 123.4, 1234.5)] == ["0.123", "1.23", "12.3", "123", "1234"]
