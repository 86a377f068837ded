"""What runs need beside facts and a model: prefixes, second moments, targets, parts of editors, and what the unedited model answers."""


rule posterior:
    input:
        unpack(inputs_of("world", "facts")),
    output:
        f"{STORE}/posteriors/{{posterior}}/manifest.json",
    log:
        f"{LOGS}/posterior/{{posterior}}.log",
    benchmark:
        f"{LOGS}/posterior/{{posterior}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s posterior {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule contexts:
    input:
        unpack(inputs_of("model")),
    output:
        f"{STORE}/contexts/{{contexts}}/manifest.json",
    log:
        f"{LOGS}/contexts/{{contexts}}.log",
    benchmark:
        f"{LOGS}/contexts/{{contexts}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s contexts {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule moments:
    input:
        unpack(inputs_of("model", "text")),
        shards=shards_of,
    output:
        f"{STORE}/moments/{{moments}}/done/{{layers}}.json",
    log:
        f"{LOGS}/moments/{{moments}}/{{layers}}.log",
    benchmark:
        f"{LOGS}/moments/{{moments}}/{{layers}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s moments {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule moments_shard:
    input:
        unpack(inputs_of("model", "text")),
    output:
        temp(f"{STORE}/moments/{{moments}}/shards/{{shard}}.json"),
    log:
        f"{LOGS}/moments_shard/{{moments}}/{{shard}}.log",
    benchmark:
        f"{LOGS}/moments_shard/{{moments}}/{{shard}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s moments {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule prepare:
    input:
        unpack(inputs_of("model", "facts", "pool", "moments", "folder_*")),
    output:
        f"{STORE}/prepared/{{prepared}}/manifest.json",
    log:
        f"{LOGS}/prepare/{{prepared}}.log",
    benchmark:
        f"{LOGS}/prepare/{{prepared}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s prepare {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


# The first of a draw of requests also makes what else the model says of it: other baselines, targets, objectives.
rule baseline:
    input:
        unpack(inputs_of("model", "facts", "text")),
        ahead=inputs_ahead,
        leader=leader_of,
    output:
        f"{STORE}/baselines/{{baseline}}/done/{{blocks}}.json",
    log:
        f"{LOGS}/baseline/{{baseline}}/{{blocks}}.log",
    benchmark:
        f"{LOGS}/baseline/{{baseline}}/{{blocks}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s baseline {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} --ahead {params.ahead:q} 2> {log:q}"


rule targets:
    input:
        unpack(inputs_of("model", "facts", "contexts")),
        leader=leader_of,
        shards=shards_of,
    output:
        f"{STORE}/targets/{{targets}}/done/{{blocks}}.json",
    log:
        f"{LOGS}/targets/{{targets}}/{{blocks}}.log",
    benchmark:
        f"{LOGS}/targets/{{targets}}/{{blocks}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s targets {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule targets_shard:
    input:
        unpack(inputs_of("model", "facts", "contexts")),
    output:
        temp(f"{STORE}/targets/{{targets}}/shards/{{shard}}.json"),
    log:
        f"{LOGS}/targets_shard/{{targets}}/{{shard}}.log",
    benchmark:
        f"{LOGS}/targets_shard/{{targets}}/{{shard}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s targets {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule objectives:
    input:
        unpack(inputs_of("model", "facts")),
        leader=leader_of,
    output:
        f"{STORE}/objectives/{{objectives}}/done/manifest.json",
    log:
        f"{LOGS}/objectives/{{objectives}}.log",
    benchmark:
        f"{LOGS}/objectives/{{objectives}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s objectives {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule trace:
    input:
        unpack(inputs_of("model", "facts")),
    output:
        f"{STORE}/traces/{{traces}}/done/{{lengths}}.json",
    log:
        f"{LOGS}/trace/{{traces}}/{{lengths}}.log",
    benchmark:
        f"{LOGS}/trace/{{traces}}/{{lengths}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s trace {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"


rule ordinary:
    input:
        unpack(inputs_of("model", "facts", "text")),
    output:
        f"{STORE}/ordinary/{{ordinary}}/manifest.json",
    log:
        f"{LOGS}/ordinary/{{ordinary}}.log",
    benchmark:
        f"{LOGS}/ordinary/{{ordinary}}.tsv"
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
        "OMP_NUM_THREADS={threads} python -m d4s ordinary {output:q} {params.inputs:q}"
        " --settings {params.settings:q} --code {params.code:q} 2> {log:q}"
