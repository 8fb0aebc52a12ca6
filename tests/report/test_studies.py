from dataclasses import replace

import pytest

from monstera.measure import Macs, Point
from monstera.report import circumstances, matrix, study_tables
from monstera.report.studies import linear_ms
from report.example import STUDY


def test_a_sweep_is_a_matrix_of_places_and_lines():
    table = matrix(STUDY, "batch")
    assert table.columns == ("batch", "dense", "sparse")
    assert table.lines == (("1", "2.00 (50%)", ""), ("4", "6.00 (17%)", "not measured"))


def test_density_stands_beside_what_would_still_be_linear():
    table = matrix(STUDY, "density")
    assert table.columns == ("density", "4x1", "linear, ms")
    # 0.1 + 1.1 x 0.1 x 2.0
    assert table.lines[1] == ("0.1", "0.300 (33%)", "0.320")
    assert linear_ms(STUDY) == pytest.approx({1.0: 2.3, 0.1: 0.32, 0.02: 0.144})


def test_without_both_ends_nothing_is_said_about_linear_cost():
    half = replace(STUDY, points=STUDY.points[:2])
    assert linear_ms(half) == {}
    assert matrix(half, "density").columns == ("density", "4x1")


def test_the_terminal_shows_every_point_with_its_kernel_where_it_is_known():
    density, batch = study_tables(STUDY)
    assert density.title == "resnet50, density"
    assert density.columns[:3] == ("line", "at", "MMAC left")
    assert density.lines[1] == ("4x1", "0.1", "5.00", "0.300", "0%", "33.3", "33%", "1e-06")
    assert batch.lines[2] == ("sparse", "4", "0.00", "not measured", "", "", "", "")
    named = replace(STUDY, points=(replace(STUDY.points[0], facts={"kernel": "f32_spmm"}),))
    assert study_tables(named)[0].columns[2] == "kernel"
    assert study_tables(named)[0].lines[0][2] == "f32_spmm"


def test_a_study_says_what_the_machine_could_do_on_each_number_of_threads():
    two = replace(STUDY, peak_gflops={1: 100.0, 2: 190.0}, tune="fast")
    assert circumstances(two) == (
        "Some CPU (avx2, fma), FMA peak 100 GFLOP/s on 1 thread, FMA peak 190 GFLOP/s on 2 threads, "
        "reading L1 200 GB/s; torch 2.13.0; tune=fast; 2026-01-01"
    )


def test_a_place_is_shown_as_it_was_written():
    stages = (Point("stages", "as pruned", "CSR", Macs(2, 1), note="no such option"),)
    assert matrix(replace(STUDY, points=stages), "stages").lines == (("CSR", "no such option"),)


def test_a_point_without_a_time_keeps_its_error():
    answered = replace(STUDY, points=(replace(STUDY.points[0], timing=None),))
    (table,) = study_tables(answered)
    assert table.lines == (("4x1", "1.0", "50.00", "", "", "", "", "1e-06"),)
    assert matrix(answered, "density").lines == (("1.0", ""),)
