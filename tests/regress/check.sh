#!/usr/bin/env bash
# Compares what is written down twice; needs no server.
#
#   - tests/members.txt and the lines in sql/install.sql, which the regress suite compares with the catalog
#   - the tours in README.md and docs/tour.md and the examples in docs/reference/ with the files of the regress
#     suite that run them, and with their output
#   - the keys in src/wire/ and src/api/push.rs with the tables of docs/clients.md
#   - the recipes in docs/validators.md and the steps in docs/from-mana-sync-go.md with the files of the regress suite that run them, and
#     with their output
# and looks for characters that not every encoding has in what the server reads.
#
# Prints a line for each comparison, as pg_regress does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
status=0 number=0

# same TITLE FILE FILE
same() {
    number=$((number + 1))
    local left right
    left=$(cat "$2") right=$(cat "$3")
    if [ -n "$left" ] && diff -u <(echo "$left") <(echo "$right"); then
        echo "ok $number - $1"
    else
        echo "not ok $number - $1"
        status=1
    fi
}

# The blocks fenced as sql or text between <!-- begin NAME --> and <!-- end NAME --> of a document, without blank lines and
# spaces at the end of a line.
blocks() {
    awk -v begin="<!-- begin $2 -->" -v end="<!-- end $2 -->" '
        $0 == begin { inside = 1; next }
        $0 == end { inside = 0 }
        /^```/ { block = /^```(sql|text)$/; next }
        inside && block && NF { sub(/ +$/, ""); print }' "$1"
}

# The same blocks of several documents, each between marks with the name of a section of a regress file, in the order of that
# file; at the end, the blocks that are in no section.
sections() {
    awk '
        FNR == 1 { mark = "outside"; block = 0 }
        FNR == NR { if ($1 == "--" && $2 == "==") order[++n] = $3; next }
        /^<!-- begin .* -->$/ { mark = $3; next }
        /^<!-- end .* -->$/ { mark = "outside"; next }
        /^```/ { block = /^```(sql|text)$/; next }
        block && NF { sub(/ +$/, ""); text[mark] = text[mark] $0 "\n" }
        END {
            for (i = 1; i <= n; i++) { printf "%s", text[order[i]]; delete text[order[i]] }
            for (mark in text) printf "-- in no section: %s\n%s", mark, text[mark]
        }' "sql/$1.sql" "${@:2}"
}

# The output of a regress file between its lines "-- == begin" and "-- == end" (or the given line), likewise. psql
# repeats its input in it.
output() { sed -n "/^-- == begin/,/^-- == ${2:-end}\$/p" "expected/$1.out" | sed '/^-- == /d; s/ *$//; /^$/d'; }

same 'the ledger in tests/members.txt is that in sql/install.sql' \
    <(grep -v '^#' ../members.txt) <(sed -n '/^COPY ledger /,/^\\\.$/p' sql/install.sql | sed '1d; $d')
same 'the tour in docs/tour.md is sql/tour.sql with its output' <(blocks ../../docs/tour.md tour) <(output tour)
same 'the tour in README.md is the beginning of it' <(blocks ../../README.md tour) <(output tour cursor)
same 'the examples in docs/reference/ are sql/reference.sql with its output' \
    <(sections reference ../../docs/reference/*.md) <(output reference)
same 'the recipes in docs/validators.md are sql/validators.sql with its output' \
    <(sections validators ../../docs/validators.md) <(output validators)
same 'the steps in docs/from-mana-sync-go.md are sql/from_mana_sync_go.sql with its output' \
    <(sections from_mana_sync_go ../../docs/from-mana-sync-go.md) <(output from_mana_sync_go)
# The keys that the wire format reads and writes, and those in the first columns of the tables of the client guide.
wire_keys() {
    grep -ohP '\\"\K[A-Za-z]+(?=\\":)' ../../src/wire/response.rs ../../src/api/push.rs
    grep -ohP '\b(string|short_string|key|bool|integer|object|time|get)\(b?"\K[A-Za-z]+(?=")' ../../src/wire/changeset.rs
}
documented_keys() {
    sed -n '/^## Every key on the wire$/,/^## Clients of /p' ../../docs/clients.md | awk -F'|' '/^\| `/ { print $2 }' | grep -oP '`\K[A-Za-z]+'
}
same 'docs/clients.md has every key on the wire, and no other' <(wire_keys | LC_ALL=C sort -u) <(documented_keys | LC_ALL=C sort -u)
# The install script and the statements are read in the encoding of the database, whatever that is.
number=$((number + 1))
if grep -nP '[^\x00-\x7F]' ../../sql/*.sql $(find ../../src -name "*.sql") ../../mana_sync.control; then
    echo "not ok $number - what the server reads is ASCII"
    status=1
else
    echo "ok $number - what the server reads is ASCII"
fi
exit "$status"
