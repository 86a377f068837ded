"""Fixtures shared by all tiers: tiny random models and facts, made fresh for every test."""

import pytest

from tests import tiny


@pytest.fixture
def tiny_model():
    """Factory: `tiny_model(family="gpt2", layers=3, width=16, ...)` makes a fresh random LanguageModel."""
    return tiny.tiny_model


@pytest.fixture
def tiny_facts():
    """Factory: `tiny_facts(count)` makes facts in words that the tiny models know."""
    return tiny.tiny_facts
