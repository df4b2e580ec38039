# A table of a boot's stages.
#
# In:      the console of a node, where the init says `[   3.412] stage: text after=0.12s`; other lines pass by.
# Out:     one row a stage: when its last line stood there (seconds since the kernel started), how long it took
#          since the stage before, and what it said.
# Failure: exits 1 when there is no such line.

BEGIN {
    WIDTH = 64
}

# A line may stand there twice, once from the console and once from the kernel log.
match($0, /\[ *[0-9]+\.[0-9]+\] (early|identity|network|config|list|root|fetch|handoff): /) {
    line = substr($0, RSTART)
    at = substr(line, 2) + 0
    text = line
    sub(/^[^]]*\] /, "", text)
    stage = text
    sub(/:.*/, "", stage)
    sub(/^[a-z]+: /, "", text)
    sub(/ after=[0-9.]+s$/, "", text)
    if (!(stage in seen)) {
        order[++count] = stage
        seen[stage] = 1
    }
    when[stage] = at
    what[stage] = length(text) <= WIDTH ? text : substr(text, 1, WIDTH - 3) "..."
}

END {
    if (count == 0) {
        exit 1
    }
    printf "  %-10s %9s %9s  %s\n", "stage", "at", "took", "said"
    for (i = 1; i <= count; i++) {
        stage = order[i]
        took = i == 1 ? "" : sprintf("%.3f s", when[stage] - when[order[i - 1]])
        printf "  %-10s %7.3f s %9s  %s\n", stage, when[stage], took, what[stage]
    }
    printf "  from the first stage to zinit: %.3f s\n", when[order[count]] - when[order[1]]
}
