"""Records and questions as facts."""


use rule world as facts with:
    output:
        output_of("facts"),
    log:
        f"{LOGS}/facts/{{name}}.log",
    benchmark:
        f"{LOGS}/facts/{{name}}.tsv"
    wildcard_constraints:
        name=names("facts"),


use rule world as questions with:
    output:
        output_of("questions"),
    log:
        f"{LOGS}/questions/{{name}}.log",
    benchmark:
        f"{LOGS}/questions/{{name}}.tsv"
    wildcard_constraints:
        name=names("questions"),
