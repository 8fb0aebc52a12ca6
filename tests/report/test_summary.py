from dataclasses import replace

from monstera.measure import Timing
from monstera.report import summary_table, summary_tables
from report.example import COMPARISON, ROWS


def test_a_network_is_one_line_and_every_kind_of_weights_a_column():
    table = summary_table([COMPARISON], "1 thread")
    assert table.title == "1 thread"
    assert table.columns == ("network", "fastest dense guest", "ms", "dense", "4x1 at density 0.1")
    assert table.lines == (("resnet50 1x3x8x8", "openvino", "2.00", "1.25x (62%)", "8.00x (40%)"),)


def test_there_is_a_table_for_each_number_of_threads_and_instruction_set():
    wide = replace(COMPARISON.machine, flags=("avx2", "fma", "avx512f"))
    arm = replace(COMPARISON.machine, flags=("asimd",), architecture="aarch64")
    elsewhere = [
        replace(COMPARISON, network=n, machine=m) for n, m in (("on arm", arm), ("wide", wide), ("wide too", wide))
    ]
    tables = summary_tables([replace(COMPARISON, threads=2, network="on two"), COMPARISON, *elsewhere])
    assert [(table.title, [line[0].rsplit(" ", 1)[0] for line in table.lines]) for table in tables] == [
        ("1 thread, avx512", ["wide", "wide too"]),
        ("1 thread, avx2", ["resnet50"]),
        ("1 thread, neon", ["on arm"]),
        ("2 threads, avx2", ["on two"]),
    ]


def test_a_processor_without_known_vectors_is_named_by_its_architecture():
    other = replace(COMPARISON.machine, flags=(), architecture="riscv64")
    assert [table.title for table in summary_tables([replace(COMPARISON, machine=other)])] == ["1 thread, riscv64"]


def test_a_kind_of_weights_that_a_network_was_not_measured_with_leaves_its_cell_empty():
    dense = replace(COMPARISON, network="vgg16", rows=ROWS[:4])
    table = summary_table([COMPARISON, replace(COMPARISON, network="c3d"), dense], "")
    assert table.columns[3:] == ("dense", "4x1 at density 0.1")
    assert [line[4:] for line in table.lines] == [("8.00x (40%)",), ("8.00x (40%)",), ("",)]


def test_kinds_of_weights_that_one_network_alone_has_share_a_column_and_are_named():
    other = replace(COMPARISON, network="vgg16", rows=(*ROWS[:4], replace(ROWS[4], weights="8x1 at density 0.1")))
    table = summary_table([COMPARISON, other], "")
    assert table.columns[3:] == ("dense", "others")
    assert [line[4:] for line in table.lines] == [
        ("4x1 at density 0.1: 8.00x (40%)",),
        ("8x1 at density 0.1: 8.00x (40%)",),
    ]


def test_openvino_as_it_chooses_is_compared_with_but_is_not_the_fp32_guest():
    default = replace(ROWS[1], engine="openvino default", precision="bf16", timing=Timing((1.0, 1.0, 1.0), 0.9, 30))
    table = summary_table([replace(COMPARISON, rows=(*ROWS, default)), COMPARISON], "")
    assert table.columns[-1] == "fastest, against openvino default"
    assert [(line[1], line[-1]) for line in table.lines] == [("openvino", "4.00x (bf16)"), ("openvino", "")]


def test_without_a_guest_times_are_shown_as_they_are():
    alone = replace(COMPARISON, rows=ROWS[3:], peak_gflops=None)
    assert summary_table([alone], 1).lines == (("resnet50 1x3x8x8", "", "", "1.60", "0.250"),)
