"""The table of data sets: name -> reader, and the raw files of each. A reader is `read(source: RecordSource) -> ReadResult`."""

from collections.abc import Mapping

from d4s.errors import SettingsError
from d4s.registry import Registry

READERS = Registry(
    "data set",
    {
        "world": "d4s.world.reader:read",
        "beliefs": "d4s.world.facts_beliefs:read",
        "counterfact": "d4s.facts.counterfact:read",
        "multi_counterfact": "d4s.facts.counterfact:read_multi",
        "counterfact_edit": "d4s.facts.easyedit:read_counterfact",
        "hardcf": "d4s.facts.easyedit:read_hardcf",
        "hardedit": "d4s.facts.easyedit:read_hardedit",
        "zsre_mend": "d4s.facts.zsre:read",
        "zsre_mend_eval": "d4s.facts.zsre:read_eval",
        "zsre_portability": "d4s.facts.zsre:read_portability",
        "zsre_knowedit": "d4s.facts.knowedit:read_zsre",
        "wiki_recent": "d4s.facts.knowedit:read_recent",
        "wiki_counterfact": "d4s.facts.knowedit:read_counterfact",
        "wikibio": "d4s.facts.knowedit:read_bio",
        "mquake_hard": "d4s.facts.mquake:read_hard",
        "mquake_cf_3k": "d4s.facts.mquake:read_cf_3k",
        "elken": "d4s.facts.elken:read",
        "csk_20q": "d4s.facts.csk:read_20q",
        "csk_pep3k": "d4s.facts.csk:read_pep3k",
        "ckebench": "d4s.facts.ckebench:read",
        "atomic2020": "d4s.facts.atomic:read",
        "wikibigedit": "d4s.facts.wikibigedit:read",
        "rippleedits": "d4s.facts.rippleedits:read",
        "known_1000": "d4s.facts.known_1000:read",
    },
)

MADE_UP = frozenset({"world", "beliefs"})
"""Those of them that are made here and have no raw files."""

Files = Mapping[str, str]
"""Raw files below the data folder by their roles; `records` is the one whose lines are counted."""


def _same_file(name: str, *styles: str) -> Mapping[str, Files]:
    """Styles that all read the data set's one file."""
    return {style: {"records": f"{name}/{name}.jsonl"} for style in styles}


def _csk(name: str, **extra_files: str) -> Mapping[str, Files]:
    """The readings of a set of MEMIT-CSK; `extra_files` is what its subset needs besides the records."""
    return {
        "subset": {"records": f"{name}/edit_subset_gpt2xl.jsonl", **{role: f"{name}/{file}" for role, file in extra_files.items()}},
        "probe": {"records": f"{name}/probe_set.jsonl"},
        "set": {"records": f"{name}/edit_set.jsonl"},
        "validation": {"records": f"{name}/edit_validation_set.jsonl"},
    }


STYLE_FILES: Mapping[str, Mapping[str, Files]] = {
    "beliefs": {style: {} for style in ("requests", "observation", "truth", "not", "and", "or")},
    "zsre_mend": _same_file("zsre_mend", "alt", "answers"),
    "zsre_mend_eval": _same_file("zsre_mend_eval", "alt", "answers"),
    "zsre_portability": _same_file("zsre_portability", "alt"),
    "elken": _same_file("elken", "fact", "event"),
    "atomic2020": _same_file("atomic2020", "named", "kept"),
    "counterfact_edit": {
        "plain": {"records": "counterfact_edit/counterfact_edit.jsonl"},
        "checked": {"records": "counterfact_edit/counterfact_edit.jsonl", "originals": "counterfact/counterfact.jsonl"},
    },
    "csk_20q": _csk("csk_20q", probes="probe_set.jsonl"),
    "csk_pep3k": _csk("csk_pep3k", annotated="edit_validation_set.jsonl"),
    "rippleedits": {"": {"records": "rippleedits/rippleedits.jsonl", "labels": "rippleedits/labels.jsonl"}},
}
"""Data sets with several readings or files: style -> files, the default first. Any other set NAME reads NAME/NAME.jsonl."""


def files_of(name: str, style: str = "") -> Files:
    """The raw files that a reading of a data set needs, by role.

    Raises:
        SettingsError: if there is no such data set or reading.
    """
    READERS.module(name)
    styles = STYLE_FILES.get(name) or _same_file(name, "")
    chosen = style or next(iter(styles))
    if chosen not in styles:
        readings = f"it has {', '.join(styles)}" if any(styles) else "it has only one: leave `style` out"
        raise SettingsError(f"data set {name!r}: unknown style {style!r}; {readings}")
    return styles[chosen]
