"""Hyperparameter files in EasyEdit's form, written for tests: the values of its files for models that we have columns for."""

from collections.abc import Mapping
from pathlib import Path

BLOCKS = {"gpt2-xl": 48, "gpt-j-6b": 28, "llama2-7b": 32, "llama3-8b": 32, "qwen2.5-7b": 28}
OUTPUT = {"gpt2-xl": "transformer.h.{}.mlp.c_proj", "gpt-j-6b": "transformer.h.{}.mlp.fc_out"}
LLAMA = "model.layers.{}.mlp.down_proj"
SEVERAL = {"gpt2-xl": [13, 14, 15, 16, 17], "gpt-j-6b": [3, 4, 5, 6, 7, 8]}
FEW = [4, 5, 6, 7, 8]

# Steps, rate, decay and clamp of MEMIT's targets.
TARGETS = {
    "gpt2-xl": (20, "5e-1", "0.5", "0.75"),
    "gpt-j-6b": (25, "5e-1", "0.5", "0.75"),
    "llama2-7b": (25, "5e-1", "1e-3", "4"),
    "llama3-8b": (25, "1e-1", "0.5", "0.75"),
    "qwen2.5-7b": (25, "5e-1", "1e-3", "4"),
}
ROME_TARGETS = {**TARGETS, "gpt2-xl": (20, "5e-1", "0.5", "4"), "gpt-j-6b": (20, "5e-1", "0.5", "4")}
PMET_TARGETS = {"gpt-j-6b": (30, "2e-1", "0.5", "0.75"), "llama2-7b": (20, "5e-1", "0.5", "1")}
SECOND_MOMENT = {"gpt2-xl": 20000}


def _head(name: str, column: str) -> str:
    return f'alg_name: "{name}"\nmodel_name: "./models/{column}"\ndevice: 0\n'


def _modules(column: str, layers: list[int]) -> str:
    return f'layers: {layers}\nrewrite_module_tmp: "{OUTPUT.get(column, LLAMA)}"\nlayer_module_tmp: "here.{{}}"\nln_f_module: "there"\n'


def _locating(name: str, column: str, layers: list[int], target: tuple[int, str, str, str], own: str, kl: str = "0.0625") -> str:
    steps, rate, decay, clamp = target
    return (
        _head(name, column) + _modules(column, layers) + f"v_num_grad_steps: {steps}\nv_lr: {rate}\nv_loss_layer: {BLOCKS[column] - 1}\n"
        f"v_weight_decay: {decay}\nclamp_norm_factor: {clamp}\nkl_factor: {kl}\nfact_token: subject_last\n"
        f"mom2_dataset: wikipedia\nmom2_n_samples: 100000\nmom2_dtype: float32\n{own}"
    )


def _rome(name: str, column: str, uses_text: bool) -> str:
    layers = [17] if column == "gpt2-xl" else [5]
    own = f"mom2_adjustment: {str(uses_text).lower()}\ncontext_template_length_params: [[5, 10], [10, 10]]\n"
    return _locating(name, column, layers, ROME_TARGETS[column], own)


def _weight(column: str) -> str:
    return f"mom2_adjustment: true\nmom2_update_weight: {SECOND_MOMENT.get(column, 15000)}\nlayer_selection: all\n"


def _memit(name: str, column: str, own: str = "") -> str:
    return _locating(name, column, SEVERAL.get(column, FEW), TARGETS[column], _weight(column) + own)


def _emmet(column: str) -> str:
    own = "mom2_adjustment: true\nmom2_update_weight: 1\nupdate_norm_lambda: 0\nemmet_lambda: 0.1\n"
    return _locating("EMMET", column, SEVERAL.get(column, FEW), TARGETS[column], own)


def _pmet(column: str, kl: str) -> str:
    own = _weight(column) + f'nll_loss_factor: 1\nrewrite_module_tmps: ["{OUTPUT.get(column, LLAMA)}"]\n'
    return _locating("PMET", column, SEVERAL.get(column, FEW), PMET_TARGETS[column], own, kl)


def _projected(name: str, column: str, ridge: int, own: str = "") -> str:
    return _memit(name, column, f"nullspace_threshold: 2e-2\nL2: {ridge}\nP_loc: null_space_project.pt\n{own}")


def _fine_tuning(column: str, layer: int, bound: str = "false", batch: int = 1) -> str:
    own = f"num_steps: 25\nbatch_size: {batch}\nmax_length: 40\nlr: 5e-4\nweight_decay: 0\nkl_factor: 0\nnorm_constraint: {bound}\n"
    return _head("FT", column) + _modules(column, [layer]) + own + "objective_optimization: prompt_last\n"


def _neurons(column: str, steps: int, threshold: float) -> str:
    own = f"steps: {steps}\nadaptive_threshold: {threshold}\nbatch_size: {steps}\nlr_scale: 1.0\nn_toks: 10\nrefine: false\np: 0.4\n"
    return _head("KN", column) + own


def _codebook(column: str, module: str, steps: int) -> str:
    own = (
        f"inner_params:\n- {module}\nedit_lr: 1.0\nn_iter: {steps}\neps: 1.0\ndist_fn: euc\nval_init: cold\nval_train: sgd\nval_reg: None\n"
    )
    return _head("Grace", column) + own + "reg: early_stop\nreplacement: replace_last\neps_expand: coverage\nnum_pert: 8\ndropout: 0.0\n"


LORA = _head("LoRA", "llama3-8b") + (
    "lora_type: adalora\nlayers: []\nnum_steps: 70\nbatch_size: 1\nmax_length: 50\nlr: 5e-3\nweight_decay: 0\nkl_factor: 0\nrank: 8\n"
    'lora_alpha: 32\nlora_dropout: 0.1\nnorm_constraint: false\ntarget_modules: ["q_proj", "v_proj"]\n'
)
ULTRAEDIT = _head("UltraEdit", "gpt-j-6b") + (
    "inner_params:\n" + "".join(f"- transformer.h.{layer}.mlp.fc_out\n" for layer in range(18, 27)) + "lr: 1e-6\ntoken: mask\n"
    "batch_size: 10\nbatch_size_once: 10\neditor_batch_size: 1024\ndropout: 0.0\nno_grad_layers: null\nsilent: False\nhalf: true\n"
)
MEND = _head("MEND", "gpt2-xl") + (
    "archive: ./results/models/MEND/gpt2-xl\ninner_params:\n"
    + "".join(f"- transformer.h.{layer}.mlp.{module}.weight\n" for layer in (45, 46, 47) for module in ("c_proj", "c_fc"))
    + "alg: MEND\nlr: 1e-6\nedit_lr: 1e-4\nlr_lr: 1e-4\nlr_scale: 1.0\nseed: 42\ncedit: 0.1\ncloc: 1.0\ncbase: 1.0\ndropout: 0.0\n"
    "train_base: False\nno_grad_layers: null\none_sided: False\nn_hidden: 1\nhidden_dim: null\ninit: id\nnorm: True\ncombine: True\n"
    "x_only: False\ndelta_only: False\nact: relu\nrank: 1920\nmlp_class: IDMLP\nshared: True\nbatch_size: 1\nmodel_save_pt: 5000\n"
    "max_iters: 100000\nlog_interval: 1000\neval_log_interval: 1000\nfinal_eval: True\nval_interval: 1000\nearly_stop_patience: 20000\n"
    "early_stop_key: loss/total_edit_val\neval_only: True\ndebug: False\nsave: False\nverbose: True\nval_batch_size: 5\n"
    "accumulate_bs: 10\nval_steps: 500\nopt: Adam\ngrad_clip: 100.\n"
)
MALMEN = _head("MALMEN", "gpt2-xl") + (
    "inner_params:\n" + "".join(f"- transformer.h.{layer}.mlp.c_proj.weight\n" for layer in range(42, 48)) + "archive: null\n"
    "dropout: 0.0\ntrain_base: False\nno_grad_layers: null\nrank: 1920\nn_blocks: 2\nlr: 1e-6\nmeta_lr: 1e-5\nloc_coef: 1\n"
    "max_grad_norm: 1\ntoken: mask\nn_edits: 1\nbatch_size: 1\neditor_batch_size: 1024\nmax_iters: 10000\nval_interval: 100\n"
    "early_stop_patience: 1000\n"
)


def _side(column: str, layer: int, margins: str, steps: int = 70, rate: str = "1.0", ratio: str = "0.88") -> str:
    module = OUTPUT.get(column, LLAMA).replace(".{}", f"[{layer}]")
    own = f"mask_ratio: 0.2\nedit_lr: {rate}\nn_iter: {steps}\nnorm_constraint: 1.0\nact_margin: {margins}\nact_ratio: {ratio}\n"
    own += "save_freq: 500\nmerge_freq: 1000\nmerge_alg: ties\n"
    own += f"objective_optimization: only_label\ninner_params:\n- {module}.weight\ndensities: 0.53\n"
    return _head("WISE", column) + own + "weights: 1.0\nretrieve: True\nreplay: False\n"


DEFER = _head("DEFER", "llama2-7b") + (
    "inner_params:\n- model.layers[27].mlp.down_proj.weight\nedit_lr: 7e-5\nn_iter: 100\nthreshold: 0.5\n"
)
ALIGNED = (
    "ks_bs: 1\nclamp_ks_factor: 1\ncs_factor: 1\nmse_factor: 1\ntau: 0.07\nnorm_factor: 1e-3\ndelta_init: target_init\n"
    "weight_decay_method: norm\nmom2_adjustment: true\nmom2_update_weight: [15000, 15000, 15000, 15000, 15000]\nlayer_selection: all\n"
)
ALIKE = "reg_lambda: 0.01\ncontext: all\nctx_len: 10\nctx_num: 15\nctx_top_k: 5\nlayer_range: 28\nbatch_size: 2000\n"
IKE = _head("IKE", "llama3-8b") + 'sentence_model_name: "./all-MiniLM-L6-v2"\nresults_dir: "./results"\nk: 16\nmodel_parallel: false\n'
ENERGY = "cumulative_ratio: 0.5\nsuppression_strength: 0.5\n"

FILES: Mapping[tuple[str, str], str] = {
    ("FT", "gpt2-xl"): _fine_tuning("gpt2-xl", 0, "5e-4", 3),
    ("FT", "gpt-j-6b"): _fine_tuning("gpt-j-6b", 21),
    ("FT", "llama3-8b"): _fine_tuning("llama3-8b", 21),
    ("FT", "qwen2.5-7b"): _fine_tuning("qwen2.5-7b", 27),
    ("LoRA", "llama3-8b"): LORA,
    ("ROME", "gpt2-xl"): _rome("ROME", "gpt2-xl", True),
    ("ROME", "gpt-j-6b"): _rome("ROME", "gpt-j-6b", False),
    ("ROME", "llama2-7b"): _rome("ROME", "llama2-7b", False),
    ("ROME", "qwen2.5-7b"): _rome("ROME", "qwen2.5-7b", False),
    ("R-ROME", "gpt2-xl"): _rome("R-ROME", "gpt2-xl", False),
    ("R-ROME", "gpt-j-6b"): _rome("R-ROME", "gpt-j-6b", False),
    **{("MEMIT", column): _memit("MEMIT", column) for column in ("gpt2-xl", "gpt-j-6b", "qwen2.5-7b")},
    ("MEMIT-FE", "gpt-j-6b"): _memit("MEMIT-FE", "gpt-j-6b"),
    **{("EMMET", column): _emmet(column) for column in ("gpt2-xl", "gpt-j-6b", "llama2-7b")},
    ("CORE", "llama3-8b"): _locating("CORE", "llama3-8b", FEW, (25, "0.5", "0.001", "3"), _weight("llama3-8b") + ALIKE),
    ("EAMET", "qwen2.5-7b"): _locating("EAMET", "qwen2.5-7b", FEW, TARGETS["qwen2.5-7b"], ALIGNED),
    ("IKE", "llama3-8b"): IKE,
    ("PMET", "gpt-j-6b"): _pmet("gpt-j-6b", "1"),
    ("PMET", "llama2-7b"): _pmet("llama2-7b", "0.0625"),
    ("AlphaEdit", "gpt-j-6b"): _projected("AlphaEdit", "gpt-j-6b", 10),
    ("AlphaEdit", "llama3-8b"): _projected("AlphaEdit", "llama3-8b", 10),
    ("AlphaEdit", "qwen2.5-7b"): _projected("AlphaEdit", "qwen2.5-7b", 1),
    ("SPHERE", "gpt2-xl"): _projected("SPHERE", "gpt2-xl", 10, ENERGY),
    ("SPHERE", "llama3-8b"): _projected("SPHERE", "llama3-8b", 1, ENERGY),
    ("KN", "gpt2-xl"): _neurons("gpt2-xl", 20, 0.2),
    ("KN", "gpt-j-6b"): _neurons("gpt-j-6b", 20, 0.1),
    ("KN", "llama3-8b"): _neurons("llama3-8b", 1, 0.2),
    ("GRACE", "gpt2-xl"): _codebook("gpt2-xl", "transformer.h[35].mlp.c_fc.weight", 200),
    ("GRACE", "gpt-j-6b"): _codebook("gpt-j-6b", "transformer.h[25].mlp.fc_out.weight", 200),
    ("GRACE", "qwen2.5-7b"): _codebook("qwen2.5-7b", "model.layers[18].mlp.down_proj.weight", 50),
    ("WISE", "gpt-j-6b"): _side("gpt-j-6b", 21, "[15.0, 40.0, 20.0]"),
    ("WISE", "llama2-7b"): _side("llama2-7b", 27, "[5.0, 20.0, 10.0]"),
    ("WISE", "llama3-8b"): _side("llama3-8b", 29, "[2.0, 20.0, 10.0]", 30, "0.9", "0.5"),
    ("WISE", "qwen2.5-7b"): _side("qwen2.5-7b", 23, "[5.0, 20.0, 10.0]"),
    ("DEFER", "llama2-7b"): DEFER,
    ("ULTRAEDIT", "gpt-j-6b"): ULTRAEDIT,
    ("MEND", "gpt2-xl"): MEND,
    ("MALMEN", "gpt2-xl"): MALMEN,
}
"""Files by `alg_name` and column."""
SIMIE = "alg_name: SimIE\nmodel_name: ./models/gpt2-xl\nbase_method: MEMIT\nlamHyper: 10000.0\ninit_model: true\nsolver: LU\nfast: false\n"


def written(folder: Path, text: str, name: str = "hparams.yaml") -> Path:
    """A file with this text."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
