from dataclasses import replace

from monstera.measure import Timing
from monstera.report import summary_table
from report.example import COMPARISON, ROWS


def test_a_network_is_one_line_and_every_kind_of_weights_a_column():
    table = summary_table([COMPARISON], 1)
    assert table.title == "1 thread"
    assert table.columns == ("network", "fastest dense guest", "ms", "dense", "4x1 at density 0.1")
    assert table.lines == (("resnet50 1x3x8x8", "openvino", "2.00", "1.25x (62%)", "8.00x (40%)"),)


def test_only_comparisons_on_that_many_threads_are_in_it():
    both = [COMPARISON, replace(COMPARISON, threads=2, network="vgg16")]
    assert [line[0] for line in summary_table(both, 2).lines] == ["vgg16 1x3x8x8"]


def test_a_kind_of_weights_that_a_network_was_not_measured_with_leaves_its_cell_empty():
    dense = replace(COMPARISON, network="vgg16", rows=ROWS[:4])
    table = summary_table([COMPARISON, replace(COMPARISON, network="c3d"), dense], 1)
    assert table.columns[3:] == ("dense", "4x1 at density 0.1")
    assert [line[4:] for line in table.lines] == [("8.00x (40%)",), ("8.00x (40%)",), ("",)]


def test_kinds_of_weights_that_one_network_alone_has_share_a_column_and_are_named():
    other = replace(COMPARISON, network="vgg16", rows=(*ROWS[:4], replace(ROWS[4], weights="8x1 at density 0.1")))
    table = summary_table([COMPARISON, other], 1)
    assert table.columns[3:] == ("dense", "others")
    assert [line[4:] for line in table.lines] == [
        ("4x1 at density 0.1: 8.00x (40%)",),
        ("8x1 at density 0.1: 8.00x (40%)",),
    ]


def test_openvino_as_it_chooses_is_compared_with_but_is_not_the_fp32_guest():
    default = replace(ROWS[1], engine="openvino default", precision="bf16", timing=Timing((1.0, 1.0, 1.0), 0.9, 30))
    table = summary_table([replace(COMPARISON, rows=(*ROWS, default)), COMPARISON], 1)
    assert table.columns[-1] == "fastest, against openvino default"
    assert [(line[1], line[-1]) for line in table.lines] == [("openvino", "4.00x (bf16)"), ("openvino", "")]


def test_without_a_guest_times_are_shown_as_they_are():
    alone = replace(COMPARISON, rows=ROWS[3:], peak_gflops=None)
    assert summary_table([alone], 1).lines == (("resnet50 1x3x8x8", "", "", "1.60", "0.250"),)
