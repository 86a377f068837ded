"""Model folders as others publish them: what would run code, ask, or be another model than its weights say is refused by name."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from d4s.apply.base_model import BaseModelSource
from d4s.apply.change import undo
from d4s.apply.edited_folder import DELTA, MODEL, EditedFolder
from d4s.apply.export import export
from d4s.artifacts import MANIFEST, StageJob
from d4s.config import AdoptSettings
from d4s.errors import ArtifactError
from d4s.models.adopt import adopt
from d4s.models.doctor import inspect_model
from d4s.models.loading import load
from tests.applying import FACTS, applied, fact_file, saved_model
from tests.tiny import bpe_tokenizer, tiny_model, word_tokenizer

ROOT = Path(__file__).parents[3]
CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nraise SystemExit(3)\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved_model(tmp_path / "base")


def changed(folder: Path, file: str, **values: Any) -> Path:
    """A folder in one of whose JSON files these values were set, or taken out where they are `...`."""
    content = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return folder


# --- code and questions -----------------------------------------------------------------------------------------------


def test_one_module_asks_transformers_to_read_folders_and_never_trusts_their_code() -> None:
    calls = [
        (path.relative_to(ROOT / "src"), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for path in sorted((ROOT / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    ]
    assert {path.as_posix() for path, _ in calls} == {"d4s/pretrained.py"}
    assert len(calls) >= 4 and all(given["trust_remote_code"] == "False" for _, given in calls)


@pytest.mark.parametrize(
    ("file", "classes"),
    [
        ("config.json", {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Slow", "own.Fast"]}),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", "no_such_type"])
def test_a_folder_with_code_of_its_own_is_refused_and_not_run(
    base: Path, monkeypatch: pytest.MonkeyPatch, file: str, classes: dict[str, Any], kind: str
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    (base / "own.py").write_text(CODE)
    changed(changed(base, "config.json", model_type=kind), file, auto_map=classes)
    for read in (load, lambda folder: BaseModelSource.of(str(folder), None, "main"), lambda folder: inspect_model(folder, "float32")):
        with pytest.raises(ArtifactError, match=r"names code of its own in (?s:.*)auto_map(?s:.*)own\.(?s:.*)copy of the folder without"):
            read(base)
    assert not (base / "ran").exists()


def test_code_for_generation_and_kernels_named_in_the_configuration_are_left_alone(base: Path) -> None:
    (base / "custom_generate").mkdir()
    (base / "custom_generate" / "generate.py").write_text(CODE)
    model = load(changed(base, "config.json", attn_implementation="someone/attention"))
    assert model.network.config._attn_implementation in {"sdpa", "eager"}
    assert load(changed(base, "config.json", attn_implementation="eager")).network.config._attn_implementation == "eager"
    assert not (base / "custom_generate" / "ran").exists()


def test_what_would_ask_ends_in_a_message(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: input("Run it? [y/N]"))
    with pytest.raises(ArtifactError, match="holds no configuration of a model"):
        BaseModelSource.of(str(base), None, "main")


# --- what is loaded is what the weights say ---------------------------------------------------------------------------


def test_an_adapter_beside_the_weights_is_refused(base: Path) -> None:
    (base / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2}))
    save_file({"base_model.model.transformer.h.0.mlp.c_proj.lora_A.weight": torch.ones(2, 64)}, base / "adapter_model.safetensors")
    for read in (load, lambda folder: BaseModelSource.of(str(folder), None, "main")):
        with pytest.raises(ArtifactError, match=r"holds an adapter \(adapter_config\.json\) beside its weights.* merge it"):
            read(base)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "torchao"])
@pytest.mark.parametrize("inside", [False, True])
def test_quantised_weights_are_refused_for_what_they_are(base: Path, method: str, inside: bool) -> None:
    how = {"quantization_config": {"quant_method": method, "bits": 4}}
    changed(base, "config.json", **({"text_config": how} if inside else how))
    with pytest.raises(ArtifactError, match=f"weights quantised by {method}: edits are added to floating-point weights"):
        BaseModelSource.of(str(base), None, "main")


def test_codes_without_a_configuration_of_theirs_are_refused_too(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, base / "model.safetensors")
    with pytest.raises(ArtifactError, match="stores most weights as I8"):
        BaseModelSource.of(str(base), None, "main")


@pytest.mark.parametrize("said", [..., None, "float32"])
def test_the_precision_is_that_of_the_weights(tmp_path: Path, said: Any) -> None:
    base = changed(saved_model(tmp_path / "base", dtype=torch.bfloat16), "config.json", dtype=..., torch_dtype=said)
    folder, _ = applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    assert folder.manifest.model.dtype == "bfloat16"
    written = load_file(tmp_path / "out" / MODEL / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_the_precision_of_shards_is_that_of_most_numbers(base: Path) -> None:
    network = load(base).network.to(torch.float16)
    (base / "model.safetensors").unlink()
    network.save_pretrained(base, max_shard_size="8KB")
    shards = sorted(base.glob("model-*.safetensors"))
    save_file({name: tensor.float() for name, tensor in load_file(shards[-1]).items()}, shards[-1], {"format": "pt"})
    (base / "consolidated.safetensors").write_bytes(b"of another program")
    assert len(shards) > 2 and BaseModelSource.of(str(base), None, "main").dtype == "float16"
    for shard in shards:
        shard.unlink()
    with pytest.raises(ArtifactError, match="no weights in safetensors"):
        BaseModelSource.of(str(base), None, "main")


# --- manifests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ['{"name": "x"}', "[]", '{"kind": "model", "digest": "1", "files": ["a"]}'])
def test_a_manifest_of_another_program_does_not_matter(base: Path, tmp_path: Path, content: str) -> None:
    (base / MANIFEST).write_text(content)
    assert inspect_model(base, "float32").is_valid
    folder, _ = applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    assert len(folder.active_edits()) == 1


def test_a_manifest_that_cannot_be_read_costs_nobody_a_model(base: Path) -> None:
    (base / MANIFEST).write_text('{"kind": "mod')
    with pytest.raises(ArtifactError, match="remove it if another program wrote it, else restore it") as error:
        load(base)
    assert "delete" not in str(error.value)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_what_is_written_is_named_for_both_versions_of_transformers(tmp_path: Path, family: str) -> None:
    base = saved_model(tmp_path / "base", family)
    (base / "tokenizer.model").write_bytes(b"pieces")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    if family == "llama":  # as version 4 wrote it
        changed(base, "config.json", rope_parameters=..., dtype=..., rope_theta=500000.0, torch_dtype="float32")
        changed(base, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", extra_special_tokens=["<unk>"])
    else:
        angles = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e5}, "sliding_attention": {"rope_theta": 100.0}}
        changed(base, "config.json", rope_parameters=angles)
    out = tmp_path / "out"
    applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), out, "rome")
    export(out, "full", tmp_path / "full", None, "cpu")
    ids, delta = torch.tensor([[0, 5, 9, 12, 7]]), load_file(out / DELTA)
    expected = load(base).network
    for name, change in delta.items():
        expected.get_parameter(name).data += change
    for folder in (out / MODEL, tmp_path / "full"):
        config, tokens = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
        assert config["torch_dtype"] == config["dtype"] == "float32" and tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
        if family == "llama":
            assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500000.0
            assert "extra_special_tokens" not in tokens and tokens["additional_special_tokens"] == ["<unk>"]
        else:
            assert (config["rope_theta"], config["rope_local_base_freq"]) == (2e5, 100.0)
            assert config["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
        for name in ("tokenizer.model", "tokenizer.json", "additional_chat_templates/tools.jinja"):
            assert (folder / name).read_bytes() == (base / name).read_bytes()
        with torch.no_grad():
            torch.testing.assert_close(load(folder).network(ids).logits, expected(ids).logits)


def test_settings_of_generation_that_transformers_frowns_at_do_not_stop_writing(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [0, 3]}')
    applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    assert json.loads((tmp_path / "out" / MODEL / "generation_config.json").read_text())["eos_token_id"] == [0, 3]


def without_tokenizer_json(folder: Path) -> Path:
    """A GPT-2 folder whose tokenizer is a vocabulary and merges alone."""
    tokenizer = bpe_tokenizer()
    model = tiny_model(tokenizer=tokenizer)
    model.network.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"} | dict.fromkeys(SPECIAL, "<bos>")))
    return folder


SPECIAL = ("bos_token", "eos_token", "unk_token")
FILES = ("merges.txt", "vocab.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "config.json")


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_makes_the_model_is_the_one_that_was_edited(tmp_path: Path, name: str) -> None:
    base = without_tokenizer_json(tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    lines = (base / name).read_text().splitlines(keepends=True)
    (base / name).write_text("".join(lines[:3] + lines[5:]) if name == "merges.txt" else "".join(lines) + " ")
    with pytest.raises(ArtifactError, match=rf"{name} is not the file that was edited"):
        undo(tmp_path / "out", [1], "cpu")


def test_a_tokenizer_of_vocabulary_and_merges_comes_along_as_it_is(tmp_path: Path) -> None:
    base = without_tokenizer_json(tmp_path / "base")
    applied(base, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", "rome")
    for name in ("merges.txt", "vocab.json"):
        assert (tmp_path / "out" / MODEL / name).read_bytes() == (base / name).read_bytes()
    text = "Ada Moss lives in Zürich"
    assert load(tmp_path / "out" / MODEL).tokenizer(text).input_ids == load(base).tokenizer(text).input_ids


def test_an_adopted_model_keeps_to_its_index_and_its_tokenizer(tmp_path: Path) -> None:
    base = without_tokenizer_json(tmp_path / "base")
    network = load(base).network
    (base / "model.safetensors").unlink()
    network.save_pretrained(base, max_shard_size="20KB")
    (tmp_path / "adopted").mkdir()
    adopt(StageJob("models", AdoptSettings(path=str(base), dtype="float32"), {}, tmp_path / "adopted"))
    load(tmp_path / "adopted")
    for name in ("merges.txt", "model.safetensors.index.json"):
        before = (base / name).read_text()
        (base / name).write_text(before + "\n")
        with pytest.raises(ArtifactError, match=f"{name} is not the file that"):
            load(tmp_path / "adopted")
        (base / name).write_text(before)


def test_a_folder_is_found_however_it_is_called(tmp_path: Path) -> None:
    real = saved_model(tmp_path / "Modell größer [1] 'x'")
    (tmp_path / "link").symlink_to(real)
    folder, _ = applied(tmp_path / "link", fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out put", "rome")
    assert Path(folder.manifest.model.source) == real.resolve()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= folder.manifest.model.files.keys()
    assert len(EditedFolder.open(tmp_path / "out put").active_edits()) == 1


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_transformers_rebuilds_otherwise_is_refused(tmp_path: Path) -> None:
    for family, made in (("qwen2", word_tokenizer()), ("llama", word_tokenizer())):
        model = tiny_model(family, tokenizer=made)
        model.network.save_pretrained(tmp_path / family)
        model.tokenizer.save_pretrained(tmp_path / family)
    changed(tmp_path / "llama", "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    for family, built in (("qwen2", "Qwen2Tokenizer"), ("llama", "LlamaTokenizer")):
        for read in (load, lambda folder: inspect_model(folder, "float32")):
            with pytest.raises(ArtifactError, match=rf"builds a {built} from the model's type that reads .* where tokenizer\.json says"):
                read(tmp_path / family)
    load(changed(tmp_path / "llama", "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast"))


def test_a_class_of_the_librarys_own_that_reads_alike_is_used(tmp_path: Path) -> None:
    model = tiny_model("qwen2", tokenizer=bpe_tokenizer())
    model.tokenizer.unk_token = model.tokenizer.bos_token
    model.network.save_pretrained(tmp_path / "a")
    model.tokenizer.save_pretrained(tmp_path / "a")
    assert type(load(tmp_path / "a").tokenizer).__name__ == "Qwen2Tokenizer"


@pytest.mark.parametrize("lost", ["tokenizer*", "merges.txt"])
def test_a_folder_without_a_whole_tokenizer_is_refused_though_transformers_makes_one_up(tmp_path: Path, lost: str) -> None:
    base = saved_model(tmp_path / "base") if lost == "tokenizer*" else without_tokenizer_json(tmp_path / "base")
    for path in base.glob(lost):
        path.unlink()
    with pytest.raises(ArtifactError, match=r"with its tokenizer: it holds none of tokenizer\.json, vocab\.json with merges\.txt"):
        load(base)
