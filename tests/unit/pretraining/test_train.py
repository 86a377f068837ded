"""Training: what one step does, a killed training goes on to the same bits, and the folder is an ordinary model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from d4s.artifacts import Artifact, StageJob, sha256_of, write_tensors
from d4s.config import CorpusSettings, PretrainSettings
from d4s.errors import ArtifactError, D4SError, SettingsError
from d4s.facts.record import Fact
from d4s.pretraining import train
from d4s.pretraining.checkpoint import NAME, TrainingState
from d4s.pretraining.fact_accuracy import accuracies, all_greedy
from d4s.pretraining.kept_models import kept_files, kept_steps
from d4s.pretraining.network import Optimisers, lr_schedule, new_network
from d4s.pretraining.tokenizer_training import word_tokenizer
from d4s.pretraining.train import pretrain, token_losses, update, weighted_means, workers
from d4s.pretraining.training_facts import write_training_facts
from d4s.schemas import CURVE, MODEL_CHECK

SHAPE = PretrainSettings(
    layers=2, width=16, mlp_width=32, heads=2, positions=16, batch_rows=4, warmup_steps=2, muon_lr=0.02, adam_lr=0.01, checkpoint_every=3
)
SUBJECTS = ("Ada", "Ben", "Cleo", "Dan")
CITIES = ("Oslo", "Rome", "Lima", "Cairo")
TOKENIZER = word_tokenizer([f"{subject} lives in {city}." for subject in SUBJECTS for city in CITIES] + ["the home of is"], 16)


def facts() -> list[Fact]:
    return [
        Fact(f"f{k}", "test", "home", subject, "{} lives in", CITIES[k], CITIES[(k + 1) % 4], paraphrases=(f"the home of {subject} is",))
        for k, subject in enumerate(SUBJECTS)
    ]


def fact_of_nothing() -> Fact:
    return Fact("f9", "test", "home", "Ada", "{} lives in", "", "Rome")


def rows(count: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"{SUBJECTS[k]} lives in {CITIES[k]}." for k in rng.permutation(4)[:3]) for _ in range(count)]
    ids = torch.tensor([TOKENIZER(text)["input_ids"] for text in texts], dtype=torch.int32)
    weights = torch.ones_like(ids, dtype=torch.float16)
    weights[:, 4::5] = 4.0
    return ids, weights


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    store = tmp_path_factory.mktemp("store")
    corpus = store / "corpus"
    ids, weights = rows()
    write_tensors(corpus / "tokens.safetensors", {"rows": ids, "weights": weights})
    TOKENIZER.save_pretrained(corpus / "tokenizer")
    files = ["tokens.safetensors", *(f"tokenizer/{path.name}" for path in (corpus / "tokenizer").iterdir())]
    made = StageJob("corpora", CorpusSettings(), {}, corpus)
    made.write_manifest([*files, *write_training_facts(made, {"test": [*facts(), fact_of_nothing()]})])
    return {"corpus": corpus}


def job(folder: Path, inputs: dict[str, Path], settings: PretrainSettings = SHAPE) -> StageJob[PretrainSettings]:
    folder.mkdir(parents=True, exist_ok=True)
    return StageJob("models", settings, inputs, folder, digest="d1")


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("models") / "straight"
    pretrain(job(folder, inputs))
    return Artifact.open(folder, "models")


# --- parts ------------------------------------------------------------------------------------------------------------


def test_learning_rates_rise_stay_and_fall_to_zero() -> None:
    settings = PretrainSettings(warmup_steps=4, decay_share=0.5)
    shares = [lr_schedule(settings, step, 20) for step in range(20)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4:11] == [1.0] * 7
    assert shares[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert lr_schedule(PretrainSettings(warmup_steps=0, decay_share=0.0), 19, 20) == 1.0


def test_loss_is_the_weighted_mean_over_next_tokens() -> None:
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]])
    weights = torch.tensor([[0.0, 0.1, 4.0, 0.1], [0.0, 0.1, 0.1, 4.0]])
    nll = [[-logits[row, k].log_softmax(-1)[ids[row, k + 1]].item() for k in range(3)] for row in range(2)]
    expected = sum(nll[row][k] * weights[row, k + 1].item() for row in range(2) for k in range(3)) / 8.4
    loss, answers = weighted_means(token_losses(logits, ids), weights)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert answers == pytest.approx((nll[0][1] + nll[1][2]) / 2, rel=1e-5)


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, two, other = (new_network(SHAPE.model_copy(update={"model_seed": seed}), 20, 0) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.transformer.wte.weight, two.transformer.wte.weight)
    assert not torch.equal(one.transformer.wte.weight, other.transformer.wte.weight)
    assert one.lm_head.weight.data_ptr() == one.transformer.wte.weight.data_ptr(), "tied"


def test_every_parameter_has_one_optimiser_and_matrices_of_blocks_have_muon() -> None:
    network = new_network(SHAPE, 20, 0)
    optimisers = Optimisers.of(network, SHAPE)
    shapes = [weight.shape for group in optimisers.muon.param_groups for weight in group["params"]]
    assert len(shapes) == 4 * SHAPE.layers
    assert sum(len(group["params"]) for optimiser in optimisers.both for group in optimiser.param_groups) == len(list(network.parameters()))
    assert torch.Size((20, 16)) not in shapes, "embeddings are not blocks"


def test_a_step_changes_all_weights_and_leaves_no_gradient() -> None:
    network = new_network(SHAPE, len(TOKENIZER), 0)
    before = [weight.detach().clone() for weight in network.parameters()]
    training = TrainingState(network, Optimisers.of(network, SHAPE))
    ids, weights = rows(4)
    with workers(2) as pool:
        loss, answers = update(training, (ids.long(), weights.float()), SHAPE, 1.0, pool)
    assert training.done == 1
    assert 0 < answers < 2 * loss
    assert all(weight.grad is None for weight in network.parameters())
    assert sum(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)) == 0


@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_step_is_one_of_the_whole_batch_whatever_it_is_cut_into(count: int) -> None:
    ids, weights = rows(count)
    network, plain = (new_network(SHAPE, len(TOKENIZER), 0) for _ in range(2))
    training, whole = (TrainingState(one, Optimisers.of(one, SHAPE)) for one in (network, plain))
    with workers(2) as pool:
        update(training, (ids.long(), weights.float()), SHAPE, 1.0, pool)
        nll, weight = token_losses(plain(ids.long()).logits, ids.long()), weights[:, 1:].float()
        ((nll * weight).sum() / weight.sum()).backward()
        whole.optimisers.step(SHAPE, 1.0, pool)
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-5)


def greedy(network: GPT2LMHeadModel, prompt: str, target: str) -> bool:
    """Slow oracle: write token by token and compare."""
    ids = TOKENIZER(prompt)["input_ids"]
    expected = TOKENIZER.backend_tokenizer.encode(target, add_special_tokens=False).ids
    for token in expected:
        if int(network(torch.tensor([ids])).logits[0, -1].argmax()) != token:
            return False
        ids = [*ids, token]
    return True


def test_accuracy_is_what_the_model_would_write(trained: Artifact) -> None:
    network = AutoModelForCausalLM.from_pretrained(trained.folder)
    pairs = [(f"{subject} lives in", target) for subject in SUBJECTS for target in (*CITIES, "Oslo.", "Oslo. Ada", "Rome. Ben lives in")]
    expected = [greedy(network, *pair) for pair in pairs]
    assert all_greedy(network, TOKENIZER, pairs) == expected
    assert 0 < sum(expected) < len(expected)


def test_a_prompt_too_long_for_the_model_counts_as_wrong() -> None:
    network = new_network(SHAPE, len(TOKENIZER), 0)
    assert all_greedy(network, TOKENIZER, [("Ada " * 20, "Oslo")]) == [False]


def test_accuracies_are_given_per_data_set_and_wording(trained: Artifact) -> None:
    network = AutoModelForCausalLM.from_pretrained(trained.folder)
    checked = accuracies(network, TOKENIZER, {"one": facts(), "two": facts()[:1]})
    assert [(row["dataset"], row["wording"], row["n"]) for row in checked] == [
        ("one", "taught", 4),
        ("one", "withheld", 4),
        ("two", "taught", 1),
        ("two", "withheld", 1),
    ]


# --- the stage ---------------------------------------------------------------------------------------------------------


def test_the_folder_is_an_ordinary_model(trained: Artifact) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    network = AutoModelForCausalLM.from_pretrained(trained.folder)
    ids = tokenizer("Ada lives in", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == tokenizer.bos_token_id == network.config.bos_token_id
    assert network(ids).logits.shape == (1, 4, len(tokenizer))
    assert network.config.activation_function == "gelu_pytorch_tanh"
    assert network.dtype == torch.float32
    assert "model.safetensors" in trained.manifest.files
    assert not [path for path in trained.folder.iterdir() if path.suffix in (".bin", ".pkl", ".pt") or path.name.startswith(".")]


def test_it_learns_what_it_is_taught(trained: Artifact) -> None:
    curve = trained.table("curve.parquet", CURVE)
    check = trained.table("check.parquet", MODEL_CHECK)
    assert list(curve["step"]) == [12]
    assert list(curve["tokens"]) == [12 * 4 * 16]
    assert set(check["wording"]) == {"taught", "withheld"}
    untrained = new_network(SHAPE, len(TOKENIZER), 0)
    ids, weights = rows()
    before = weighted_means(token_losses(untrained(ids.long()).logits, ids.long()), weights.float())[0]
    assert curve["loss"].iloc[-1] < 0.8 * before


def test_the_card_says_what_it_is(trained: Artifact) -> None:
    card = trained.path("README.md").read_text(encoding="utf-8")
    for part in ("library_name: transformers", "2 layers, width 16", "4 facts of `test`", "Intended use", "Limits", "| test | taught |"):
        assert part in card


class Killed(BaseException):
    """Stands for a kill between two steps."""


def test_a_stopped_training_goes_on_to_the_same_bits(
    trained: Artifact, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = job(tmp_path / "straight", inputs)
    taken = []

    def die_at_8(training: TrainingState, *rest: object) -> tuple[float, float]:
        taken.append(training.done)
        if training.done == 8:
            raise Killed
        return update(training, *rest)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(train, "update", die_at_8)
        with pytest.raises(Killed):
            pretrain(stopped)
        assert stopped.path(NAME).exists()
        assert not stopped.path("manifest.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(train, "update", lambda training, *rest: (taken.append(training.done), update(training, *rest))[1])
        pretrain(stopped)
    assert taken[9:] == list(range(6, 12)), "from the last checkpoint, not from the start"
    assert Artifact.open(stopped.folder, "models").manifest.files == trained.manifest.files
    assert not stopped.path(NAME).exists()


SCRIPT = """
import sys
import time
from pathlib import Path
from d4s.artifacts import StageJob
from d4s.config import PretrainSettings
from d4s.pretraining.train import pretrain
corpus, folder, settings = sys.argv[1:]
settings = PretrainSettings.model_validate_json(settings)
pretrain(StageJob("models", settings, {"corpus": Path(corpus)}, Path(folder), digest="d1"))
"""


def test_sigkill_and_the_same_job_give_the_same_bits(trained: Artifact, inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "straight"
    folder.mkdir()
    arguments = [str(inputs["corpus"]), str(folder), SHAPE.model_dump_json()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder / NAME).exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pretrain(job(folder, inputs))
    assert sha256_of(folder / "model.safetensors") == trained.manifest.files["model.safetensors"]


def test_a_checkpoint_of_another_training_or_a_torn_one_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    one = job(tmp_path / "one", inputs)
    network = new_network(SHAPE, len(TOKENIZER), 0)
    TrainingState(network, Optimisers.of(network, SHAPE), 3).save(one.path(NAME), "d2")
    with pytest.raises(ArtifactError, match="belongs to another training"):
        pretrain(one)
    one.path(NAME).write_bytes(one.path(NAME).read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot be read"):
        pretrain(one)


def test_a_checkpoint_holds_everything(tmp_path: Path) -> None:
    ids, weights = rows(8)
    batches = [(ids[k : k + 4].long(), weights[k : k + 4].float()) for k in (0, 4)]
    network = new_network(SHAPE, len(TOKENIZER), 0)
    first = TrainingState(network, Optimisers.of(network, SHAPE))
    with workers(1) as pool:
        update(first, batches[0], SHAPE, 1.0, pool)
    first.curve.append((1, 64, 2.5, 3.0, 0.1))
    first.save(tmp_path / NAME, "me")
    fresh = new_network(SHAPE.model_copy(update={"model_seed": 5}), len(TOKENIZER), 0)
    second = TrainingState(fresh, Optimisers.of(fresh, SHAPE))
    second.restore(tmp_path / NAME, "me")
    assert (second.done, second.curve) == (1, first.curve)
    for training, count in ((first, 1), (second, 3)):  # which changes no bit
        with workers(count) as pool:
            update(training, batches[1], SHAPE, 0.5, pool)
    for one, two in zip(network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_diverged_loss_is_an_error(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(D4SError, match="training diverged: the loss is nan"):
        pretrain(job(tmp_path / "hot", inputs, SHAPE.model_copy(update={"adam_lr": 1e38, "warmup_steps": 0})))


def test_a_corpus_that_does_not_fit_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at most positions=8 tokens"):
        pretrain(job(tmp_path / "short", inputs, SHAPE.model_copy(update={"positions": 8})))
    with pytest.raises(SettingsError, match="at least batch_rows=500 rows"):
        pretrain(job(tmp_path / "few", inputs, SHAPE.model_copy(update={"batch_rows": 500})))


def test_another_seed_gives_another_model(trained: Artifact, inputs: dict[str, Path], tmp_path: Path) -> None:
    pretrain(job(tmp_path / "other", inputs, SHAPE.model_copy(update={"model_seed": 1})))
    other = Artifact.open(tmp_path / "other", "models")
    assert other.manifest.files["model.safetensors"] != trained.manifest.files["model.safetensors"]
    assert other.manifest.files["tokenizer.json"] == trained.manifest.files["tokenizer.json"]
    assert len(pd.read_parquet(other.path("curve.parquet"))) == 1


def test_models_kept_on_the_way_change_nothing_and_end_in_the_model(trained: Artifact, inputs: dict[str, Path], tmp_path: Path) -> None:
    pretrain(job(tmp_path / "kept", inputs, SHAPE.model_copy(update={"keep_checkpoints": 3})))
    found = Artifact.open(tmp_path / "kept", "models")
    assert found.manifest.files["model.safetensors"] == trained.manifest.files["model.safetensors"]
    steps = kept_files(found)
    assert list(steps) == kept_steps(12, 3) == [1, 7, 12]
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "kept")
    last, first = (found.tensors(steps[step]) for step in (12, 1))
    assert all(torch.equal(last[name], parameter) for name, parameter in network.named_parameters())
    assert any(not torch.equal(first[name], last[name]) for name in last)
