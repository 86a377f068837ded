"""What is written loads in Transformers 4.57 with the same logits; it is installed for the session, so not part of `make test`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from d4s.apply.edited_folder import MODEL
from d4s.apply.export import export
from d4s.models.loading import load
from tests.applying import FACTS, applied, fact_file, saved_model
from tests.tiny import FAMILIES

PACKAGES = ("transformers==4.57.*", "tokenizers==0.22.*", "huggingface_hub<1")
TEXT = "Ada Moss lives in the city of"
READ = """
import json, pathlib, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {"version": transformers.__version__}
for folder in map(pathlib.Path, sys.argv[2:]):
    ids = AutoTokenizer.from_pretrained(folder)(sys.argv[1], return_tensors="pt").input_ids
    network = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        found[str(folder)] = [ids.tolist(), str(network.dtype), network(ids).logits.double().tolist()]
print(json.dumps(found))
"""
AS_VERSION_4 = {"rope_theta": 500000.0, "torch_dtype": "float32"}
VARIANTS = {
    "llama": AS_VERSION_4,
    "mistral": AS_VERSION_4,
    "qwen3": AS_VERSION_4,
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5}},
    "gemma3_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        }
    },
    "phi3": {
        "original_max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "longrope", "long_factor": [1.5] * 4, "short_factor": [1.1] * 4, "rope_theta": 1e4},
    },
}


@pytest.fixture(scope="session")
def version_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Transformers 4.57 and what it needs otherwise than version 5; everything else is this environment's."""
    folder = tmp_path_factory.mktemp("transformers4")
    asked = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Transformers 4.57 cannot be had here: {done.stderr.strip()[-200:]}")
    return folder


def published(folder: Path, family: str) -> Path:
    """A tiny model, its angles and precision as `VARIANTS` say."""
    saved_model(folder, family)
    config = json.loads((folder / "config.json").read_text())
    if VARIANTS.get(family) is AS_VERSION_4:
        del config["rope_parameters"], config["dtype"]
    (folder / "config.json").write_text(json.dumps(config | VARIANTS.get(family, {})))
    return folder


def test_every_family_loads_in_version_4_as_it_was_edited(version_4: Path, tmp_path: Path) -> None:
    facts, folders = fact_file(tmp_path / "facts.csv", FACTS[:1]), []
    for family in FAMILIES:
        if family == "qwen2":
            continue  # its class in Transformers rebuilds the tiny tokenizer, which is refused
        applied(published(tmp_path / family, family), facts, tmp_path / f"{family}.out", "rome")
        folders.append(tmp_path / f"{family}.out" / MODEL)
    export(tmp_path / "llama.out", "full", tmp_path / "full", None, "cpu")
    folders.append(tmp_path / "full")
    paths = os.pathsep.join([str(version_4), *sys.path])
    asked = [sys.executable, "-W", "ignore", "-c", READ, TEXT, *map(str, folders)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["version"].startswith("4.57")
    for folder in folders:
        model, (ids, dtype, logits) = load(folder), found[str(folder)]
        assert ids == [model.tokenizer(TEXT).input_ids] and dtype == "torch.float32"
        with torch.no_grad():
            torch.testing.assert_close(
                torch.tensor(logits), model.network(torch.tensor(ids)).logits.double(), rtol=1e-4, atol=1e-4, check_dtype=False
            )
