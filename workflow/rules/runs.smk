"""Single edits, hard cases; and runs with their measures, answers and benchmarks, which one process makes where Snakemake makes all of a cell."""


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


# The first of a sweep over layers also makes the edits at its other layers.
rule edit_single:
    input:
        unpack(inputs_of("model", "facts", "contexts", "moments", "targets", "prepared", "baseline", "posterior", "text", "sentences")),
        shards=shards_of,
        ahead=inputs_ahead,
        leader=leader_of,
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
        ahead=ahead_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s edit_single {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} --ahead {params.ahead:q} 2> {log:q}"


rule edit_single_shard:
    input:
        unpack(inputs_of("model", "facts", "contexts", "moments", "targets", "prepared", "baseline", "posterior", "text", "sentences")),
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


rule hard_cases:
    input:
        unpack(inputs_of("facts", "singles_*")),
    output:
        f"{STORE}/cases/{{cases}}/manifest.json",
    log:
        f"{LOGS}/hard_cases/{{cases}}.log",
    benchmark:
        f"{LOGS}/hard_cases/{{cases}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s hard_cases {output:q} {params.inputs:q}"
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


rule answer:
    input:
        unpack(inputs_of("model", "facts", "run", "contexts", "moments", "prepared", "unedited")),
    output:
        f"{STORE}/free_answers/{{answers}}/done/{{lengths}}.json",
    log:
        f"{LOGS}/answer/{{answers}}/{{lengths}}.log",
    benchmark:
        f"{LOGS}/answer/{{answers}}/{{lengths}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s answer {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule judge:
    input:
        unpack(inputs_of("answers", "recorded")),
    output:
        f"{STORE}/verdicts/{{verdicts}}/done/{{lengths}}.json",
    log:
        f"{LOGS}/judge/{{verdicts}}/{{lengths}}.log",
    benchmark:
        f"{LOGS}/judge/{{verdicts}}/{{lengths}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s judge {output:q} {params.inputs:q}"
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
