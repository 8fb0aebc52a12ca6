"""A result made by hand, whose table can be checked by hand."""

from monstera.measure import Bandwidth, Comparison, Machine, Macs, Point, Row, Study, Timing

DENSE, LEFT = Macs(50_000_000, 50_000_000), Macs(50_000_000, 5_000_000)
MACHINE = Machine("Some CPU", "x86_64", 2, ("avx2", "fma"), "Linux", "3.11", {"torch": "2.13.0", "numpy": "2.0"})
ROWS = (
    Row("torch eager", "dense", DENSE, 0.0, Timing((4.0, 4.4, 4.2), 3.9, 30)),
    Row("openvino", "dense", DENSE, 2e-7, Timing((2.0, 4.0, 2.0), 1.9, 30)),
    Row("torch.compile", "dense", DENSE, note="needs a C++ compiler"),
    Row("monstera", "dense", DENSE, 3e-7, Timing((1.6, 1.6, 1.6), 1.5, 30)),
    Row("monstera", "4x1 at density 0.1", LEFT, 4e-7, Timing((0.25, 0.5, 0.25), 0.2, 90)),
)
COMPARISON = Comparison("resnet50", ((1, 3, 8, 8),), 1, "2026-01-01", MACHINE, 100.0, ROWS)


def _point(sweep: str, line: str, at: float, ms: float, surviving: int, **facts: int) -> Point:
    return Point(sweep, line, at, Macs(50_000_000, surviving), 1e-6, Timing((ms, ms, ms), ms, 30), facts=dict(facts))


# At 100 GFLOP/s the dense network cannot take less than 1 ms.
STUDY = Study(
    "scaling",
    "resnet50",
    "2026-01-01",
    MACHINE,
    {1: 100.0},
    (Bandwidth("L1", 32768, 16384, 200.0),),
    (
        _point("density", "4x1", 1.0, 2.0, 50_000_000),
        _point("density", "4x1", 0.1, 0.3, 5_000_000),
        _point("density", "4x1", 0.02, 0.1, 1_000_000),
        _point("batch", "dense", 1, 2.0, 50_000_000),
        _point("batch", "dense", 4, 6.0, 50_000_000),
        Point("batch", "sparse", 4, Macs(200, 20), note="not measured"),
    ),
)
