"""EasyEdit's algorithms by their `alg_name`: which preset each is here, and what every key of its hyperparameter files becomes.

A new row of `ALGORITHMS` is all that a further algorithm takes; where ours is another method in a point that no key says, `differs`
says so. Algorithms whose files are not translated, most for want of an editor, are rows of `ABSENT`. After EasyEdit of 2026-07-14
(https://github.com/zjunlp/EasyEdit).
"""

from collections.abc import Mapping

from d4s.apply.easyedit.algorithm import COMMON, EDITED_ALONE, NO_DROPOUT, Absent, Algorithm
from d4s.apply.easyedit.key_rules import Choice, Factor, Ignored, Lacking, OfEveryLayer, PresetChoice, Rule, Same, To, ToSeveral
from d4s.apply.easyedit.module_rules import FactorModules, LayerList, LossLayer, ModuleTemplate, ParameterNames, one, tuned, with_factors
from d4s.apply.easyedit.trained_algorithms import TRAINED_ALGORITHMS
from d4s.editors.hparams import IDENTITY, LORA_RULES, MOMENTS, PMET_TARGET, ROME_RULES, HParams, merge_hparams
from d4s.editors.presets_side import WISE_AS_RELEASED

ONE_AT_A_TIME = Same((1,), "requests are edited one at a time")
BATCH = To("batch", as_read="requests edited together: that of `batch_edit`; `edit` makes them one at a time", optional=True)
OWN_PREFIXES = Lacking("prefixes belong to a study (`contexts`); d4s apply samples 3 of 8 tokens")


MODULES: Mapping[str, Rule] = {
    "rewrite_module_tmp": ModuleTemplate(),
    **dict.fromkeys(
        ("layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module"),
        Ignored("found by the model's architecture"),
    ),
}
TEXT: Mapping[str, Rule] = {
    "mom2_dataset": Ignored("--text or --moments says which text"),
    "mom2_n_samples": Ignored("--moment-tokens says how many tokens"),
    "mom2_dtype": Ignored("sums are float64"),
}
TARGET: Mapping[str, Rule] = {
    "layers": LayerList(),
    "fact_token": Same(("subject_last",), "keys and targets are those of the subject's last token"),
    "v_num_grad_steps": To("target.steps"),
    "v_lr": To("target.lr"),
    "v_loss_layer": LossLayer(),
    "v_weight_decay": To("target.weight_decay"),
    "clamp_norm_factor": To("target.clamp"),
    "kl_factor": To("target.kl_weight"),
    "context_template_length_params": OWN_PREFIXES,
}
LOCATE: Mapping[str, Rule] = {
    **COMMON,
    **MODULES,
    **TEXT,
    **TARGET,
    "layer_selection": Same(("all",), "all of `layers` are edited"),
}
"""Keys of every locate-then-edit algorithm."""

ROME: Mapping[str, Rule] = {
    **LOCATE,
    "mom2_adjustment": Choice({True: MOMENTS, False: IDENTITY}, "true (the second moment of text) or false (the identity)"),
    "batch_size": ONE_AT_A_TIME,
}
MEMIT: Mapping[str, Rule] = {
    **LOCATE,
    "mom2_adjustment": Ignored("MEMIT never reads it: the second moment is always used"),
    "mom2_update_weight": To("preservation.weight"),
    "batch_size": BATCH,
}
OF_TEXT: HParams = {"preservation": {"kind": "moments"}}
NULL_SPACE: Mapping[str, Rule] = {
    **MEMIT,
    "mom2_update_weight": Ignored("the null space takes the second moment as it is"),
    "mom2_adjustment": Ignored("the null space is always taken from the second moment"),
    "nullspace_threshold": To("preservation.threshold"),
    "L2": To("preservation.weight"),
    "P_loc": Ignored("the null space is computed once per model and text, and found by its hash"),
}
FINE_TUNING: Mapping[str, Rule] = {
    **COMMON,
    "num_steps": To("steps"),
    "lr": To("lr"),
    "batch_size": BATCH,
}
NO_WEIGHT_DECAY = Same((0,), "weights are tuned without weight decay")
NEVER_READ = Ignored("EasyEdit never reads it")
ALGORITHMS: Mapping[str, Algorithm] = {
    "FT": Algorithm(
        ("ft_l", "ft_m"),
        {
            **FINE_TUNING,
            **MODULES,
            "objective_optimization": PresetChoice({"prompt_last": "ft_l", "target_new": "ft_m"}),
            "layers": LayerList(tuned),
            "norm_constraint": To("bound", or_none=True),
            "weight_decay": NO_WEIGHT_DECAY,
            "kl_factor": NEVER_READ,
        },
        differs=("biases stay as they are; EasyEdit also tunes the bias of GPT-2's matrix",),
    ),
    "LoRA": Algorithm(
        ("lora",),
        {
            **FINE_TUNING,
            "lora_type": Same(
                ("lora",), "factors are plain",
                "factors keep their rank and have no orthogonality penalty; nor does the rank of EasyEdit's adalora ever change",
            ),
            "layers": LayerList(with_factors, may_be_empty=True, optional=True),
            "rank": To("parameters.rank", optional=True),
            "lora_r": To("parameters.rank", optional=True),
            "lora_alpha": To("parameters.alpha"),
            "lora_dropout": NO_DROPOUT,
            "target_modules": FactorModules(),
            "weight_decay": NO_WEIGHT_DECAY,
            "kl_factor": NEVER_READ,
            "norm_constraint": NEVER_READ,
        },
        merge_hparams(LORA_RULES, {"parameters": {"weight_decay": 0.0}}),
        (("rank", "lora_r"),),
        differs=("the norm of the factors' gradient is clipped at 1 (parameters.clip)",),
    ),
    "ROME": Algorithm(("rome",), ROME, ROME_RULES),
    "R-ROME": Algorithm(("r_rome",), ROME, ROME_RULES),
    "MEMIT": Algorithm(("memit", "memit_seq", "d4s", "d4s_even"), MEMIT, OF_TEXT),
    "MEMIT-FE": Algorithm(("memit_fe",), MEMIT, OF_TEXT),
    "EMMET": Algorithm(
        ("emmet",),
        {
            **MEMIT,
            "mom2_update_weight": Factor(("preservation.weight",)),
            "emmet_lambda": Factor(("preservation.weight", "preservation.ridge")),
            "update_norm_lambda": Factor(("preservation.ridge",)),
            "mom2_adjustment": Ignored("EMMET never reads it: the second moment is always used"),
        },
        OF_TEXT,
    ),
    "CORE": Algorithm(
        ("core",),
        {
            **MEMIT,
            "mom2_adjustment": Ignored("CORE never reads it: the second moment is always used"),
            "reg_lambda": To("target.consistency.weight"),
            "layer_range": To("target.consistency.blocks"),
            "context": Same((None, "None"), "all requests have the same prefixes", "no prefixes are made from a request's words"),
            "ctx_num": OWN_PREFIXES,
            "ctx_len": OWN_PREFIXES,
            "ctx_top_k": OWN_PREFIXES,
            "lambda_": NEVER_READ,
        },
        OF_TEXT,
        differs=("hidden states are compared behind a study's prefixes, of which there may be more or fewer; the sum is over their pairs",),
    ),
    "EAMET": Algorithm(
        ("eamet",),
        {
            **MEMIT,
            "mom2_adjustment": Ignored("EAMET never reads it: the second moment is always used"),
            "mom2_update_weight": OfEveryLayer("preservation.weight"),
            "cs_factor": To("target.align.kl"),
            "mse_factor": To("target.align.mse"),
            "tau": To("target.align.tau"),
            "delta_init": Choice(
                {"target_init": {"target": {"align": {"start": "hidden"}}}, "zero": {"target": {"align": {"start": "zero"}}}},
                "a shift begins along the hidden state or at zero",
            ),
            "weight_decay_method": Same(
                ("norm",), "shifts are bounded by the hidden state's norm",
                "for fix_ks set target.align.clamp_to: key, target.clamp to clamp_ks_factor, and target.weight_decay: 0",
            ),
            "clamp_ks_factor": Ignored("only of weight_decay_method: fix_ks"),
            "norm_factor": Ignored("only of weight_decay_method: fix_ks"),
            "ks_bs": Ignored("how many prompts are read together changes no result"),
        },
        merge_hparams(OF_TEXT, {"target": {"align": {"clamp_to": "hidden"}, "stop_loss": 0.01}}),
        differs=(
            "what the KL prompt is held to is the model without a shift; EasyEdit's is the model with the first one",
            "a shift of zero has no direction; EasyEdit's gradient of it is 10^12, which Adam remembers",
            "decay is over the squared norm of the hidden state, in EasyEdit over the norm",
            "logits are the model's; EasyEdit's file of Qwen2.5-7B takes them from the embedding matrix",
        ),
    ),
    "PMET": Algorithm(
        ("pmet",),
        {
            **MEMIT,
            "mom2_adjustment": Ignored("PMET never reads it: the second moment is always used"),
            "rewrite_module_tmps": ModuleTemplate(),
            "nll_loss_factor": Same((1,), "the target's loss has weight 1"),
        },
        merge_hparams(OF_TEXT, {"target": PMET_TARGET}),
    ),
    "AlphaEdit": Algorithm(("alphaedit",), NULL_SPACE),
    "SPHERE": Algorithm(
        ("sphere",),
        {
            **NULL_SPACE,
            "cumulative_ratio": To("step_transform.energy"),
            "suppression_strength": To("step_transform.strength"),
        },
        differs=("the main directions are those of the original weight; EasyEdit takes those of the weight as edited so far",),
    ),
    "SimIE": Algorithm(
        ("simie",),
        {
            **COMMON,
            "base_method": Ignored("its file, of the same name in that algorithm's folder, gives the settings above"),
            "lamHyper": To("step_transform.weight"),
            "init_model": Same((False,), "edits are computed on the model as edited so far"),
            "solver": Ignored("an inverse is updated edit by edit, in float64"),
            "fast": Ignored("matrices are where the model's layer is"),
        },
        around=("ROME", "MEMIT"),
        differs=("keys of a step are those of the subject's last token; EasyEdit takes those of every token of prompt and target",),
    ),
    "KN": Algorithm(
        ("kn",),
        {
            **COMMON,
            "steps": To("steps"),
            "adaptive_threshold": To("threshold"),
            "batch_size": Ignored("how many points run together changes no result"),
            "lr_scale": NEVER_READ,
            "n_toks": NEVER_READ,
            "refine": Same((False,), "all neurons above the threshold count"),
            "p": Ignored("of one prompt every share of prompts is that prompt"),
        },
        differs=("neurons are those that enter the MLP's output matrix, as in the paper; EasyEdit takes them before the nonlinearity",),
    ),
    "GRACE": Algorithm(
        ("grace",),
        {
            **COMMON,
            "inner_params": ParameterNames(one, by_block=True),
            "edit_lr": To("lr"),
            "n_iter": To("steps"),
            "eps": To("eps_init"),
            "val_init": Choice({"cold": {"value": "cold"}, "warm": {"value": "warm"}}, "values start cold or warm"),
            "dist_fn": Ignored("distances are Euclidean, as EasyEdit's are with any value"),
            "val_train": Same(("sgd", "pert"), "values are trained without perturbation, as EasyEdit's are but with `adv`"),
            "val_reg": NEVER_READ,
            "reg": NEVER_READ,
            "replacement": Same(("replace_last",), "the last prompt token's output alone is replaced"),
            "eps_expand": Same(("coverage",), "a radius grows to the new key, and no key moves"),
            "num_pert": Ignored("only of training with perturbations"),
            "dropout": NO_DROPOUT,
            "batch_size": ONE_AT_A_TIME,
        },
        differs=("the codebook is asked once per prompt, at its last token; EasyEdit asks again at every generated token",),
    ),
    "WISE": Algorithm(
        ("wise",),
        {
            **COMMON,
            "inner_params": ParameterNames(one),
            "edit_lr": To("lr"),
            "n_iter": To("steps"),
            "mask_ratio": To("masked_share"),
            "norm_constraint": To("bound"),
            "act_margin": ToSeveral(("alpha", "beta", "gamma")),
            "act_ratio": To("act_ratio"),
            "save_freq": To("shard"),
            "merge_freq": To("merge_every"),
            "densities": To("density"),
            "merge_alg": Same(("ties",), "kept copies are merged by TIES"),
            "weights": Same((1,), "kept copies count alike"),
            "objective_optimization": Same(("only_label",), "the loss is that of the target"),
            "retrieve": Same((True,), "kept copies are chosen from by prompt"),
            "replay": Same((False,), "earlier requests are not trained on again"),
            "save_path": Ignored("--out says it"),
            "load_path": Ignored("the folder of --out is continued"),
        },
        WISE_AS_RELEASED,
        differs=(
            "the gate is asked once per prompt; EasyEdit asks again at every generated token",
            "sentences to keep are the model's own; EasyEdit takes questions about other facts",
            "decay is towards no change; EasyEdit's shrinks the whole copy",
        ),
    ),
    "DEFER": Algorithm(
        ("defer",),
        {
            **COMMON,
            "inner_params": ParameterNames(one),
            "edit_lr": To("lr"),
            "n_iter": To("steps"),
            "threshold": To("threshold"),
        },
        differs=("the gate is asked once per prompt, and begins closed",),
    ),
    "IKE": Algorithm(
        ("ike",),
        {
            **COMMON,
            "k": To("demonstrations.count", as_read="demonstrations, of whatever kind the nearest sentences are"),
            "use_icl_examples": Same((True,), "demonstrations stand before the edit", "without them it is `ice`, which needs no file"),
            "sentence_model_name": Lacking("prompts are compared by BM25 or by hidden states of the model (`retriever`)"),
        },
        differs=(
            "the nearest of all edits so far stands before a prompt; EasyEdit's is the present one, and nothing is kept",
            "demonstrations are about facts that a study sets apart, in shares of 1, 3 and 4; d4s apply has none",
        ),
    ),
    "ULTRAEDIT": Algorithm(
        ("ultraedit",),
        {
            **COMMON,
            "inner_params": ParameterNames(),
            "lr": To("lr"),
            "batch_size": To("batch", as_read="requests of a turn"),
            "token": Same(("ans",), "keys and gradients are those of the target's tokens"),
            "batch_size_once": Ignored("gradients are those of each request, however many run together"),
            "editor_batch_size": Ignored("rows are solved together"),
            "dropout": NO_DROPOUT,
            "no_grad_layers": EDITED_ALONE,
        },
        differs=("variances are those of all tokens so far; EasyEdit's recursion adds up unbiased ones and is larger",),
    ),
    **TRAINED_ALGORITHMS,
}  # fmt: skip
"""What we have, by EasyEdit's names."""

ABSENT: Mapping[str, Absent] = {
    "InstructEdit": Absent("MEND trained with instructions, of which a study has none", "mend"),
    "KE": Absent("its network is a recurrent one; EasyEdit has files of it and no code", "mend"),
    "SERAC": Absent("its keys are those of the training of two further models; `serac` trains its router in a study", "serac"),
    "MELO": Absent("its factors stand at input projections, of GPT-2 XL in its only file, which are not representable", "melo"),
    "QLoRA": Absent("quantised weights are not edited", "lora"),
    "UnKE": Absent("long texts are not edited in", "memit"),
    "UnKE-ARE": Absent(
        "AnyEdit that trains a whole block towards the targets of windows; `anyedit` solves for them as MEMIT does", "anyedit"
    ),
    "FT_uns": Absent("long texts are not edited in", "ft_m"),
    "LoRA_uns": Absent("long texts are not edited in", "lora"),
    "DPO": Absent("preferences are not facts"),
    "DINM": Absent("detoxification is another task"),
    "FT-Api": Absent("weights behind an interface cannot be edited here"),
    "DeepEdit-Api": Absent("weights behind an interface cannot be edited here"),
    "DoLa": Absent("a way of decoding, not an edit"),
    "DeCo": Absent("a way of decoding, not an edit"),
}
"""What is not translated, by EasyEdit's names."""
