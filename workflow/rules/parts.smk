"""Artefacts that are artifacts in parts, each with a manifest of its own: layers of moments, blocks of targets and of replies, lengths of runs.

A rule per process: what loads the same model and can be artifacts one after another is artifacts by one, such as a run with its measures and
benchmarks, all lengths of them. Parts that are there already are not artifacts again.
"""

for name, artifacts in processes():

    rule:
        name:
            rule_name(name)
        input:
            lambda wildcards, artifacts=artifacts: without_timestamps(inputs_of_process(artifacts)),  # a name in braces is none of a wildcard
        output:
            [path for _, manifests in artifacts for path in manifests],
        log:
            f"{LOGS}/{name}.log",
        benchmark:
            f"{LOGS}/{name}.tsv"
        priority: priority_of(artifacts)
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=max(RESOURCES[node.name].mem_mb for node, _ in artifacts),
            runtime=runtime_of_process(artifacts),
            gpu=max(RESOURCES[node.name].gpu for node, _ in artifacts),
        params:
            calls=calls_of,
        shell:
            "OMP_NUM_THREADS={threads} python -m d4s stages {output:q} --calls {params.calls:q} 2> {log:q}"
