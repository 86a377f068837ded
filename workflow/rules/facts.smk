"""Records and questions as facts, and the objectives of their edits."""


rule facts:
    input:
        inputs_of,
    output:
        output_of("facts"),
    log:
        f"{LOGS}/facts/{{name}}.log",
    benchmark:
        f"{LOGS}/facts/{{name}}.tsv"
    wildcard_constraints:
        name=names("facts"),
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
        "OMP_NUM_THREADS={threads} python -m d4s facts {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


rule questions:
    input:
        inputs_of,
    output:
        output_of("questions"),
    log:
        f"{LOGS}/questions/{{name}}.log",
    benchmark:
        f"{LOGS}/questions/{{name}}.tsv"
    wildcard_constraints:
        name=names("questions"),
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
        "OMP_NUM_THREADS={threads} python -m d4s questions {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


rule objectives:
    input:
        inputs_of,
    output:
        output_of("objectives"),
    log:
        f"{LOGS}/objectives/{{name}}.log",
    benchmark:
        f"{LOGS}/objectives/{{name}}.tsv"
    wildcard_constraints:
        name=names("objectives"),
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
        "OMP_NUM_THREADS={threads} python -m d4s objectives {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"
