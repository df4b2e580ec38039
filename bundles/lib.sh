# Shared by the recipes of bundles: which architecture, programs of the crate registry, busybox, and a tree that is
# whole or not there.
#
# In:      sourced after scripts/lib.sh and scripts/packages.sh; `choose_architecture` comes first.
# Out:     ARCH and the functions below. What takes minutes to build is built once for each version and architecture,
#          and kept in the cache folder.
# Failure: as `die` says; a tree that stands there stays as it is.
# shellcheck shell=bash

COMMON=$ROOT/bundles/common
ZINIT_VERSION=0.3.9

# choose_architecture ARCH: names the target of Rust, its C compiler and what readelf calls the machine. The compilers
# are those of .cargo/config.toml.
choose_architecture() {
    ARCH=$1
    case $ARCH in
    amd64) TARGET=x86_64-unknown-linux-musl CROSS_CC=musl-gcc MACHINE=X86-64 ;;
    arm64) TARGET=aarch64-unknown-linux-musl CROSS_CC=aarch64-linux-gnu-gcc MACHINE=AArch64 ;;
    *) die "architecture $ARCH is none of amd64, arm64" ;;
    esac
    need cargo "$CROSS_CC" busybox readelf flock
}

# replace_tree DIR COMMAND...: runs the command with a new folder, which takes the place of DIR when that has worked.
# What stands there must be a tree of zinit's: a word mistyped is not to delete somebody's folder. The new one is made
# beside it, whatever ends the name, under a name that nobody has.
replace_tree() {
    local out
    out=$(realpath -m -- "$1")
    shift
    [[ ! -e $out || -d $out/etc/zinit ]] || die "$out exists and is no tree of a bundle, so it stays as it is"
    mkdir -p "${out%/*}"
    NEW_TREE=$(mktemp -d "$out.XXXXXXXX")
    trap 'rm -rf "$NEW_TREE"' EXIT
    "$@" "$NEW_TREE"
    chmod_folders "$NEW_TREE"
    rm -rf "$out"
    mv -T "$NEW_TREE" "$out"
    trap - EXIT
}

# Modes are said and not taken from the umask: whoever runs the recipe gets the same bundle.
chmod_folders() {
    find "$1" -type d ! -path "$1/root" -exec chmod 0755 {} +
    chmod 0700 "$1/root"
}

# obtain_crate NAME VERSION FEATURES: sets BUILT to the folder whose bin/ has the programs of that crate. It comes whole, by
# rename, so only who builds has to wait for others.
obtain_crate() {
    local name=$1 version=$2 features=$3
    BUILT=$CACHE/$name/$version-$ARCH
    [[ ! -d $BUILT/bin ]] || return 0
    lock "$name-$version-$ARCH"
    [[ ! -d $BUILT/bin ]] || return 0
    say "$name: building $version for $ARCH (some minutes, once)"
    install_crate "$name" "$version" "$features" "$BUILT.new"
    rm -rf "$BUILT"
    mv "$BUILT.new" "$BUILT"
}

# `cargo install` does not read the repository's cargo configuration, so the linker is named here. The
# profile makes programs less than half of their default size: they are fetched at every boot. Panics
# stay as the crates have them: of zinit, one ends a task of the server, not the server. Whose home the sources lie in is
# nobody's business, and no reason for other bytes.
install_crate() {
    local name=$1 version=$2 features=$3 root=$4 target=${TARGET//-/_}
    rm -rf "$root"
    env -u CARGO_TARGET_DIR -u CARGO_ENCODED_RUSTFLAGS \
        "RUSTFLAGS=--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
        "CARGO_TARGET_${target^^}_LINKER=rust-lld" \
        "CC_$target=$CROSS_CC" \
        CARGO_PROFILE_RELEASE_OPT_LEVEL=z \
        CARGO_PROFILE_RELEASE_LTO=fat \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
        CARGO_PROFILE_RELEASE_STRIP=true \
        nice cargo install "$name" --version "=$version" --locked --quiet --no-track \
        --no-default-features --features "$features" --target "$TARGET" --root "$root" >&2 ||
        die "$name $version does not build for $ARCH"
}

# lay_out_program FILE PLACE: a static program of this architecture.
lay_out_program() {
    check_program "$1"
    install -D -m 0755 "$1" "$2"
}

# check_program PATH: a bundle carries no libraries but those of ttyd, and Debian has a dynamic busybox too.
check_program() {
    local headers
    headers=$(readelf --file-header --program-headers "$1" 2>/dev/null) || die "$1 is no program"
    grep -q "Machine:.*$MACHINE" <<<"$headers" || die "$1 is no program for $ARCH"
    ! grep -qw INTERP <<<"$headers" || die "$1 is linked dynamically; a static one is needed"
}

# lay_out_base TREE: zinit, busybox, and what every bundle has in /etc.
lay_out_base() {
    local tree=$1
    install -d "$tree/root" "$tree/var/log"
    obtain_crate zinit "$ZINIT_VERSION" client,server
    lay_out_program "$BUILT/bin/zinit" "$tree/sbin/zinit"
    lay_out_program "$BUILT/bin/zinit-server" "$tree/sbin/zinit-server"
    lay_out_busybox "$tree/bin" <"$COMMON/applets"
    lay_out_files "$COMMON/files" "$tree"
}

# lay_out_files FOLDER TREE: the files of a folder; those that begin with `#!` can be executed.
lay_out_files() {
    local from=$1 tree=$2 file mode
    while read -r file; do
        mode=0644
        [[ $(head -c 2 "$from/$file" | tr -d '\0') != '#!' ]] || mode=0755
        install -D -m "$mode" "$from/$file" "$tree/$file"
    done < <(cd "$from" && find . -type f -printf '%P\n' | sort)
}

# lay_out_busybox FOLDER: the program, and links for the applets that stdin names, one a line.
lay_out_busybox() {
    local folder=$1 applet offered
    [[ -n ${BUSYBOX:-} ]] || BUSYBOX=$(busybox_of "$ARCH")
    [[ -e $folder/busybox ]] || lay_out_program "$BUSYBOX" "$folder/busybox"
    # This machine's may be of another architecture and so can't be asked what it has: then its twin here answers.
    offered=$(busybox --list)
    while read -r applet; do
        [[ $applet != \#* ]] || continue
        grep -qxF -- "$applet" <<<"$offered" || die "busybox has no applet '$applet'"
        ln -s busybox "$folder/$applet"
    done
}

# busybox_of ARCH: the path of one. This machine's own, or that of the package for another architecture.
busybox_of() {
    if [[ $1 == "$(dpkg --print-architecture)" ]]; then
        readlink -f "$(command -v busybox)"
    else
        packages_for "$1"
        fetched_busybox "$(candidate busybox-static)"
    fi
}

fetched_busybox() {
    local version=$1 folder=$CACHE/busybox/${1/:/%3a}-$ARCH
    if [[ ! -e $folder ]]; then
        rm -rf "$folder.new"
        mkdir -p "$folder.new"
        unpack_package busybox-static "$version" "$folder.new" || die "apt can't download busybox-static=$version for $ARCH"
        mv "$folder.new" "$folder"
    fi
    # Later releases of Debian have it below /usr.
    find "$folder" -path '*bin/busybox' -type f | head -n 1
}
