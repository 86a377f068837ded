"""The embedded world, training data from it or from records, the models trained here, and those from elsewhere.

The first rule is the pattern of all that make an artefact with one manifest.
"""


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
        stage=stage_of,
        settings=settings_of,
        inputs=roles_of,
        code=code_of,
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s {params.stage} {output:q} --settings {params.settings:q}"
        " --inputs {params.inputs:q} --code {params.code:q} 2> {log:q}"


use rule world as corpus with:
    output:
        output_of("corpus"),
    log:
        f"{LOGS}/corpus/{{name}}.log",
    benchmark:
        f"{LOGS}/corpus/{{name}}.tsv"
    wildcard_constraints:
        name=names("corpus"),


use rule world as pretrain with:
    output:
        output_of("pretrain"),
    log:
        f"{LOGS}/pretrain/{{name}}.log",
    benchmark:
        f"{LOGS}/pretrain/{{name}}.tsv"
    wildcard_constraints:
        name=names("pretrain"),
    threads: 2


use rule world as adopt with:
    output:
        output_of("adopt"),
    log:
        f"{LOGS}/adopt/{{name}}.log",
    benchmark:
        f"{LOGS}/adopt/{{name}}.tsv"
    wildcard_constraints:
        name=names("adopt"),


# Looks at single edits on seed 0.
use rule world as world_report with:
    output:
        output_of("world_report"),
    log:
        f"{LOGS}/world_report/{{name}}.log",
    benchmark:
        f"{LOGS}/world_report/{{name}}.tsv"
    wildcard_constraints:
        name=names("world_report"),
    priority: 1_000_000  # one long job that nothing else waits for but the end
