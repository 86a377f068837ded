"""What a study needs, in lines for people: artefacts by kind, how many are there, and the cells of its grid."""

from collections.abc import Iterator

from d4s.studies.resolve import Plan


def overview(plan: Plan) -> Iterator[str]:
    """Lines that say what there is to do."""
    yield f"study {plan.study.study!r}: {len(plan.cells)} cells, {len(plan.nodes)} artefacts"
    for verb in dict.fromkeys(node.verb for node in plan.nodes):
        nodes = plan.of(verb)
        wanted = [path for node in nodes for path in node.manifests]
        there = sum(path.is_file() for path in wanted)
        yield f"  {verb:<12} {len(nodes):>4} jobs, {there} of {len(wanted)} outputs there"
    for cell in plan.cells:
        key = cell.key
        lengths = ", ".join(map(str, cell.lengths))
        yield f"  {key.model} x {key.dataset} x {key.editor}, seed {key.seed}: {lengths} edits ({cell.run.folder.name})"
