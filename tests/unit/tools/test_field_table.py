"""The table of the field has every claim of every group, with the verdicts of the studies that are recorded."""

import shutil
from pathlib import Path

from d4s.analysis.claim_groups import CLAIM_GROUPS
from d4s.analysis.claims import claims, claims_of
from tests.synthetic import write_study
from tools.field_table import SYSTEMS, field

ROOT = Path(__file__).resolve().parents[3]


def test_every_group_of_claims_has_a_system_a_page_and_a_study() -> None:
    assert set(CLAIM_GROUPS) <= {system.group for system in SYSTEMS}
    for system in SYSTEMS:
        if system.group in CLAIM_GROUPS:
            assert (ROOT / "docs" / system.page).is_file()
            assert system.embedded == "default" or (ROOT / "grids" / f"{system.embedded}.yaml").is_file()


def test_verdicts_stand_beside_claims_and_missing_studies_are_said(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "results" / "synthetic")
    claims(folder)
    (tmp_path / "recorded" / "default").mkdir(parents=True)
    shutil.copyfile(folder / "claims.json", tmp_path / "recorded" / "default" / "claims.json")
    rows = field(tmp_path / "recorded").splitlines()
    for claim in claims_of(CLAIM_GROUPS):
        (row,) = [row for row in rows if row.startswith(f"| {claim.claim_id} | {claim.statement} |")]
        assert row.endswith("| not run yet |")
        assert ("not run yet | not run yet" in row) is (claim not in claims_of(["d4s"]))
    assert any("**holds**, +" in row for row in rows)
