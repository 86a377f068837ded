"""What editors need beside facts: prefixes, moments, targets, prepared parts. Layers and blocks are outputs; shards share them."""


rule contexts:
    input:
        inputs_of,
    output:
        output_of("contexts"),
    log:
        f"{LOGS}/contexts/{{name}}.log",
    benchmark:
        f"{LOGS}/contexts/{{name}}.tsv"
    wildcard_constraints:
        name=names("contexts"),
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
        "OMP_NUM_THREADS={threads} python -m d4s contexts {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


rule prepare:
    input:
        inputs_of,
    output:
        output_of("prepare"),
    log:
        f"{LOGS}/prepare/{{name}}.log",
    benchmark:
        f"{LOGS}/prepare/{{name}}.tsv"
    wildcard_constraints:
        name=names("prepare"),
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
        "OMP_NUM_THREADS={threads} python -m d4s prepare {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


for node, manifests, shard in shards_of("moments"):

    rule:
        name:
            rule_name(node, shard)
        input:
            settled(node.input_files),
        output:
            manifests,
        log:
            f"{LOGS}/moments/{node.name}{shard}.log",
        benchmark:
            f"{LOGS}/moments/{node.name}{shard}.tsv"
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
            "OMP_NUM_THREADS={threads} python -m d4s moments {output:q} --settings {params.settings:q}"
            " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


for node, manifests, shard in shards_of("targets"):

    rule:
        name:
            rule_name(node, shard)
        input:
            settled(node.input_files),
        output:
            manifests,
        log:
            f"{LOGS}/targets/{node.name}{shard}.log",
        benchmark:
            f"{LOGS}/targets/{node.name}{shard}.tsv"
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
            "OMP_NUM_THREADS={threads} python -m d4s targets {output:q} --settings {params.settings:q}"
            " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"
