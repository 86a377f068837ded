"""Records and questions as facts, facts as requests of another problem, and some facts of a data set."""


rule facts:
    input:
        unpack(inputs_of("world", "records", "originals", "labels", "probes", "annotated")),
    output:
        f"{STORE}/facts/{{facts}}/manifest.json",
    log:
        f"{LOGS}/facts/{{facts}}.log",
    benchmark:
        f"{LOGS}/facts/{{facts}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s facts {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule questions:
    input:
        unpack(inputs_of("world", "records", "answers")),
    output:
        f"{STORE}/facts/{{questions}}/manifest.json",
    log:
        f"{LOGS}/questions/{{questions}}.log",
    benchmark:
        f"{LOGS}/questions/{{questions}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s questions {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule problem:
    input:
        unpack(inputs_of("facts", "model")),
    output:
        f"{STORE}/facts/{{problem}}/manifest.json",
    log:
        f"{LOGS}/problem/{{problem}}.log",
    benchmark:
        f"{LOGS}/problem/{{problem}}.tsv"
    priority: priority_of
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
        "OMP_NUM_THREADS={threads} python -m d4s problem {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule subset:
    input:
        unpack(inputs_of("facts", "cases", "list")),
    output:
        f"{STORE}/facts/{{subset}}/manifest.json",
    log:
        f"{LOGS}/subset/{{subset}}.log",
    benchmark:
        f"{LOGS}/subset/{{subset}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s subset {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"
