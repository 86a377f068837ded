"""Single edits; and runs with their measures, answers to shifted prompts and benchmarks, which one process makes where Snakemake makes all of a cell."""


rule edit:
    input:
        unpack(inputs_of("model", "facts", "contexts", "moments", "targets", "prepared", "baseline")),
        ahead=inputs_ahead,
    output:
        f"{STORE}/runs/{{run}}/done/{{lengths}}.json",
    log:
        f"{LOGS}/edit/{{run}}/{{lengths}}.log",
    benchmark:
        f"{LOGS}/edit/{{run}}/{{lengths}}.tsv"
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
        ahead=ahead_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s edit {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} --ahead {params.ahead:q} 2> {log:q}"


rule edit_single:
    input:
        unpack(inputs_of("model", "facts", "contexts", "moments", "targets", "prepared", "baseline", "posterior", "text")),
        shards=shards_of,
    output:
        f"{STORE}/singles/{{singles}}/done/{{blocks}}.json",
    log:
        f"{LOGS}/edit_single/{{singles}}/{{blocks}}.log",
    benchmark:
        f"{LOGS}/edit_single/{{singles}}/{{blocks}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s edit_single {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule edit_single_shard:
    input:
        unpack(inputs_of("model", "facts", "contexts", "moments", "targets", "prepared", "baseline", "posterior", "text")),
    output:
        temp(f"{STORE}/singles/{{singles}}/shards/{{shard}}.json"),
    log:
        f"{LOGS}/edit_single_shard/{{singles}}/{{shard}}.log",
    benchmark:
        f"{LOGS}/edit_single_shard/{{singles}}/{{shard}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s edit_single {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule measure:
    input:
        unpack(inputs_of("model", "facts", "run", "contexts", "moments", "prepared", "text", "baseline")),
    output:
        f"{STORE}/measures/{{measures}}/done/{{lengths}}.json",
    log:
        f"{LOGS}/measure/{{measures}}/{{lengths}}.log",
    benchmark:
        f"{LOGS}/measure/{{measures}}/{{lengths}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s measure {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule robustness:
    input:
        unpack(inputs_of("model", "facts", "run", "contexts", "moments", "prepared", "text")),
    output:
        f"{STORE}/robustness/{{robustness}}/done/{{lengths}}.json",
    log:
        f"{LOGS}/robustness/{{robustness}}/{{lengths}}.log",
    benchmark:
        f"{LOGS}/robustness/{{robustness}}/{{lengths}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s robustness {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule benchmark:
    input:
        unpack(inputs_of("model", "facts", "run", "contexts", "moments", "prepared", "world", "items_*", "examples_*")),
    output:
        f"{STORE}/benchmarks/{{benchmarks}}/done/{{lengths}}.json",
    log:
        f"{LOGS}/benchmark/{{benchmarks}}/{{lengths}}.log",
    benchmark:
        f"{LOGS}/benchmark/{{benchmarks}}/{{lengths}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s benchmark {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"
