"""A tiny random Llama as a GGUF file: enough for a llama.cpp server to answer, by grammar, with random letters."""

from pathlib import Path

import numpy as np

WIDTH, MLP, HEADS, LAYERS, CONTEXT = 32, 64, 2, 1, 8192
CHAT = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}<answer>"
SPECIAL = ("<pad>", "<bos>", "<|endoftext|>", "<user>", "<answer>")


def _byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(shifted)) for byte in range(256)]


def write_tiny_model(path: Path) -> Path:
    """Write the model: every token is a byte, but for a merged pair; every weight is drawn."""
    import gguf

    tokens = [*SPECIAL, *_byte_letters(), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)
    for name, shape in _shapes(len(tokens)).items():
        rng = np.random.default_rng(len(name))
        drawn = np.ones(shape) if "norm" in name else rng.normal(0, 0.3, shape)
        writer.add_tensor(name, drawn.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    square = {f"blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    mlp = {"blk.0.ffn_gate.weight": (MLP, WIDTH), "blk.0.ffn_up.weight": (MLP, WIDTH), "blk.0.ffn_down.weight": (WIDTH, MLP)}
    norms = {name: (WIDTH,) for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")}
    return {"token_embd.weight": (vocabulary, WIDTH), "output.weight": (vocabulary, WIDTH), **square, **mlp, **norms}


def llama_completion(file: Path, prompt: str, tokens: int) -> str:
    """What llama.cpp writes after a prompt, greedily."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.verbosity = 256, 1, 1, -1
    server = xllamacpp.Server(params)
    return server.handle_completions({"prompt": prompt, "n_predict": tokens, "temperature": 0})["choices"][0]["text"]
