"""What a study needs, in lines for people: artefacts by kind, how many are there, and the cells of its grid."""

from collections.abc import Iterator

from d4s.study.plan import StudyPlan


def overview(plan: StudyPlan) -> Iterator[str]:
    """Lines that say what there is to do."""
    yield f"study {plan.study.study!r}: {len(plan.cells) + len(plan.singles)} cells, {len(plan.nodes)} artefacts"
    for stage in dict.fromkeys(node.stage for node in plan.nodes):
        nodes = plan.of(stage)
        outputs = [path for node in nodes for path in node.manifests]
        existing = sum(path.is_file() for path in outputs)
        yield f"  {stage:<12} {len(nodes):>4} jobs, {existing} of {len(outputs)} outputs there"
    for cell in plan.cells:
        key = cell.key
        lengths = ", ".join(map(str, cell.lengths))
        yield f"  {key.model} x {key.dataset} x {key.editor}, seed {key.seed}: {lengths} edits ({cell.run.folder.name})"
    for cell in plan.singles:
        key = cell.key
        yield f"  {key.model} x {key.dataset} x {key.editor}, seed {key.seed}: {cell.requests} single edits ({cell.singles.folder.name})"
