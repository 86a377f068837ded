"""What editors need beside facts and moments: prefixes, and parts prepared once for all runs."""


use rule world as contexts with:
    output:
        output_of("contexts"),
    log:
        f"{LOGS}/contexts/{{name}}.log",
    benchmark:
        f"{LOGS}/contexts/{{name}}.tsv"
    wildcard_constraints:
        name=names("contexts"),


use rule world as prepare with:
    output:
        output_of("prepare"),
    log:
        f"{LOGS}/prepare/{{name}}.log",
    benchmark:
        f"{LOGS}/prepare/{{name}}.tsv"
    wildcard_constraints:
        name=names("prepare"),
