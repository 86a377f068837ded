"""Records and questions as facts, and the objectives of their edits."""


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


use rule world as objectives with:
    output:
        output_of("objectives"),
    log:
        f"{LOGS}/objectives/{{name}}.log",
    benchmark:
        f"{LOGS}/objectives/{{name}}.tsv"
    wildcard_constraints:
        name=names("objectives"),
