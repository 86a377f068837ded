"""EasyEdit's algorithms whose network is trained before any edit: rows of the table in `algorithms.py`."""

from collections.abc import Mapping

from d4s.apply.easyedit.algorithm import COMMON, EDITED_ALONE, NO_DROPOUT, Algorithm
from d4s.apply.easyedit.key_rules import Factor, Ignored, Lacking, Rule, Same, To
from d4s.apply.easyedit.module_rules import ParameterNames
from d4s.editors.presets_trained import MEND_RELEASED

TRAINED: Mapping[str, Rule] = {
    **COMMON,
    "inner_params": ParameterNames(),
    "rank": To("network.rank"),
    "dropout": NO_DROPOUT,
    "no_grad_layers": EDITED_ALONE,
    "train_base": Same((False,), "the model itself is not trained"),
    "alg": Ignored("--editor says it"),
    "archive": Ignored("the stage `prepare` of a study trains the network, and keeps it under its hash"),
    **dict.fromkeys(("val_batch_size", "val_steps"), Ignored("half of the held-out facts are edited at every look")),
    **dict.fromkeys(("eval_only", "final_eval", "model_save_pt", "save"), Ignored("a network is trained once, with checkpoints")),
    **dict.fromkeys(("log_interval", "eval_log_interval", "verbose", "debug"), Ignored("--verbose logs every look")),
    "early_stop_key": Ignored("training ends by the loss that it lowers, on held-out facts"),
}
"""Keys of algorithms whose network is trained first."""
BOTH_FACTORS = Same((False,), "keys and gradients are rewritten")
TRAINED_IN_STUDY = "the network is trained by the stage `prepare` of a study, on facts that it sets apart; d4s apply has none"

TRAINED_ALGORITHMS: Mapping[str, Algorithm] = {
    "MEND": Algorithm(
        ("mend",),
        {
            **TRAINED,
            "edit_lr": To("lr"),
            "lr": To("network.lr"),
            "lr_lr": To("network.rate_lr"),
            "lr_scale": Same((1,), "step sizes are learnt as they are"),
            "seed": To("network.seed"),
            "cedit": To("network.edit_weight"),
            "cloc": To("network.locality_weight"),
            "cbase": Ignored("only of a model that is trained itself"),
            "one_sided": BOTH_FACTORS,
            "x_only": BOTH_FACTORS,
            "delta_only": BOTH_FACTORS,
            "combine": Same((True,), "keys and gradients are rewritten together"),
            "n_hidden": Same((1,), "two blocks"),
            "hidden_dim": Ignored("blocks are as wide as a key with its gradient"),
            "init": Same(("id",), "blocks begin as the identity"),
            "norm": Same((True,), "keys and gradients are normalised"),
            "act": Same(("relu",), "values of blocks are cut off below 0"),
            "mlp_class": Same(("IDMLP",), "blocks are residual, and of low rank"),
            "shared": Same((True,), "layers whose matrices have one shape share a network"),
            "batch_size": To("network.edits", as_read="requests edited together in training"),
            "accumulate_bs": To("network.accumulate"),
            "grad_clip": To("network.clip"),
            "opt": Same(("Adam",), "networks are trained with Adam"),
            "max_iters": Same((100_000,), "10,000 steps of Adam (network.steps), each of ten requests"),
            "val_interval": Same((1_000,), "100 steps of Adam (network.check_every), each of ten requests"),
            "early_stop_patience": Same((20_000,), "20 looks at held-out facts (network.patience)"),
        },
        MEND_RELEASED,
        differs=(TRAINED_IN_STUDY, "steps go downhill before any training; EasyEdit's go up", "unrelated facts are of the same data set"),
    ),
    "MALMEN": Algorithm(
        ("malmen",),
        {
            **TRAINED,
            "lr": To("lr"),
            "meta_lr": Factor(("network.lr", "network.rate_lr")),
            "n_blocks": To("network.blocks"),
            "loc_coef": To("network.locality_weight"),
            "max_grad_norm": To("network.clip"),
            "token": Same(("ans",), "keys and gradients are those of the target's tokens"),
            "n_edits": Factor(("batch", "network.edits")),
            "batch_size": Ignored("how many requests run together changes no result"),
            "editor_batch_size": Ignored("rows are solved together"),
            "max_iters": To("network.steps"),
            "val_interval": To("network.check_every"),
            "early_stop_patience": Lacking("looks at held-out facts are counted (network.patience)"),
        },
        {"network": {"kind": "trained"}},
        differs=(TRAINED_IN_STUDY,),
    ),
}  # fmt: skip
