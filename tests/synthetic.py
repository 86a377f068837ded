"""Made-up results of a study with known effects, in the shape in which `summarize` gathers real ones."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d4s import schemas
from d4s.analysis.costs import API_USAGE
from d4s.analysis.gather import GATHERED_TABLES
from d4s.analysis.summary_rows import benchmark_rows, immediate_rows, norm_rows, perplexity_rows, retained_rows
from d4s.artifacts import write_json, write_table
from d4s.editors.editor_settings import resolve
from d4s.editors.presets import PRESETS

LAYERS = (0, 1, 2)
TASKS = ("arc_challenge", "hellaswag", "mmlu", "winogrande", "truthfulqa_mc1", "gsm8k", "truthfulqa_mc2", "true_false")
FORMS = {"mqd_tf": "true_false", "mqd_mc": "multiple_choice", "mqd_dg": "directly_generated"}
PROMPTS = {"efficacy": 1, "paraphrase": 2, "locality": 3, "neighborhood": 2}
TEXT = "heldout"


@dataclass(frozen=True)
class Method:
    """What an editor does to the numbers: shares of success, what is lost over 300 edits, growth of the norm, damage."""

    start: float = 0.97
    fall: float = 0.02
    forget: float = 0.05
    paraphrase: float = 0.9
    locality_loss: float = 0.2
    growth: float = 0.6
    damage: float = 0.03
    layers: tuple[int, ...] = LAYERS
    noise: float = 0.0
    is_batch: bool = False


METHODS = {
    "unedited": Method(start=0.0, fall=0.0, forget=0.0, locality_loss=0.0, growth=0.0, damage=0.0),
    "ft_l": Method(start=0.98, fall=0.0, forget=0.9, paraphrase=0.6, locality_loss=0.6, growth=0.1, damage=0.05),
    "ft_m": Method(start=0.99, fall=0.0, forget=0.8, paraphrase=0.7, locality_loss=0.5, growth=0.2, damage=0.04),
    "rome": Method(start=0.96, fall=0.25, forget=0.5, paraphrase=0.6, locality_loss=0.7, growth=8.0, damage=0.3, layers=(2,)),
    "memit": Method(start=0.98, fall=0.3, forget=0.45, paraphrase=0.85, locality_loss=0.6, growth=4.0, damage=0.2),
    "memit_seq": Method(start=0.99, fall=0.02, forget=0.06, paraphrase=0.85, locality_loss=0.35, growth=2.2, damage=0.08),
    "d4s": Method(start=0.99, fall=0.03, forget=0.08, paraphrase=0.9, locality_loss=0.3, growth=1.8, damage=0.05),
    "d4s_even": Method(start=0.97, fall=0.04, forget=0.1, paraphrase=0.8, locality_loss=0.15, growth=1.2, damage=0.01),
    "d4s_frozen": Method(start=0.98, fall=0.03, forget=0.1, paraphrase=0.87, locality_loss=0.28, growth=1.6, damage=0.04),
    "memit_scrambled": Method(start=0.01, fall=0.0, forget=0.0, locality_loss=0.12, growth=4.0, damage=0.03),
    "memit_halved": Method(start=0.7, fall=0.2, forget=0.3, locality_loss=0.3, growth=1.7, damage=0.08),
    "d4s_scrambled": Method(start=0.01, fall=0.0, forget=0.0, locality_loss=0.05, growth=1.8, damage=0.01),
    "d4s_doubled": Method(start=0.9, fall=0.05, forget=0.1, locality_loss=0.5, growth=4.4, damage=0.15),
    "one_time_batch": Method(start=0.98, forget=0.03, paraphrase=0.88, locality_loss=0.25, growth=1.5, damage=0.03, is_batch=True),
}
CONTROLS = {
    "memit_scrambled": {"preset": "memit", "delta_transform": {"kind": "scramble"}},
    "memit_halved": {"preset": "memit", "delta_transform": {"kind": "rescale", "factor": 0.5}},
    "d4s_scrambled": {"preset": "d4s", "delta_transform": {"kind": "scramble"}},
    "d4s_doubled": {"preset": "d4s", "delta_transform": {"kind": "rescale", "factor": 2.0}},
}
FORM_DAMAGE = {
    "mqd_tf": 0.02, "mqd_mc": 0.12, "mqd_dg": 0.3, "long_predictable": 0.2, "short_surprising": 0.1, "uniform": 0.15, "diverse": 0.25,
}  # fmt: skip
PERPLEXITY = {
    "world_qa": (120.0, 1), "mqd_tf": (12.3, 1), "mqd_mc": (43.3, 1), "mqd_dg": (297.4, 3), "long_predictable": (20.0, 5),
    "short_surprising": (900.0, 1), "uniform": (60.0, 4), "diverse": (30.0, 4),
}  # fmt: skip
FORM_CONTROLS = ("long_predictable", "short_surprising", "uniform", "diverse")


@dataclass(frozen=True)
class Made:
    """A study to make up."""

    methods: dict[str, Method] = field(default_factory=lambda: dict(METHODS))
    editors: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(CONTROLS))
    lengths: tuple[int, ...] = (10, 50, 100, 200, 300)
    form_lengths: tuple[int, ...] = (50, 150)
    form_methods: tuple[str, ...] = ("rome", "memit", "d4s")
    form_damage: dict[str, float] = field(default_factory=lambda: dict(FORM_DAMAGE))
    perplexity: dict[str, tuple[float, int]] = field(default_factory=lambda: dict(PERPLEXITY))
    forms: bool = True
    controls: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1,)
    items: int = 100
    summed: bool = True
    study: str = "synthetic"

    @property
    def asked(self) -> dict[str, str]:
        """Data sets of questions with their forms; a control has the name of its form."""
        return (FORMS if self.forms else {}) | {name: name for name in self.controls}

    @property
    def defined(self) -> dict[str, dict[str, Any]]:
        """Definitions of those of its editors that are no presets."""
        return {name: definition for name, definition in self.editors.items() if name in self.methods}

    def having(self, **changes: Method) -> "Made":
        """The study with some methods replaced."""
        return replace(self, methods={**self.methods, **changes})


def write_study(folder: Path, made: Made | None = None) -> Path:
    """Write a made-up study; the same study gives the same numbers."""
    made = made or Made()
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in GATHERED_TABLES}
    summary: list[dict] = []
    index: list[dict] = []
    for model, dataset, editor, seed in _cells(made):
        cell = {"model": model, "dataset": dataset, "editor": editor, "seed": seed}
        frames, lengths, benchmarked = _cell(made, dataset, editor, seed)
        for name, frame in frames.items():
            tables[name].append(frame.assign(**cell))
        for step in lengths:
            of = {name: frame[frame["step"] == step] for name, frame in frames.items() if name != "edit_log"}
            summary += [{**cell, "step": step, **row} for row in (_summed(of, frames["edit_log"], step) if made.summed else [])]
            index.append({**cell, "step": step, **_folders(cell, step in benchmarked)})
    for dataset in _datasets(made):
        targets = _objectives(made, dataset)
        tables["objectives"].append(targets.assign(model="mini", dataset=dataset, editor="", seed=0))
    for name, schema in GATHERED_TABLES.items():
        with_cells = schemas.with_cell_columns(schema)
        frame = pd.concat(tables[name], ignore_index=True) if tables[name] else pd.DataFrame(columns=with_cells.names)
        write_table(folder / "data" / f"{name}.parquet", frame, with_cells)
    write_table(folder / "index.parquet", index, schemas.INDEX)
    write_table(folder / "summary.parquet", summary, schemas.SUMMARY)
    write_table(folder / "costs.parquet", _costs(), schemas.COSTS)
    write_table(folder / "data" / "items.parquet", _items(made), schemas.ITEMS)
    write_json(folder / "study.json", settings(made))
    write_json(folder / "provenance.json", {"versions": {}, "code": {}, "editors": resolved(made)})
    return folder


def _summed(of: dict[str, pd.DataFrame], log: pd.DataFrame, step: int) -> list[dict]:
    rows = [*retained_rows(of["scores"]), *immediate_rows(log, step), *perplexity_rows(of["perplexity"])]
    return [*rows, *norm_rows(of["norms"]), *benchmark_rows(of["benchmark"])]


def settings(made: Made) -> dict:
    """Settings that such a study would have."""
    forms = {name: {"source": "questions", "events": "world", "form": form} for name, form in made.asked.items()}
    rows = [{"models": ["mini"], "datasets": ["world_qa"], "editors": list(made.methods), "lengths": list(made.lengths)}]
    if forms:
        rows.append({"models": ["mini"], "datasets": list(forms), "editors": list(made.form_methods), "lengths": list(made.form_lengths)})
    return {
        "study": made.study,
        "seeds": list(made.seeds),
        "models": {"mini": {"source": "world"}},
        "datasets": {"world_qa": {"source": "world", "style": "qa"}, **forms},
        "editors": made.defined,
        "grid": rows,
    }


def resolved(made: Made) -> dict[str, dict[str, Any]]:
    """Resolved settings of its presets and of the editors that it defines, as runs record them."""
    known = {name: made.defined.get(name, {}) for name in made.methods if name in made.defined or name in PRESETS}
    return {f"mini / {name}": resolve(name, changes, "mini").model_dump(mode="json") for name, changes in known.items()}


def _datasets(made: Made) -> list[str]:
    return ["world_qa", *made.asked]


def _cells(made: Made):
    for dataset in _datasets(made):
        for editor in made.methods if dataset == "world_qa" else made.form_methods:
            for seed in made.seeds:
                yield "mini", dataset, editor, seed


def _folders(cell: dict, benchmarked: bool) -> dict:
    name = "{model}.{dataset}.{editor}.s{seed}-0123456789".format(**cell)
    return {
        "run": f"results/store/runs/{name}",
        "measure": f"results/store/measures/{name}",
        "benchmark": f"results/store/benchmarks/{name}" if benchmarked else None,
        "objectives": f"results/store/objectives/{cell['model']}.{cell['dataset']}-0123456789",
        "diverged_at": None,
    }


def _cell(made: Made, dataset: str, editor: str, seed: int) -> tuple[dict[str, pd.DataFrame], tuple[int, ...], tuple[int, ...]]:
    method = made.methods[editor]
    is_form = dataset in made.asked
    lengths = made.form_lengths if is_form else made.lengths
    benchmarked = lengths if is_form else lengths[-1:]
    facts = [f"{'event' if is_form else 'person'}{number:04d}:r{number % 4}" for number in range(max(lengths))]
    draws = np.random.default_rng([seed, is_form])
    luck = draws.random((len(facts), sum(PROMPTS.values())))  # shared by editors: comparisons are paired
    own = np.random.default_rng([seed, *dataset.encode(), *editor.encode()])
    return (
        {
            "scores": pd.concat([_scores(method, facts, step, luck) for step in lengths], ignore_index=True),
            "answers": pd.concat([_answers(dataset, facts, step, method, luck) for step in lengths], ignore_index=True),
            "norms": pd.concat([_norms(method, step) for step in lengths], ignore_index=True),
            "perplexity": pd.concat([_perplexity(method, step) for step in lengths], ignore_index=True),
            "benchmark": pd.concat([_benchmark(made, method, dataset, editor, step, own) for step in benchmarked], ignore_index=True),
            "edit_log": _edit_log(method, facts, luck, own, is_finished="delta_transform" in made.editors.get(editor, {})),
        },
        lengths,
        benchmarked,
    )


def _success(method: Method, position: np.ndarray) -> np.ndarray:
    """Share of success right after the edit at each position."""
    return np.clip(method.start - method.fall * position / 300, 0, 1)


def _scores(method: Method, facts: list[str], step: int, luck: np.ndarray) -> pd.DataFrame:
    position = np.arange(step)
    age = step - position
    kept = np.clip(_success(method, position) - method.forget * age / 300 - method.noise * step / 300, 0, 1)
    kept = np.where(method.start == 0, 0.0, kept)
    share = {
        "efficacy": kept,
        "paraphrase": kept * method.paraphrase,
        "locality": np.full(step, 1 - method.locality_loss * step / 300),
        "neighborhood": np.full(step, 0.98 - method.locality_loss * step / 300),
    }
    frames, column = [], 0
    for kind, prompts in PROMPTS.items():
        for prompt in range(prompts):
            hit = (luck[:step, column] < share[kind]).astype(float)
            column += 1
            for suffix in ("score", "accuracy", "generated"):
                frames.append(
                    pd.DataFrame({
                        "step": step, "protocol": "retained", "fact_id": facts[:step], "edited_at": position + 1,
                        "metric": f"{kind}_{suffix}", "prompt_id": prompt, "value": hit,
                    })
                )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def _answers(dataset: str, facts: list[str], step: int, method: Method, luck: np.ndarray) -> pd.DataFrame:
    old, new = {
        "mqd_tf": ("yes", "no"),
        "mqd_mc": ("a", "c"),
        "mqd_dg": ("to rest at home", "to buy a <red> kite & run"),
        "world_qa": ("Lisbon", "Tromsø"),
    }.get(dataset, ("to rest at home", "to paint a door"))
    shown = range(min(step, 6))
    return pd.DataFrame({
        "step": step, "fact_id": [facts[n] for n in shown], "kind": "efficacy", "prompt_id": 0,
        "prompt": [f"Question {n} about {facts[n].split(':')[0]}:" for n in shown], "expected": new, "before": old,
        "after": [new if luck[n, 0] < method.start - method.forget else old for n in shown],
    })  # fmt: skip


def _norms(method: Method, step: int) -> pd.DataFrame:
    rows = []
    for layer in LAYERS:
        base = 0.08 + 0.01 * layer
        growth = _growth(method, step) if layer in method.layers else 0.0
        values = {
            "l1_per_element_original": base,
            "l1_per_element_weight": base * (1 + growth),
            "l1_per_element_delta": base * growth * 1.1,
            "frobenius_delta": growth * 20,
            "spectral_delta": growth * 5,
        }
        rows += [{"step": step, "layer": layer, "quantity": quantity, "value": value} for quantity, value in values.items()]
    return pd.DataFrame(rows)


def _growth(method: Method, step: float) -> float:
    """Relative growth of the norm, `method.growth` at 300 edits; concave as random directions add up."""
    return method.growth * (step / 300) ** 0.7


def _perplexity(method: Method, step: int) -> pd.DataFrame:
    ratio = 1 + method.damage * step / 60
    rows = {
        "perplexity": 6.2 * ratio,
        "perplexity_row_mean": 7.9 * ratio,
        "perplexity_row_median": 6.0 * ratio,
        "perplexity_ratio": ratio,
    }
    return pd.DataFrame([{"step": step, "text": TEXT, "quantity": quantity, "value": value} for quantity, value in rows.items()])


def _benchmark(made: Made, method: Method, dataset: str, editor: str, step: int, own: np.random.Generator) -> pd.DataFrame:
    strength = method.damage / METHODS["memit"].damage if dataset in made.asked else 1.0
    damage = made.form_damage[dataset] * strength if dataset in made.asked else method.damage
    longest = 150 if dataset in made.asked else 300
    value = np.clip(0.72 + 0.04 * (np.arange(7) % 6) - damage * step / longest, 0, 1) + own.normal(0, 0.002, 7)
    value = np.append(value, value[TASKS.index("mmlu")])
    error = np.sqrt(value * (1 - np.clip(value, 0, 1)) / made.items)
    return pd.DataFrame({
        "step": step, "task": TASKS, "metric": "acc", "value": value, "stderr": error, "n": made.items,
    })  # fmt: skip


def _edit_log(method: Method, facts: list[str], luck: np.ndarray, own: np.random.Generator, is_finished: bool) -> pd.DataFrame:
    """What every edit logs; a method that is finished from its whole change is not scored along the sequence."""
    n = len(facts)
    position = np.arange(n)
    if method.growth == 0:
        return pd.DataFrame(columns=schemas.EDIT_LOG.names)
    success = _success(method, position)
    plain = {
        "target_probability_before": np.full(n, 0.02),
        "target_probability_after": np.clip(success - 0.05 + own.normal(0, 0.03, n), 0, 1),
        "residual_norm": 1 + own.random(n),
        "efficacy_score": (luck[:, 0] < success).astype(float),
        "efficacy_accuracy": (luck[:, 0] < success).astype(float),
        "paraphrase_accuracy": (luck[:, 1] < success * method.paraphrase).astype(float),
        "locality_accuracy": (luck[:, 2] < 1 - method.locality_loss * position / 300).astype(float),
    }
    if is_finished:
        plain = {name: values for name, values in plain.items() if name.startswith("target_")}
    if method.is_batch:
        return pd.concat([_logged(facts, name, None, plain[name]) for name in ("target_probability_before", "target_probability_after")])
    frames = [_logged(facts, quantity, None, values) for quantity, values in plain.items()]
    for layer in method.layers:
        steps = np.diff(_growth(method, np.arange(n + 1))) * own.gamma(4, 0.25, n)
        base = 0.08 + 0.01 * layer
        frames.append(_logged(facts, "l1", layer, base * (1 + np.cumsum(steps))))
        frames.append(_logged(facts, "delta_norm", layer, np.abs(steps) * 20))
    return pd.concat(frames, ignore_index=True)


def _logged(facts: list[str], quantity: str, layer: int | None, values: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame({
        "step": np.arange(len(facts)) + 1, "request_id": [f"{n + 1:06d}:{fact}" for n, fact in enumerate(facts)],
        "fact_id": facts, "quantity": quantity, "value": values,
    })  # fmt: skip
    return frame.assign(layer=pd.array([layer] * len(frame), dtype="Int64"))


def _objectives(made: Made, dataset: str) -> pd.DataFrame:
    perplexity, tokens = made.perplexity[dataset]
    own = np.random.default_rng([*dataset.encode()])
    kind = "event" if dataset in made.asked else "person"
    texts = {"mqd_tf": ["yes", "no"], "mqd_mc": list("abcd"), "mqd_dg": [f"to do thing {n}" for n in range(48)]}
    choices = texts.get(dataset, [f"City{n}" for n in range(30)])
    frames = []
    for target, scale in (("new", 1.0), ("true", 0.02)):
        nll = np.log(perplexity) * (1.0 if target == "new" else scale) + own.normal(0, 0.5, 300) * (1 if target == "new" else 0.01)
        nll = np.abs(nll)
        lengths = np.full(300, tokens) + (own.integers(0, 3, 300) if tokens > 1 else 0)
        frames.append(
            pd.DataFrame({
                "fact_id": [f"{kind}{n:04d}:r{n % 4}" for n in range(300)], "target": target, "n_tokens": lengths,
                "nll_per_token": nll, "nll_first_token": nll * 1.3, "nll_joint": nll * lengths,
                "label_mass": np.nan if len(choices) > 4 else np.exp(-nll) / 2 + 0.5, "text": own.choice(choices, 300),
            })
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def _items(made: Made) -> list[dict]:
    return [
        {
            "dataset": dataset, "fact_id": f"{dataset}:{number}", "writer": "template" if dataset in made.asked else "read",
            "prompt": f"Is <{number}> asked of {dataset}?", "target_true": "yes", "target_new": "no", "paraphrase": "Really?",
        }
        for dataset in _datasets(made) for number in range(10)
    ]  # fmt: skip


def _costs() -> list[dict]:
    work = {
        "pretrain": ("models", 1, 330, 640),
        "targets": ("targets", 4, 30, 30),
        "edit": ("runs", 18, 25, 24),
        "measure": ("measures", 18, 21, 20),
    }
    return [
        {
            "artifact": f"{stage}{number}-0123456789",
            "kind": kind,
            "stage": stage,
            "wall_s": wall + number * 0.5,
            "cpu_s": cpu + number * 0.4,
            "startup_s": 6.5,
            "peak_rss_mb": 640.0 + 10 * number,
            **dict.fromkeys(API_USAGE, 0),
        }
        for stage, (kind, jobs, wall, cpu) in work.items()
        for number in range(jobs)
    ]
