from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, read_table, write_table
from d4s.config import PretrainSettings
from d4s.editors.edit_requests import draw_requests
from d4s.editors.editor_settings import resolve
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import build_prompts
from d4s.editors.target_optimisation import optimise
from d4s.models.tokens import encode
from d4s.runs.criteria import Criterion, injection_success, key_spectrum
from d4s.runs.run_settings import WorldReportSettings
from d4s.runs.world_report import page, world_report
from d4s.schemas import CRITERIA, MODEL_CHECK
from tests.cases import SINGLE, SMALL
from tests.oracle.plain import key_of, requests_of, rewritings_of, watching
from tests.runs import prepare_inputs
from tests.tiny import tiny_facts

CHECKED = [
    {"dataset": "world_qa", "wording": "taught", "accuracy": 0.99, "n": 10},
    {"dataset": "world_qa", "wording": "withheld", "accuracy": 0.5, "n": 20},
]


def drawn_of(count: int):
    return draw_requests(tiny_facts(count + 2), 3, count)


def test_injection_knows_targets_that_are_optimised_with_attention(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64, width=128, scale=6.0)
    settings = TargetSettings(layer=1, hook="mlp_and_attention", steps=2)
    drawn = drawn_of(2)
    targets = optimise(model, [build_prompts(model, request, ()) for request, _ in drawn], settings)
    assert [len(found) for found in injection_success(model, drawn, targets, settings)] == [2, 4]


def test_injection_is_adding_the_shift_at_the_lookup_token(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64, width=128, scale=6.0)
    settings = TargetSettings(layer=1, steps=20, clamp=6.0, weight_decay=0.0)
    drawn = drawn_of(6)
    targets = optimise(model, [build_prompts(model, request, ()) for request, _ in drawn], settings)
    own, others = injection_success(model, drawn, targets, settings)
    assert own.shape == (6,) and others.shape == (12,)
    expected = []
    for number, (request, fact) in enumerate(drawn):
        for prompt in (request.prompt, *fact.paraphrases):
            ids = encode(model, prompt)
            at = ids.index(encode(model, request.subject)[-1])

            def add(output, at=at, shift=targets.hidden_shift[number]):
                changed = output.clone()
                changed[0, at] += shift
                return changed

            with watching(model.block(0), add):
                said = int(model.network(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            expected.append(float(said == encode(model, request.target)[-1]))
    rows = torch.tensor(expected).view(6, 3)
    assert torch.equal(own.float(), rows[:, 0]) and torch.equal(others.float(), rows[:, 1:].flatten())
    assert 0 < rows.mean() < 1, "the test needs targets of which some work and some do not"


def test_paraphrases_without_the_subject_are_left_out(tiny_model) -> None:
    model, settings = tiny_model(), TargetSettings(layer=1, steps=2)
    (request, fact), *_ = drawn_of(1)
    fact = replace(fact, paraphrases=("What town is it ?", fact.paraphrases[0]))
    targets = optimise(model, [build_prompts(model, request, ())], settings)
    assert len(injection_success(model, [(request, fact)], targets, settings)[1]) == 1


def test_the_spectrum_of_keys_shows_copies(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    texts = rewritings_of(model, requests_of(4), ())
    keys = torch.stack([key_of(model, one.prompts[0], 1) for one in texts])
    values = torch.linalg.svdvals(keys).flip(0) ** 2
    torch.testing.assert_close(key_spectrum(model, texts, 1), values / values.mean(), rtol=1e-6, atol=1e-9)
    assert float(key_spectrum(model, [*texts, texts[0]], 1)[0]) < 1e-10


@pytest.mark.parametrize(("value", "passed"), [(0.9, True), (0.8999, False), (float("nan"), False)])
def test_a_criterion_holds_from_its_threshold_on(value: float, passed: bool) -> None:
    assert Criterion("injected_efficacy", "x", value, 0.9, 3).passed is passed


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    inputs = prepare_inputs(folder)
    write_table(inputs["model"] / "check.parquet", CHECKED, MODEL_CHECK)
    model_files = [path.name for path in inputs["model"].iterdir()]
    StageJob("models", PretrainSettings(), {}, inputs["model"]).write_manifest(model_files)
    small = {"ft_m": {"layer": 1, "steps": 40, "lr": 0.05}, "rome": SINGLE, "unedited": {}}
    names = ("unedited", "d4s", "one_time_batch", "rome", "ft_m")
    editors = {name: resolve("tested", {"preset": name, **small.get(name, SMALL)}, "mini") for name in names}
    settings = WorldReportSettings(editors=editors, seed=3, requests=5, single_edits=3)
    world_report(StageJob("reports", settings, inputs, folder / "out"))
    return folder / "out"


def test_the_report_has_every_criterion_of_every_subject(report: Path) -> None:
    table = read_table(report / "criteria.parquet", CRITERIA)
    found = {name: part["subject"].tolist() for name, part in table.groupby("criterion", sort=False)}
    assert found == {
        "base_accuracy": ["world_qa, taught", "world_qa, withheld"],
        "injected_efficacy": ["block_output of block 1, clamp 2"],
        "injected_paraphrase": ["block_output of block 1, clamp 2"],
        "key_spectrum": ["layer 0", "layer 1"],
        "single_edit": ["d4s", "one_time_batch", "rome", "ft_m"],
    }
    by_subject = table.set_index("subject")
    assert by_subject.loc["world_qa, taught", "passed"] and not by_subject.loc["world_qa, withheld", "passed"]
    assert by_subject.loc["ft_m", "n"] == 3 and by_subject.loc["layer 0", "n"] == 5
    assert table["value"].between(0, 1).all()


def test_the_report_can_be_read_by_people_and_programs(report: Path) -> None:
    content = Artifact.open(report, "reports").json("criteria.json")
    assert content["passed"] is False and len(content["criteria"]) == 10
    text = (report / "world_report.md").read_text(encoding="utf-8")
    assert "criteria do not hold" in text and "| base_accuracy | world_qa, withheld | 0.5 | 0.95 | 20 | **no** |" in text


def test_a_page_where_all_holds_says_so() -> None:
    row = {"criterion": "single_edit", "subject": "d4s", "value": 1.0, "threshold": 0.95, "n": 50, "passed": True}
    assert "All criteria hold. Measured on seed 0 only" in page([row], 0)
