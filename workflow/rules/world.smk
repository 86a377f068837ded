"""The embedded world, what is taught from it or from records, the models trained here, and those from elsewhere."""


rule world:
    input:
        inputs_of,
    output:
        output_of("world"),
    log:
        f"{LOGS}/world/{{name}}.log",
    benchmark:
        f"{LOGS}/world/{{name}}.tsv"
    wildcard_constraints:
        name=names("world"),
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
        "OMP_NUM_THREADS={threads} python -m d4s world {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


rule corpus:
    input:
        inputs_of,
    output:
        output_of("corpus"),
    log:
        f"{LOGS}/corpus/{{name}}.log",
    benchmark:
        f"{LOGS}/corpus/{{name}}.tsv"
    wildcard_constraints:
        name=names("corpus"),
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
        "OMP_NUM_THREADS={threads} python -m d4s corpus {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


rule pretrain:
    input:
        inputs_of,
    output:
        output_of("pretrain"),
    log:
        f"{LOGS}/pretrain/{{name}}.log",
    benchmark:
        f"{LOGS}/pretrain/{{name}}.tsv"
    wildcard_constraints:
        name=names("pretrain"),
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        settings=settings_of,
        inputs=roles_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s pretrain {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


rule adopt:
    input:
        inputs_of,
    output:
        output_of("adopt"),
    log:
        f"{LOGS}/adopt/{{name}}.log",
    benchmark:
        f"{LOGS}/adopt/{{name}}.tsv"
    wildcard_constraints:
        name=names("adopt"),
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
        "OMP_NUM_THREADS={threads} python -m d4s adopt {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"
