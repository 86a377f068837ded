"""The embedded world, what is taught from it or from records, and the models trained here."""


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
        mem_mb=1000,
        runtime=10,
        gpu=0,
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
        mem_mb=2000,
        runtime=20,
        gpu=0,
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
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        settings=settings_of,
        inputs=roles_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s pretrain {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"
