"""One job per run: model x data x editor x seed; every length of the grid is one of its outputs."""

for node in PLAN.of("edit"):

    rule:
        name:
            rule_name(node)
        input:
            settled(node.input_files),
        output:
            node.manifests,
        log:
            f"{LOGS}/edit/{node.name}.log",
        benchmark:
            f"{LOGS}/edit/{node.name}.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=RESOURCES[node.name].mem_mb,
            runtime=RESOURCES[node.name].runtime,
            gpu=RESOURCES[node.name].gpu,
        params:
            settings=lambda wildcards, node=node: node.settings_text,
            inputs=lambda wildcards, node=node: node.inputs_text,
            code=node.code,
        shell:
            "OMP_NUM_THREADS={threads} python -m d4s edit {output:q} --settings {params.settings:q}"
            " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"
