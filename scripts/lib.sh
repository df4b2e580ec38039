# Shared by the shell scripts of this repository: where things are, how to speak, how to fail.
#
# In:      sourced with `set -euo pipefail` already set; ZSTRAP_CACHE and XDG_CACHE_HOME are obeyed.
# Out:     ROOT (the repository), CACHE (what was downloaded or built slowly, by name and version) and
#          the functions below. Talk goes to stderr, so that stdout stays data.
# Failure: `die` ends the calling script with status 1 and one line that names what is wrong.
# shellcheck shell=bash

# Programs whose words are read here must speak one language.
export LC_ALL=C.UTF-8
unset LANGUAGE

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${ZSTRAP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/zstrap}
# Scripts source this file for these two; shellcheck can't see that from here.
: "$ROOT" "$CACHE"

say() { printf '%s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need COMMAND...: each must be on PATH.
need() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null || die "command $command is missing; run scripts/setup"
    done
}

# as_root COMMAND...: runs it as root, through sudo where we are not root yet.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$*' needs root and there is no sudo"
    fi
}

# lock NAME: one run at a time works on cache entry NAME; the lock goes with the calling process.
lock() {
    local file
    mkdir -p "$CACHE"
    exec {file}>"$CACHE/.$1.lock"
    flock -w 1800 "$file" || die "another run has held the cache lock $1 for 30 minutes"
}
