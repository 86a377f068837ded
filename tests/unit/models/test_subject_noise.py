"""Noise on a subject's embeddings: drawn by the prompt alone, as large as it is asked for, and nowhere else."""

import pytest
import torch

from d4s.config import NoiseSettings
from d4s.models.subject_noise import added_to_embeddings, noised_answer, spread_noise, subject_noise

PROMPT, SUBJECT = (1, 8, 9, 12, 20), range(1, 3)


def test_equal_prompts_have_equal_noise_and_more_copies_only_add(tiny_model) -> None:
    few, many = (subject_noise(tiny_model(), PROMPT, SUBJECT, NoiseSettings(copies=copies)) for copies in (3, 5))
    assert torch.equal(few, many[:3]) and few.shape == (3, 2, 16)
    assert not torch.equal(few, subject_noise(tiny_model(), (*PROMPT[:-1], 21), SUBJECT, NoiseSettings(copies=3)))


def test_its_standard_deviation_is_relative_to_the_subjects_embeddings_or_absolute(tiny_model) -> None:
    model = tiny_model(width=256)
    spread = float(model.network.get_input_embeddings().weight[[8, 9]].std(correction=0))
    assert spread != pytest.approx(1.0, rel=0.05)
    relative, absolute = (
        subject_noise(model, PROMPT, SUBJECT, NoiseSettings.model_validate({"scale": 3.0, "unit": unit, "copies": 20}))
        for unit in ("embedding_sd", "absolute")
    )
    assert float(absolute.std()) == pytest.approx(3.0, rel=0.05)
    torch.testing.assert_close(relative, absolute * spread)


def test_only_the_subject_is_noised_and_only_within_the_block(tiny_model) -> None:
    model, ids = tiny_model(), torch.tensor([PROMPT, PROMPT])
    noise = subject_noise(model, PROMPT, SUBJECT, NoiseSettings(copies=2))
    embedding = model.network.get_input_embeddings()
    clean = embedding(ids)
    with added_to_embeddings(model, spread_noise([noise], [SUBJECT], len(PROMPT))):
        noised = embedding(ids)
    torch.testing.assert_close(noised[:, 1:3] - clean[:, 1:3], noise)
    assert torch.equal(noised[:, [0, 3, 4]], clean[:, [0, 3, 4]])
    assert torch.equal(embedding(ids), clean)


def test_without_noise_the_answer_is_the_greedy_one(tiny_model) -> None:
    model = tiny_model("gptj")  # whose output matrix is not that of its embeddings
    written = list(PROMPT)
    for _ in range(3):
        written.append(int(model.network(input_ids=torch.tensor([written])).logits[0, -1].argmax()))
    assert noised_answer(model, PROMPT, SUBJECT, NoiseSettings(scale=0.0), 3) == written[len(PROMPT) :]
    answers = {tuple(noised_answer(model, PROMPT, SUBJECT, NoiseSettings(scale=scale), 3)) for scale in (0.0, 5.0, 20.0, 50.0)}
    assert len(answers) > 1
