"""The stage `objectives`: losses of targets at the edit prompts, in rows per fact and target."""

import math
from dataclasses import replace

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import ObjectivesSettings
from d4s.facts.record import to_rows
from d4s.metrics.objectives import FILE, objectives, target_rows
from d4s.models.tokens import encode_pair
from d4s.models.views import LiveModel
from d4s.schemas import FACTS, OBJECTIVES


def test_losses_are_those_of_the_network(tiny_model, tiny_facts):
    model = tiny_model()
    fact = replace(tiny_facts(1)[0], target_new="Oslo and Rome")
    rows = {row["target"]: row for row in target_rows(LiveModel(model), [fact])}
    prompt, target = encode_pair(model, fact.prompt, "Oslo and Rome")
    nll = -model.network(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)[range(3), target]
    assert rows["new"]["n_tokens"] == 3
    assert rows["new"]["nll_per_token"] == pytest.approx(float(nll.mean()), rel=1e-4)
    assert rows["new"]["nll_first_token"] == pytest.approx(float(nll[0]), rel=1e-4)
    assert rows["new"]["nll_joint"] == pytest.approx(float(nll.sum()), rel=1e-4)
    assert (rows["true"]["n_tokens"], rows["true"]["text"]) == (1, fact.target_true)


@pytest.mark.parametrize(("target", "labels"), [("yes", ("yes", "no")), ("c", tuple("abcd"))])
def test_label_mass_is_the_probability_of_all_labels_that_a_question_offers(tiny_model, tiny_facts, target, labels):
    view = LiveModel(tiny_model())
    facts = [replace(fact, target_new=target) for fact in tiny_facts(2)]
    rows = [row for row in target_rows(view, facts) if row["target"] == "new"]
    for fact, row in zip(facts, rows, strict=True):
        joint = view.score([fact.prompt] * len(labels), list(labels)).joint_nll()
        assert row["label_mass"] == pytest.approx(float(joint.neg().exp().sum()), rel=1e-5)
        assert row["nll_joint"] >= -math.log(row["label_mass"])


def test_a_phrase_has_no_label_mass(tiny_model, tiny_facts):
    rows = target_rows(LiveModel(tiny_model()), [replace(tiny_facts(1)[0], target_new="Oslo")])
    assert math.isnan(rows[0]["label_mass"])


def test_facts_without_a_true_target_have_one_row(tiny_model, tiny_facts):
    rows = target_rows(LiveModel(tiny_model()), [replace(tiny_facts(1)[0], target_true="")])
    assert [row["target"] for row in rows] == ["new"]


def test_the_verb_writes_editable_facts_and_the_same_bytes_again(tiny_model, tiny_facts, tmp_path):
    model = tiny_model()
    model.network.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    facts = [replace(fact, editable=number > 0) for number, fact in enumerate(tiny_facts(4))]
    write_table(tmp_path / "facts" / "facts.parquet", to_rows(facts), FACTS)
    StageJob("facts", ObjectivesSettings(), {}, tmp_path / "facts").write_manifest(["facts.parquet"])
    digests = []
    for name in ("one", "two"):
        job = StageJob("objectives", ObjectivesSettings(), {"model": tmp_path / "model", "facts": tmp_path / "facts"}, tmp_path / name)
        job.folder.mkdir()
        objectives(job)
        artifact = Artifact.open(job.folder, "objectives")
        digests.append(artifact.manifest.files[FILE])
    frame = artifact.table(FILE, OBJECTIVES)
    assert sorted(set(frame["fact_id"])) == [fact.fact_id for fact in facts[1:]]
    assert frame["target"].value_counts().to_dict() == {"new": 3, "true": 3}
    assert digests[0] == digests[1]
