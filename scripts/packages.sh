# Shared by the scripts that unpack Debian's packages without installing them, for this architecture or another.
#
# In:      sourced after lib.sh. The machine's own package sources; for another architecture package lists of our
#          own in the cache folder, so that the architectures and lists of this machine stay as they are.
# Out:     after `packages_for ARCH`, the functions below speak of packages of that architecture.
# Failure: as `die` says; a package list that can't be refreshed is used as it is.
# shellcheck shell=bash

# Options for apt, and the folder of our own lists; both empty where the machine's own serve.
APT=()
LISTS=

# packages_for ARCH: amd64 or arm64.
packages_for() {
    need apt-get apt-cache dpkg flock
    [[ $1 != "$(dpkg --print-architecture)" ]] || return 0
    LISTS=$CACHE/apt/$1
    lock "apt-$1"
    mkdir -p "$LISTS/state/lists/partial" "$LISTS/cache/archives/partial"
    # The cache folder may lie where apt's download user can't go.
    APT=(-o "APT::Architecture=$1" -o "APT::Architectures=$1" -o "Dir::State=$LISTS/state"
        -o "Dir::Cache=$LISTS/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
    # Lists older than the machine's may name another version of a package than those do.
    [[ -e $LISTS/refreshed && ! /var/lib/apt/lists -nt $LISTS/refreshed ]] || refresh_lists
}

refresh_lists() {
    if [[ -z $LISTS ]]; then
        as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
        return
    fi
    # A source that has nothing for this architecture is no failure: the package that is missing will be named.
    apt-get -qq "${APT[@]}" update || say "packages: not all lists could be refreshed"
    touch "$LISTS/refreshed"
}

# candidate PACKAGE: the version that would be installed.
candidate() {
    local version
    version=$(apt-cache "${APT[@]}" policy "$1" | sed -n 's/^ *Candidate: //p')
    [[ -n $version && $version != '(none)' ]] || die "apt offers no version of $1; scripts/setup refreshes the package lists"
    printf '%s\n' "$version"
}

# dependency PACKAGE PREFIX: the first package it depends on whose name begins so; nothing when there is none.
dependency() {
    apt-cache "${APT[@]}" depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \\($2.*\\)\$/\\1/p" | head -n 1
}

# unpack_package PACKAGE VERSION FOLDER: fetches it and puts its files below FOLDER; false when it can't be fetched.
unpack_package() {
    local work status=0
    # World-writable, so that apt's download user may write there and says nothing.
    work=$(mktemp -d)
    chmod 1777 "$work"
    say "packages: fetching $1 $2"
    if (cd "$work" && apt-get -qq "${APT[@]}" download "$1=$2"); then
        dpkg -x "$work"/*.deb "$3"
    else
        status=1
    fi
    rm -rf "$work"
    return "$status"
}

# packages_from SUITE ARCH: the same of another suite of Debian, such as testing, at the mirror that this machine uses.
packages_from() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg release
    need apt-get apt-cache dpkg flock
    # shellcheck disable=SC1091 # every Debian has it
    release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME-}")
    # shellcheck disable=SC2016 # apt expands it, not the shell
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' "Release: $release" | head -n 1)
    [[ -n $mirror ]] || die "apt is not configured with a mirror that has $release, so $1 can't be found"
    # A lock that this very process holds would be waited for.
    [[ $LISTS != "$CACHE/apt/$1-$2" ]] || return 0
    LISTS=$CACHE/apt/$1-$2
    lock "apt-$1-$2"
    mkdir -p "$LISTS/state/lists/partial" "$LISTS/cache/archives/partial"
    printf '%s\n' 'Types: deb' "URIs: $mirror" "Suites: $1" 'Components: main' >"$LISTS/debian.sources"
    [[ ! -e $keyring ]] || printf 'Signed-By: %s\n' "$keyring" >>"$LISTS/debian.sources"
    APT=(-o "APT::Architecture=$2" -o "APT::Architectures=$2" -o "Dir::State=$LISTS/state"
        -o "Dir::Cache=$LISTS/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root
        -o "Dir::Etc::sourcelist=$LISTS/debian.sources" -o Dir::Etc::sourceparts=/dev/null -o Acquire::Languages=none)
    [[ -e $LISTS/refreshed ]] || refresh_lists
}

# closure PACKAGE...: these packages and all that they depend on, one a line.
closure() {
    apt-cache "${APT[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$@" | sed -n 's/^\([a-z0-9][^ :]*\)\(:.*\)\{0,1\}$/\1/p' | sort -u
}
