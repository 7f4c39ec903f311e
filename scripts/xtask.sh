#!/bin/sh
# Runs `cargo xtask`, and before that installs what building it needs. The Makefile calls this; with cargo and a C
# compiler at hand, `cargo xtask …` is the same.
set -eu
cd "$(dirname "$0")/.."

if ! command -v cc >/dev/null; then
    command -v apt-get >/dev/null || { echo 'mana_sync: a C compiler is missing' >&2; exit 1; }
    as_root=
    if [ "$(id -u)" != 0 ]; then as_root=sudo; fi
    printf '\n==> %s\n' 'Installing a C compiler (gcc, libc6-dev)' >&2
    $as_root apt-get update -qq >&2 || echo '    apt-get update failed; going on with the lists that are there' >&2
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev >&2
fi

# rustup's own place, for shells that were not told about it.
if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
command -v cargo >/dev/null || { echo 'mana_sync: cargo is missing: https://rustup.rs installs Rust' >&2; exit 1; }

exec cargo xtask "$@"
