"""What is measured on the states of a run, one job per run; lengths that are there already are not measured again.

And the report on a model that was taught the world, which looks at single edits on seed 0.
"""

for node in PLAN.of("measure"):

    rule:
        name:
            rule_name(node)
        input:
            settled(node.input_files),
        output:
            node.manifests,
        log:
            f"{LOGS}/measure/{node.name}.log",
        benchmark:
            f"{LOGS}/measure/{node.name}.tsv"
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
            "OMP_NUM_THREADS={threads} python -m d4s measure {output:q} --settings {params.settings:q}"
            " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


for node in PLAN.of("benchmark"):

    rule:
        name:
            rule_name(node)
        input:
            settled(node.input_files),
        output:
            node.manifests,
        log:
            f"{LOGS}/benchmark/{node.name}.log",
        benchmark:
            f"{LOGS}/benchmark/{node.name}.tsv"
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
            "OMP_NUM_THREADS={threads} python -m d4s benchmark {output:q} --settings {params.settings:q}"
            " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


rule world_report:
    input:
        inputs_of,
    output:
        output_of("world_report"),
    log:
        f"{LOGS}/world_report/{{name}}.log",
    benchmark:
        f"{LOGS}/world_report/{{name}}.tsv"
    wildcard_constraints:
        name=names("world_report"),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        settings=settings_of,
        inputs=roles_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s world_report {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"
