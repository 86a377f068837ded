"""The last stages, with plain names: they read Parquet only and rerun by time stamp, input set, settings and code."""

MEASURED = PLAN.markers(
    *("measure", "answer", "judge", "benchmark", "objectives", "world_report", "edit_single", "trace", "ordinary", "robustness"),
)
LEARNED = PLAN.markers("pretrain")
STUDY_TEXT = canonical(plain_values(STUDY, "execution"))
DATA_TEXT = canonical(plain_values(STUDY, "figures", "execution"))


rule summarize:
    input:
        MEASURED,
    output:
        f"{RESULTS}/study.json",  # is written last
    log:
        f"{LOGS}/{STUDY.study}/summarize.log",
    benchmark:
        f"{LOGS}/{STUDY.study}/summarize.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
        gpu=0,
    params:
        study=lambda wildcards: DATA_TEXT,
        measured=MEASURED,
        code=code_digest("d4s.study.summarize"),
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s summarize --study {params.study:q} 2> {log:q}"


rule learning:
    input:
        LEARNED,
    output:
        f"{RESULTS}/learning/learning.json",
    log:
        f"{LOGS}/{STUDY.study}/learning.log",
    benchmark:
        f"{LOGS}/{STUDY.study}/learning.tsv"
    priority: 1_000_000
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        settings=lambda wildcards: canonical(STUDY.figures.model_dump(mode="json")),
        code=code_digest("d4s.figures.fig_learning"),
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s learning {input:q} --out {output:q} --settings {params.settings:q} 2> {log:q}"


rule tables:
    input:
        rules.summarize.output,
    output:
        f"{RESULTS}/tables/tables.json",
    log:
        f"{LOGS}/{STUDY.study}/tables.log",
    benchmark:
        f"{LOGS}/{STUDY.study}/tables.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        study=lambda wildcards: DATA_TEXT,
        code=code_digest("d4s.tables.table_stage"),
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s tables --study {params.study:q} 2> {log:q}"


rule figures:
    input:
        rules.summarize.output,
    output:
        f"{RESULTS}/figures/figures.json",
    log:
        f"{LOGS}/{STUDY.study}/figures.log",
    benchmark:
        f"{LOGS}/{STUDY.study}/figures.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        study=lambda wildcards: STUDY_TEXT,
        code=code_digest("d4s.figures.figure_stage"),
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s figures --study {params.study:q} 2> {log:q}"


rule claims:
    input:
        rules.summarize.output,
    output:
        f"{RESULTS}/claims.json",
    log:
        f"{LOGS}/{STUDY.study}/claims.log",
    benchmark:
        f"{LOGS}/{STUDY.study}/claims.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        study=lambda wildcards: DATA_TEXT,
        code=code_digest("d4s.analysis.claims", *map(CLAIM_GROUPS.module, STUDY.claims)),
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s claims --study {params.study:q} 2> {log:q}"


rule report:
    input:
        rules.tables.output,
        rules.figures.output,
        rules.claims.output,
        rules.learning.output if LEARNED else [],
    output:
        f"{RESULTS}/report.html",
        [f"{RESULTS}/index.html"] if STUDY.leaderboard else [],
    log:
        f"{LOGS}/{STUDY.study}/report.log",
    benchmark:
        f"{LOGS}/{STUDY.study}/report.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=0,
    params:
        study=lambda wildcards: STUDY_TEXT,
        code=code_digest("d4s.report.page"),
    shell:
        "OMP_NUM_THREADS={threads} python -m d4s report --study {params.study:q} 2> {log:q}"
