#!/usr/bin/env bash
# Everything that the other scripts need, installed if it is missing: packages, cargo-pgrx, and a
# private copy of the server. Does nothing, quickly, when all is there.
#
# The copy is why nothing of a PostgreSQL that is in use is touched: the extension is installed into
# it. A server looks for its files relative to its own program, so a real copy of the programs next
# to links to everything else is a complete installation.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec 9>"$MANA_SYNC_STATE/lock"
flock 9

# ---- packages --------------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root or sudo: $*"
    fi
}

apt_updated=
apt_update() {
    if [ -z "$apt_updated" ]; then
        say 'Reading the package lists (apt-get update)'
        as_root apt-get update -qq >&2 || note 'apt-get update failed; going on with the lists that are there'
        apt_updated=yes
    fi
}

# (Not piped into grep -q, which would end apt-cache with SIGPIPE, a failure under pipefail.)
apt_has() { [[ $(apt-cache show "$1" 2>/dev/null) == *Version:* ]]; }

# Sets PG: version 15 if it is there or can be had, otherwise the newest.
choose_pg() {
    local version
    for version in 15 18 17 16 14 13; do
        if [ -n "$(installed_pg_config "$version")" ]; then
            PG=$version
            return
        fi
    done
    command -v apt-get >/dev/null ||
        die 'no PostgreSQL 13 to 18 with its development files was found; PG_CONFIG=/path/to/pg_config names one'
    apt_update
    for version in 15 18 17 16 14 13; do
        if apt_has "postgresql-$version" && apt_has "postgresql-server-dev-$version"; then
            PG=$version
            return
        fi
    done
    die 'the package lists have no PostgreSQL 13 to 18'
}

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null ||
        [[ $(ldconfig -p 2>/dev/null) == *libclang[-.]* ]]
}

missing_packages() {
    command -v cc >/dev/null || echo gcc libc6-dev
    command -v make >/dev/null || echo make
    command -v pkg-config >/dev/null || echo pkg-config
    # The demo of the HTTP front end.
    command -v curl >/dev/null || echo curl
    command -v openssl >/dev/null || echo openssl
    have_libclang || echo libclang-dev
    # A test changes the order of a locale; elsewhere it skips itself.
    if command -v apt-get >/dev/null && [ ! -e /usr/share/i18n/locales/en_US ]; then echo locales; fi
    # cargo pgrx test starts its server through sudo when root calls it.
    if [ "$(id -u)" = 0 ]; then command -v sudo >/dev/null || echo sudo; fi
    if [ -z "$MANA_SYNC_SOURCE" ]; then
        # Naming a server that is there already could upgrade it, and restart its clusters.
        [ -x "/usr/lib/postgresql/$PG/bin/postgres" ] || echo "postgresql-$PG"
        echo "postgresql-server-dev-$PG"
    fi
}

# Debian's server package creates a cluster and starts it, and starts others that are stopped. Both
# are prevented while this script installs it.
no_cluster=/etc/postgresql-common/createcluster.d/mana_sync.conf
no_start=/usr/sbin/policy-rc.d
prevent_cluster() {
    as_root mkdir -p "${no_cluster%/*}"
    echo 'create_main_cluster = off' | as_root tee "$no_cluster" >/dev/null
    if [ ! -e "$no_start" ]; then
        printf '#!/bin/sh\n# mana_sync: only while its packages are installed\nexit 101\n' | as_root tee "$no_start" >/dev/null
        as_root chmod 755 "$no_start"
    fi
}
allow_cluster() {
    as_root rm -f "$no_cluster"
    as_root rmdir --ignore-fail-on-non-empty "${no_cluster%/*}"
    if grep -qs 'mana_sync: only while' "$no_start"; then as_root rm -f "$no_start"; fi
}

install_packages() {
    apt_update
    if [ -z "$MANA_SYNC_SOURCE" ]; then
        apt_has "postgresql-server-dev-$PG" ||
            die "no package postgresql-$PG here. The PostgreSQL project's apt repository has every version; or PG_CONFIG=/path/to/pg_config names an installed one"
        trap allow_cluster EXIT
        prevent_cluster
    fi
    say "Installing packages: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$MANA_SYNC_STATE/apt.log" 2>&1 || {
        tail -n 20 "$MANA_SYNC_STATE/apt.log" >&2
        die 'apt-get install failed'
    }
    if [ -z "$MANA_SYNC_SOURCE" ]; then
        allow_cluster
        trap - EXIT
    fi
}

if [ -z "$PG" ]; then
    choose_pg
    echo "$PG" >"$MANA_SYNC_STATE/default-pg"
    MANA_SYNC_SOURCE=$(installed_pg_config "$PG")
fi
# shellcheck disable=SC2046
set -- $(missing_packages)
if [ $# -gt 0 ]; then
    command -v apt-get >/dev/null || die "these are missing, and there is no apt-get here to install them: $*"
    install_packages "$@"
fi
# Again, now that there is a server.
MANA_SYNC_SOURCE=${MANA_SYNC_SOURCE:-$(installed_pg_config "$PG")}
[ -n "$MANA_SYNC_SOURCE" ] || die "PostgreSQL $PG is not complete: a server with its development files is needed"

# ---- the private copy ------------------------------------------------------------------------------

copy=$MANA_SYNC_STATE/pg$PG
source_bin=$("$MANA_SYNC_SOURCE" --bindir)
fingerprint="$MANA_SYNC_SOURCE $("$source_bin/postgres" --version) $(stat -L -c '%s %Y' "$source_bin/postgres") layout 1"

# Links to all that a directory has, but for our own files, which a `make install` may have put there.
link_into() {
    local entry
    mkdir -p "$2"
    for entry in "$1"/*; do
        case ${entry##*/} in
            mana_sync*) ;;
            *) ln -s "$entry" "$2/" ;;
        esac
    done
}

make_copy() {
    local new=$1/root sharedir pkglibdir dir
    sharedir=$("$MANA_SYNC_SOURCE" --sharedir)
    pkglibdir=$("$MANA_SYNC_SOURCE" --pkglibdir)
    # Real copies: a program that is reached through a link is where the link points to.
    mkdir -p "$new$source_bin"
    cp -L "$source_bin"/* "$new$source_bin/"
    link_into "$pkglibdir" "$new$pkglibdir"
    link_into "$sharedir" "$new$sharedir"
    rm "$new$sharedir/extension"
    link_into "$sharedir/extension" "$new$sharedir/extension"
    for dir in --includedir --pkgincludedir --includedir-server --libdir --localedir; do
        dir=$("$MANA_SYNC_SOURCE" "$dir")
        # Not those within a directory that is there already.
        if [ -d "$dir" ] && [ ! -e "$new$dir" ]; then
            mkdir -p "$new${dir%/*}"
            ln -s "$dir" "$new$dir"
        fi
    done
    echo "$MANA_SYNC_SOURCE" >"$1/source"
    echo "$fingerprint" >"$1/fingerprint"
}

if [ "$(cat "$copy/fingerprint" 2>/dev/null)" != "$fingerprint" ]; then
    say "Making a private copy of PostgreSQL $PG, so that the installed one stays as it is"
    note "$MANA_SYNC_SOURCE -> $copy"
    rm -rf "$copy.new" "$copy.old"
    make_copy "$copy.new"
    [ ! -e "$copy" ] || mv "$copy" "$copy.old"
    mv "$copy.new" "$copy"
    rm -rf "$copy.old"
fi

unset PG_CONFIG
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
for dir in --bindir --pkglibdir --sharedir; do
    [[ $("$PG_CONFIG" "$dir") == "$copy"/* ]] ||
        die "the copy of $MANA_SYNC_SOURCE does not find its own files; please report this with the output of $PG_CONFIG"
done

# ---- pgbouncer -------------------------------------------------------------------------------------

# For one test. Unpacked, not installed: Debian's package would start a service. Tried once: an empty
# directory says that it could not be had.
unpack_pgbouncer() {
    local packages package
    apt_has pgbouncer || apt_update
    # The libraries that a machine with a server does not have anyway; their names depend on the release.
    mapfile -t packages < <(apt-cache depends pgbouncer 2>/dev/null | awk '/Depends: lib(c-ares|cares|event)/ { print $2 }')
    mkdir "$1/packages"
    (cd "$1/packages" && apt-get download -qq pgbouncer "${packages[@]}") || return
    for package in "$1"/packages/*.deb; do dpkg-deb -x "$package" "$1" || return; done
    rm -r "$1/packages"
    # shellcheck disable=SC2016 # the program finds its directory when it runs
    printf '%s\n' '#!/bin/sh' 'here=${0%/*}' \
        'LD_LIBRARY_PATH=$(echo "$here"/usr/lib/*-linux-gnu*) exec "$here/usr/sbin/pgbouncer" "$@"' >"$1/pgbouncer"
    chmod 755 "$1/pgbouncer"
    "$1/pgbouncer" --version
}

if [ -z "$MANA_SYNC_PGBOUNCER" ] && [ ! -e "$MANA_SYNC_STATE/pgbouncer" ] && command -v apt-get >/dev/null; then
    say "Unpacking PgBouncer into $MANA_SYNC_STATE/pgbouncer"
    rm -rf "$MANA_SYNC_STATE/pgbouncer.new"
    mkdir "$MANA_SYNC_STATE/pgbouncer.new"
    unpack_pgbouncer "$MANA_SYNC_STATE/pgbouncer.new" >"$MANA_SYNC_STATE/pgbouncer.log" 2>&1 || {
        note "it cannot be had, and its test will be skipped; see $MANA_SYNC_STATE/pgbouncer.log"
        rm -rf "$MANA_SYNC_STATE/pgbouncer.new"
        mkdir "$MANA_SYNC_STATE/pgbouncer.new"
    }
    mv "$MANA_SYNC_STATE/pgbouncer.new" "$MANA_SYNC_STATE/pgbouncer"
fi

# ---- cargo and pgrx --------------------------------------------------------------------------------

command -v cargo >/dev/null || die 'cargo is missing: https://rustup.rs installs Rust'

if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $MANA_SYNC_PGRX_VERSION" ]; then
    say "Installing cargo-pgrx $MANA_SYNC_PGRX_VERSION into $MANA_SYNC_STATE/cargo (about 2 minutes)"
    # Not into the user's own: another version that is there may be needed for another project. Without optimisation, which takes
    # longer than all that it ever does here.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-pgrx --version "$MANA_SYNC_PGRX_VERSION" --locked --quiet --debug \
        --root "$MANA_SYNC_STATE/cargo" --target-dir "$MANA_SYNC_STATE/cargo-target"
    rm -rf "$MANA_SYNC_STATE/cargo-target"
fi

if ! grep -qsF "pg$PG = \"$PG_CONFIG\"" "$PGRX_HOME/config.toml"; then
    say "Telling pgrx about PostgreSQL $PG"
    set --
    for source in "$MANA_SYNC_STATE"/pg[0-9][0-9]/source; do
        major=${source%/source} major=${major##*/pg}
        set -- "$@" "--pg$major=$MANA_SYNC_STATE/pg$major/root$("$(cat "$source")" --bindir)/pg_config"
    done
    mkdir -p "$PGRX_HOME"
    # --no-run: no data directory; the tests make their own.
    cargo pgrx init --no-run "$@" >"$MANA_SYNC_STATE/pgrx-init.log" 2>&1 || {
        cat "$MANA_SYNC_STATE/pgrx-init.log" >&2
        die 'cargo pgrx init failed'
    }
fi
