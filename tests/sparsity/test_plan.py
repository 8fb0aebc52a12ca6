from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.nn.utils import parametrizations

from monstera.sparsity import Entry, PatternError, Plan, PlanError, kept_groups, pattern


def write(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)


# ---- making ---------------------------------------------------------------------------------------------------------


def test_uniform_leaves_the_stem_depthwise_convolutions_and_the_head_dense(convnet) -> None:
    assert list(Plan.uniform(convnet, "4x1", 0.25)) == [
        "body.0.weight",
        "body.2.weight",
        "body.4.weight",
        "neck.weight",
    ]


def test_uniform_takes_everything_when_asked_to(convnet) -> None:
    plan = Plan.uniform(convnet, "unstructured", 0.25, skip=())
    assert {"stem.weight", "body.3.weight", "head.weight"} <= plan.keys()


def test_uniform_skips_globs_of_parameters_and_of_modules(convnet) -> None:
    assert list(Plan.uniform(convnet, "unstructured", 0.5, skip=("stem", "body.*.weight"))) == [
        "neck.weight",
        "head.weight",
    ]


def test_a_skip_that_matches_nothing_is_refused_with_the_roles(convnet) -> None:
    with pytest.raises(PlanError, match="last_linear"):
        Plan.uniform(convnet, "4x1", 0.5, skip=("last_liner",))
    with pytest.raises(PlanError, match="collection"):
        Plan.uniform(convnet, "4x1", 0.5, skip="stem")


def test_a_table_shared_with_the_last_linear_layer_stays_dense_and_has_one_entry_if_asked_for(tied) -> None:
    assert list(Plan.uniform(tied, "4x1", 0.5)) == ["hidden.weight"]
    assert list(Plan.uniform(tied, "4x1", 0.5, skip=())) == ["table.weight", "hidden.weight"]


def test_an_embedding_table_alone_stays_dense() -> None:
    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    assert list(Plan.uniform(model, "4x1", 0.5, skip=())) == ["1.weight", "2.weight"]


def test_a_uniform_plan_without_weights_is_refused() -> None:
    with pytest.raises(PlanError, match="no weight is left"):
        Plan.uniform(nn.Sequential(nn.Linear(4, 4)), "unstructured", 0.5)


def test_uniform_refuses_a_parametrised_weight_with_advice_unless_it_is_skipped(convnet) -> None:
    parametrizations.spectral_norm(convnet.neck)
    with pytest.raises(PlanError, match=r"neck\.weight.*remove_parametrizations"):
        Plan.uniform(convnet, "4x1", 0.5)
    assert "neck.weight" not in Plan.uniform(convnet, "4x1", 0.5, skip=("neck", "first_conv", "depthwise"))


def test_uniform_refuses_weights_that_the_pattern_cannot_fit_and_lists_them_all(convnet) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.uniform(convnet, "2:4", skip=())
    assert len(caught.value.problems) == 2, "three input channels, and one"
    assert "stem.weight" in str(caught.value)
    assert "body.3.weight" in str(caught.value)


def test_rules_by_glob_type_and_object_apply_in_order_and_none_leaves_dense(convnet) -> None:
    plan = Plan.of(
        convnet,
        {
            nn.Conv2d: ("4x1", 0.25),
            "stem": None,
            "body.3*": None,
            convnet.neck: ("2:4",),
            convnet.body: Entry("unstructured", 0.1),
        },
    )
    assert plan["neck.weight"] == Entry("2:4")
    assert plan["body.3.weight"] == plan["body.0.weight"] == Entry("unstructured", 0.1)
    assert "stem.weight" not in plan
    assert "head.weight" not in plan


def test_rules_that_match_nothing_are_all_listed(convnet) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.of(convnet, {"bdy.*": ("4x1", 0.5), nn.LSTM: ("4x1", 0.5), nn.Linear(2, 2): ("4x1", 0.5)})
    assert len(caught.value.problems) == 3


def test_a_plan_is_a_mapping_that_merges_to_the_right_copies_and_pickles() -> None:
    left = Plan({"a": ("4x1", 0.5), "b": ("4x1", 0.5)})
    merged = left | Plan({"b": ("2:4",), "c": Entry("filter", 0.5)})
    assert [*merged] == ["a", "b", "c"]
    assert len(merged) == 3
    assert merged["b"] == Entry(pattern("2:4"), 0.5)
    assert left["b"] == Entry("4x1", 0.5)
    assert pickle.loads(pickle.dumps(merged)) == copy.deepcopy(merged) == merged


def test_everything_wrong_with_the_entries_is_listed_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        Plan({"a": ("4y1", 0.5), "b": ("4x1", 0), "c": ("4x1", 1.5), "d": ("2:4", 0.3), "e": ("4x1",), "f": 0.5})  # pyright: ignore
    assert [problem[0] for problem in caught.value.problems] == list("abcdef")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_an_entry_of_n_of_m_knows_its_density_and_refuses_another() -> None:
    assert Entry("1:4").density == 0.25
    with pytest.raises(PatternError, match="leave the density out"):
        Entry("1:4", 0.5)


# ---- checking -------------------------------------------------------------------------------------------------------


def test_a_plan_that_does_not_fit_lists_everything_that_is_wrong(tied) -> None:
    plan = Plan(
        {
            "hiden.weight": ("4x1", 0.5),
            "hidden.wight": ("4x1", 0.5),
            "hidden.weight": ("1x1x3", 0.5),
            "table.weight": ("4x1", 0.5),
            "out.weight": ("4x1", 0.5),
        }
    )
    with pytest.raises(PlanError) as caught:
        plan.check(tied)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    for part in (
        "'hidden.weight'",
        "Linear has no weight 'wight'",
        "spans 3 kernel positions",
        "same parameter as table",
    ):
        assert part in problems


def test_a_shared_weight_may_be_planned_under_any_one_of_its_names(tied) -> None:
    plan = Plan({"out.weight": ("4x1", 0.5)})
    write(tied, plan.project(plan.weights(tied)))
    assert plan.verify(tied).ok
    assert Plan({"table.weight": ("4x1", 0.5)}).verify(tied).ok


def test_weights_are_the_parameters_themselves_in_the_plans_order(convnet) -> None:
    plan = Plan({"neck.weight": ("4x1", 0.5), "body.0.weight": ("4x1", 0.5)})
    assert list(plan.weights(convnet)) == ["neck.weight", "body.0.weight"]
    assert plan.weights(convnet)["neck.weight"] is convnet.neck.weight


# ---- projecting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unstructured", "4x1", "8x4", "filter", "column", "2:4", "4x1@network", "4x1@1:4"])
def test_a_projected_network_obeys_its_plan(convnet, name: str) -> None:
    density = None if ":" in name else 0.3
    plan = Plan.uniform(convnet, name, density)
    write(convnet, plan.project(plan.weights(convnet), plan.layouts(convnet)))
    report = plan.verify(convnet)
    assert report.ok, str(report)
    assert all(row.achieved >= row.asked for row in report.weights) or "network" in name, "rounding is up"


def test_masks_of_a_model_are_those_of_its_weights_in_their_layouts(convnet) -> None:
    plan = Plan.uniform(convnet, "4x1", 0.3)
    of_model = plan.masks(convnet)
    of_weights = plan.masks(plan.weights(convnet), layouts=plan.layouts(convnet))
    assert list(of_model) == list(plan)
    assert all(torch.equal(of_model[name], of_weights[name]) for name in plan)


def test_the_layout_matters_where_groups_do_not_divide_into_blocks(convnet) -> None:
    plan = Plan({"body.2.weight": ("4x1", 0.5)})  # 2 groups of 6 filters: blocks of 4 + 2
    with_layout = plan.project(plan.weights(convnet), plan.layouts(convnet))["body.2.weight"]
    without = plan.project(plan.weights(convnet))["body.2.weight"]
    assert not torch.equal(with_layout, without)


@given(st.floats(0.01, 1), st.integers(0, 1000))
def test_network_scope_keeps_its_exact_budget_over_all_weights(density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(5, 4, generator=generator), "b": 3 * torch.randn(3, 2, 3, 3, generator=generator)}
    plan = Plan(dict.fromkeys(weights, ("2x1@network", density)))
    masks = plan.masks(weights)
    block = plan["a"].pattern
    scores = torch.cat([block.group_scores(w.double().square()).flatten() for w in weights.values()])
    kept = torch.cat([block.alive(masks[name]).flatten() for name in weights])
    assert int(kept.sum()) == kept_groups(density, 12 + 36)
    assert scores[kept].min() >= (scores[~kept].max() if not kept.all() else 0)


def test_network_scope_may_empty_a_weight_and_only_equal_entries_compete() -> None:
    weights = {"small": torch.full((2, 2), 0.1), "large": torch.ones(2, 2), "apart": torch.full((2, 2), 0.1)}
    network = ("unstructured@network", 0.5)
    plan = Plan({"small": network, "large": network, "apart": ("unstructured@network", 0.75)})
    kept = {name: int(mask.sum()) for name, mask in plan.masks(weights).items()}
    assert kept == {"small": 0, "large": 4, "apart": 3}


def test_whole_layers_compete_over_the_network() -> None:
    weights = {"a": torch.ones(2, 2), "b": torch.ones(3, 3), "c": torch.zeros(2, 2)}
    masks = Plan(dict.fromkeys(weights, ("layer", 0.5))).masks(weights)
    assert [bool(m.all()) for m in masks.values()] == [True, True, False]


def test_other_scores_than_magnitude_decide_when_given(convnet) -> None:
    plan = Plan.uniform(convnet, "unstructured", 0.5)
    scores = {name: -weight.detach().abs() for name, weight in plan.weights(convnet).items()}
    masks = plan.masks(convnet, scores)
    for name, weight in plan.weights(convnet).items():
        assert weight[masks[name]].abs().max() <= weight[~masks[name]].abs().min()


def test_missing_misshapen_and_nan_input_is_refused_with_the_names() -> None:
    plan = Plan({"a": ("4x1", 0.5), "b": ("4x1", 0.5)})
    with pytest.raises(PlanError, match="b: no such weight was given"):
        plan.project({"a": torch.ones(4, 4)})
    both = {"a": torch.ones(4, 4), "b": torch.ones(4, 4)}
    with pytest.raises(PlanError, match=r"(?s)a: the score has shape \[4, 5\].*b: no score"):
        plan.masks(both, {"a": torch.ones(4, 5)})
    with pytest.raises(PlanError, match="b: 4 of 4 groups have a NaN"):
        plan.project(both | {"b": torch.full((4, 4), float("nan"))})


def test_weights_outside_the_plan_are_left_out_of_the_projection() -> None:
    assert list(Plan({"a": ("4x1", 0.5)}).project({"a": torch.ones(4, 4), "b": torch.ones(4)})) == ["a"]


# ---- verifying ------------------------------------------------------------------------------------------------------


def test_verify_reports_asked_and_achieved_density_and_what_breaks_the_plan(convnet) -> None:
    plan = Plan({"neck.weight": ("4x1", 0.25), "head.weight": ("2:4",), "body.0.weight": ("4x1", 0.5)})
    write(convnet, plan.project(plan.weights(convnet)))
    with torch.no_grad():
        convnet.head.weight[0, :4] = 1
    report = plan.verify(convnet)
    assert not report.ok
    assert [row.name for row in report.failures] == ["head.weight"]
    assert [row.asked for row in report.weights] == [0.25, 0.5, 0.5]
    assert report.weights[0].achieved == 0.25
    planned = [convnet.neck.weight, convnet.head.weight, convnet.body[0].weight]
    nonzero, size = sum(int((w != 0).sum()) for w in planned), sum(w.numel() for w in planned)
    total = sum(p.numel() for p in convnet.parameters())
    assert report.density == pytest.approx(nonzero / size)
    assert report.parameter_density == pytest.approx((total - size + nonzero) / total)


def test_one_group_too_many_breaks_a_network_wide_plan() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    plan = Plan.uniform(model, "unstructured@network", 0.25, skip=())
    write(model, plan.project(plan.weights(model)))
    assert plan.verify(model).ok
    with torch.no_grad():
        model[0].weight[model[0].weight == 0] += torch.tensor([1.0] + [0.0] * (int((model[0].weight == 0).sum()) - 1))
    assert not plan.verify(model).ok


def test_a_report_prints_as_text_and_as_a_rich_table(convnet) -> None:
    plan = Plan.uniform(convnet, "4x1", 0.25)
    report = plan.verify(convnet)
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    for text in (str(report), console.file.getvalue()):  # pyright: ignore
        assert "body.4.weight" in text
        assert "24x12x1x1" in text
        assert "NO" in text
        assert "4 of 4 weights break the plan" in text


# ---- files ----------------------------------------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=200).filter(lambda s: s.isprintable())
ENTRIES = st.one_of(
    st.tuples(st.sampled_from(["4x1", "8x4xall", "filter", "layer", "3x2@network"]), st.floats(1e-9, 1)),
    st.tuples(st.sampled_from(["2:4", "4x1@1:4"])),
)


@given(st.dictionaries(NAMES, ENTRIES))
def test_yaml_gives_the_same_plan_back(entries: dict) -> None:
    plan = Plan(entries)
    again = Plan.from_yaml(plan.to_yaml())
    assert again == plan
    assert list(again) == list(plan)


def test_a_plan_reads_as_a_table_in_yaml() -> None:
    text = Plan({"fc.weight": ("4x1", 0.25), "head.weight": ("2:4",)}).to_yaml()
    assert text.splitlines()[1:] == [
        "version: 1",
        "weights:",
        "  fc.weight: {pattern: 4x1, density: 0.25}",
        "  head.weight: {pattern: '2:4', density: 0.5}",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not YAML"),
        ("[]", "expected `version` and `weights`"),
        ("version: 2\nweights: {}", "version is 2"),
        ("version: 1\nweights: {a: 4x1}", "expected {pattern"),
        ("version: 1\nweights: {a: {pattern: 2:4}}", "in quotes, '2:4'"),
        ("version: 1\nweights: {a: {pattern: 4x1, density: half}}", "'half' is not a number"),
        ("version: 1\nweights: {a: {pattern: 4x1, rate: 2}}", "unknown key 'rate'"),
        ("version: 1\nweights: {a: {pattern: 4x1, density: 2}}", "kept fraction"),
        ("version: 1\nweights: {1: {pattern: 4x1}}", "not text"),
        ("version: 1\nweight: {}\nweights: {}", "unknown key 'weight'"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PlanError, match=problem):
        Plan.from_yaml(text)


def test_a_saved_plan_loads_and_a_broken_file_is_named(tmp_path: Path) -> None:
    plan = Plan({"a": ("4x1", 0.25)})
    plan.save(tmp_path / "deep" / "plan.yaml")
    assert Plan.load(tmp_path / "deep" / "plan.yaml") == plan
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["plan.yaml"]
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=r"odd\.yaml"):
        Plan.load(tmp_path / "odd.yaml")
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "none.yaml")
