#!/usr/bin/env bash
# Every test, one suite after the other; SUITE="crates regress" chooses some. The last line is the
# number of tests that passed and failed. A suite that fails does not stop the next one; a build that
# fails does.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/setup.sh"
# shellcheck source=scripts/cluster.sh
. "$here/cluster.sh"
cd "$MANA_SYNC_ROOT"

logs=$MANA_SYNC_STATE/log
results=$MANA_SYNC_STATE/results
mkdir -p "$logs" "$results"
export USER=${USER:-$(id -un)} # pgrx-tests connects as it

title_of() {
    case $1 in
        crates) echo "cursors, merging and the pages of results, without a server" ;;
        regress) echo 'SQL with its output (pg_regress)' ;;
        isolation) echo 'concurrent sessions, step by step (pg_isolation_regress)' ;;
        servers) echo 'real clusters: crashes, standbys, stress' ;;
        pgrx) echo 'inside the server (cargo pgrx test)' ;;
        *) die "no suite named $1" ;;
    esac
}

# ---- suites: each writes its output to stdout and fails if a test fails --------------------------------

suite_crates() { cargo test -p mana_sync_cursor -p mana_sync_merge -p mana_sync_bench; }

suite_servers() { cargo test -p mana_sync_servers --no-fail-fast -- --show-output; }

# The build that cargo pgrx test installs has the tests in it; main installs the plain one again.
suite_pgrx() {
    local run_as=()
    cluster_dir=$(server_tmpdir)
    trap cluster_stop EXIT
    if [ -n "$MANA_SYNC_RUN_AS" ]; then run_as=(--runas "$MANA_SYNC_RUN_AS"); fi
    # The server's port is fixed: one run at a time.
    flock "$MANA_SYNC_STATE/pgrx.lock" cargo pgrx test "pg$PG" --package mana_sync --no-default-features \
        "${run_as[@]}" --pgdata "$cluster_dir/data"
}

suite_regress() {
    local status=0
    tests/regress/check.sh || status=1
    pg_regress regress sql regress/pg_regress
    return "$status"
}

suite_isolation() { pg_regress isolation specs isolation/pg_isolation_regress; }

# pg_regress DIRECTORY INPUTS PROGRAM: inputs and outputs are in a directory of the server's user, who
# may not be able to read the checkout.
pg_regress() {
    local tests=$MANA_SYNC_ROOT/tests/$1 program status=0 work choice
    program=$(dirname "$("$PG_CONFIG" --pgxs)")/../test/$3
    cluster_start
    work=$cluster_dir/work
    as_server_user mkdir "$work" "$work/out"
    tar -C "$tests" -c . | as_server_user tar -C "$work" -x --no-same-owner
    if [ -e "$tests/schedule" ]; then
        choice=(--schedule "$work/schedule")
    else
        mapfile -t choice < <(cd "$tests/$2" && printf '%s\n' * | sed -E 's/\.(sql|spec)$//')
    fi
    as_server_user "$program" --bindir "$MANA_SYNC_PG_BIN" --host "$PGHOST" --port "$PGPORT" --user "$PGUSER" \
        --inputdir "$work" --outputdir "$work/out" --dbname "mana_sync_$1" "${choice[@]}" || status=$?
    cp -r "$work/out" "$results/$1"
    cp "$cluster_dir/log" "$results/$1/server.log"
    return "$status"
}

# ---- counting ------------------------------------------------------------------------------------------

passed=0 failed=0 skipped=0

# Adds a suite's counts; cargo's summary lines (a test that has to skip itself says so), or pg_regress' lines in the form of before 16 or since.
count() {
    local p f s
    read -r p f s < <(awk '
        /^test result:/ {
            for (i = 1; i < NF; i++) {
                if ($(i + 1) == "passed;") p += $i
                if ($(i + 1) == "failed;") f += $i
                if ($(i + 1) == "ignored;") s += $i
            }
        }
        /^skipped: / { s++; p-- }
        /^ok [0-9]/ { p++ }
        /^not ok [0-9]/ { f++ }
        /^(test|    ).*\.\.\. +ok +[0-9]+ ms/ { p++ }
        /^(test|    ).*\.\.\. +FAILED.* ms$/ { f++ }
        END { print p + 0, f + 0, s + 0 }' "$2")
    # A suite that could not run counts as one failure, as does one without a test.
    if { [ "$3" != 0 ] && [ "$f" = 0 ]; } || [ "$((p + f))" = 0 ]; then f=$((f + 1)); fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    note "$1: $p passed, $f failed$([ "$s" = 0 ] || echo ", $s skipped") in $((SECONDS - started)) s ($2)"
    [ "$f" = 0 ]
}

# What went wrong: the differences, or cargo's output between the last test's line and the summary.
show_failure() {
    local log=$2
    if [ -s "$results/$1/regression.diffs" ]; then
        cat "$results/$1/regression.diffs"
    else
        # The beginning and the end of it, which are enough to know what to look for in the log.
        awk '
            /^(failures:|error)/ { on = 1 }
            on { line[++n] = $0 }
            { last[NR % 40] = $0 }
            END {
                if (!on) for (i = NR - 39; i <= NR; i++) { if (i > 0) print last[i % 40] }
                for (i = 1; i <= n; i++) {
                    if (n <= 250 || i <= 100 || i > n - 150) print line[i]
                    else if (i == 101) print "[…]"
                }
            }' "$log"
    fi
}

run_suite() {
    local log=$logs/$1.log status started=$SECONDS
    rm -rf "${results:?}/$1"
    say "$1: $(title_of "$1")"
    # The log has everything; the terminal sees what is going on.
    set +e
    (
        set -e
        "suite_$1"
    ) 2>&1 </dev/null | tee "$log" | grep -E --line-buffered '^(test |ok [0-9]|not ok [0-9]|     .*\.\.\. |error| +Compiling (mana_sync|pgrx))'
    status=${PIPESTATUS[0]}
    set -e
    if ! count "$1" "$log" "$status"; then
        show_failure "$1" "$log"
    fi
}

# A server of a newer major version, for the test of pg_upgrade, with the extension: that of
# NEWER_PG_CONFIG, or else the newest that is installed. Without one the test says that it was skipped.
install_newer() {
    local config=${NEWER_PG_CONFIG:-} version
    for version in 18 17 16 15 14; do
        if [ -z "$config" ] && [ "$version" -gt "$PG" ]; then config=$(installed_pg_config "$version"); fi
    done
    if [ -n "$config" ]; then
        is_server "$config" || die "NEWER_PG_CONFIG=$config does not belong to a server with its development files"
        version=$(major_of "$config")
        [ "$version" -gt "$PG" ] || die "NEWER_PG_CONFIG=$config is version $version, not newer than $PG"
        env -u PG PG_CONFIG="$config" "$here/install.sh"
        MANA_SYNC_NEWER_PG_BIN=$MANA_SYNC_STATE/pg$version/root$("$(own_pg_config "$config")" --bindir)
        export MANA_SYNC_NEWER_PG_BIN
    fi
}

# ---- main ----------------------------------------------------------------------------------------------

suites=${SUITE:-crates regress isolation servers pgrx}
for suite in $suites; do title_of "$suite" >/dev/null; done

case " $suites " in *' servers '*) install_newer ;; esac
case " $suites " in *' crates '*) cargo test -q -p mana_sync_cursor -p mana_sync_merge -p mana_sync_bench --no-run ;; esac
case " $suites " in
    *' regress '* | *' isolation '* | *' servers '* | *' pgrx '*) "$here/install.sh" ;;
esac
case " $suites " in
    *' servers '*)
        eval "$("$here/drivers.sh")"
        say 'Building the tests that run real clusters'
        cargo test -q -p mana_sync_servers --no-run
        cargo build -q -p mana_sync_http
        ;;
esac

for suite in $suites; do
    run_suite "$suite"
    if [ "$suite" = pgrx ]; then
        "$here/install.sh" >"$logs/install.log" 2>&1 || note "installing again failed, see $logs/install.log"
    fi
done

echo
if [ "$skipped" = 0 ]; then
    echo "$passed passed, $failed failed"
else
    echo "$passed passed, $failed failed, $skipped skipped"
fi
[ "$failed" = 0 ]
