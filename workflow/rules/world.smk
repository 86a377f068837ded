"""The embedded world, what models are trained on, the models trained here, those from elsewhere, and whether they are fit to be edited."""


rule world:
    output:
        f"{STORE}/worlds/{{world}}/manifest.json",
    log:
        f"{LOGS}/world/{{world}}.log",
    benchmark:
        f"{LOGS}/world/{{world}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        settings=settings_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s world {output:q}" " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule beliefs:
    output:
        f"{STORE}/worlds/{{beliefs}}/manifest.json",
    log:
        f"{LOGS}/beliefs/{{beliefs}}.log",
    benchmark:
        f"{LOGS}/beliefs/{{beliefs}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        settings=settings_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s beliefs {output:q}" " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule corpus:
    input:
        unpack(inputs_of("world", "text", "model", "teach_*", "pool_*")),
    output:
        f"{STORE}/corpora/{{corpus}}/manifest.json",
    log:
        f"{LOGS}/corpus/{{corpus}}.log",
    benchmark:
        f"{LOGS}/corpus/{{corpus}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        inputs=by_role,
        settings=settings_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s corpus {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule pretrain:
    input:
        unpack(inputs_of("corpus")),
    output:
        f"{STORE}/models/{{trained}}/manifest.json",
    log:
        f"{LOGS}/pretrain/{{trained}}.log",
    benchmark:
        f"{LOGS}/pretrain/{{trained}}.tsv"
    priority: priority_of
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        inputs=by_role,
        settings=settings_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s pretrain {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule adopt:
    input:
        unpack(inputs_of("file_*")),
    output:
        f"{STORE}/models/{{adopted}}/manifest.json",
    log:
        f"{LOGS}/adopt/{{adopted}}.log",
    benchmark:
        f"{LOGS}/adopt/{{adopted}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        inputs=by_role,
        settings=settings_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s adopt {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


# The same weights, asked without BOS.
rule start:
    input:
        unpack(inputs_of("model")),
    output:
        f"{STORE}/models/{{asked}}/manifest.json",
    log:
        f"{LOGS}/start/{{asked}}.log",
    benchmark:
        f"{LOGS}/start/{{asked}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        inputs=by_role,
        settings=settings_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s start {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


# Looks at single edits on seed 0.
rule world_report:
    input:
        unpack(inputs_of("model", "facts", "pool", "contexts", "moments")),
    output:
        f"{STORE}/reports/{{report}}/manifest.json",
    log:
        f"{LOGS}/world_report/{{report}}.log",
    benchmark:
        f"{LOGS}/world_report/{{report}}.tsv"
    priority: 1_000_000  # one long job that nothing waits for but the end
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=mem_mb_of,
        runtime=runtime_of,
        gpu=gpu_of,
    params:
        inputs=by_role,
        settings=settings_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s world_report {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"
