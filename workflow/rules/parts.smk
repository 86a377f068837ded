"""Artefacts that are made in parts, each with a manifest of its own: layers of moments, blocks of targets, lengths of runs.

A rule per artefact, or per shard of it. A run is model x data x editor x seed, and one job makes all its lengths; so does
what is measured on them. Parts that are there already are not made again.
"""

for node, manifests, shard in parts_of("moments", "targets", "edit", "measure", "benchmark"):

    rule:
        name:
            rule_name(node, shard)
        input:
            lambda wildcards, node=node: settled(node.input_files),  # a name in braces is none of a wildcard
        output:
            manifests,
        log:
            f"{LOGS}/{node.verb}/{node.name}{shard}.log",
        benchmark:
            f"{LOGS}/{node.verb}/{node.name}{shard}.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=RESOURCES[node.name].mem_mb,
            runtime=RESOURCES[node.name].runtime,
            gpu=RESOURCES[node.name].gpu,
        params:
            verb=node.verb,
            settings=lambda wildcards, node=node: node.settings_text,
            inputs=lambda wildcards, node=node: node.inputs_text,
            code=node.code,
        shell:
            "OMP_NUM_THREADS={threads} python -m d4s {params.verb} {output:q} --settings {params.settings:q}"
            " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"
