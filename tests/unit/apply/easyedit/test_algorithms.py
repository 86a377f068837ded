"""The table of algorithms: complete, and about presets that exist."""

import dataclasses

from d4s.apply.easyedit.algorithms import ABSENT, ALGORITHMS, COMMON
from d4s.apply.easyedit.key_rules import PresetChoice
from d4s.editors.presets import PRESETS
from tests.easyedit_files import FILES

EASYEDIT = set(
    "ROME MEMIT MEMIT-FE FT DINM KN MEND SERAC IKE FT-Api QLoRA LoRA DPO GRACE PMET MELO WISE R-ROME EMMET EAMET AlphaEdit SPHERE "
    "ULTRAEDIT CORE DeepEdit-Api SimIE DEFER".split()
)


def test_every_algorithm_of_easyedit_is_here_or_said_to_be_absent() -> None:
    assert len(EASYEDIT) == 27 and {*ALGORITHMS, *ABSENT} >= EASYEDIT
    assert not ALGORITHMS.keys() & ABSENT.keys()
    folded = [name.casefold() for name in (*ALGORITHMS, *ABSENT)]
    assert len(set(folded)) == len(folded), "names are looked up in any case"


def test_every_preset_of_the_table_exists() -> None:
    named = {preset for algorithm in ALGORITHMS.values() for preset in algorithm.presets}
    named |= {absent.nearest for absent in ABSENT.values() if absent.nearest}
    chosen = [rule for algorithm in ALGORITHMS.values() for rule in algorithm.rules.values() if isinstance(rule, PresetChoice)]
    named |= {preset for rule in chosen for preset in rule.options.values()}
    assert named <= PRESETS.keys()


def test_every_algorithm_knows_the_common_keys_and_has_a_file_in_the_tests() -> None:
    assert all(algorithm.rules.keys() >= COMMON.keys() for algorithm in ALGORITHMS.values())
    assert {name for name, _ in FILES} | {"SimIE"} == ALGORITHMS.keys()
    assert all(base in ALGORITHMS for algorithm in ALGORITHMS.values() for base in algorithm.around)


def test_alternatives_are_keys_that_may_each_be_missing() -> None:
    for algorithm in ALGORITHMS.values():
        for keys in algorithm.one_of:
            assert all(algorithm.rules[key].optional for key in keys)


def test_rows_cannot_be_changed() -> None:
    for row in (*ALGORITHMS.values(), *ABSENT.values()):
        assert dataclasses.is_dataclass(row) and row.__dataclass_params__.frozen
