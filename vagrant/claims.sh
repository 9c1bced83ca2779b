# shellcheck shell=bash
# To be sourced: says claims, checks them, shows the evidence, as `make demo` does.

claims=0
failed=()

if [ -n "${NO_COLOR:-}" ] || ! [ -t 1 ]; then
    paint() { printf '%s' "$2"; }
else
    paint() { printf '\033[%sm%s\033[0m' "$1" "$2"; }
fi

scene() { printf '\n%s\n' "$(paint 1 " $1")"; }

# claim TEXT COMMAND…: says it, runs the command, and shows what that prints as the evidence; it fails where the command does.
claim() {
    local text=$1 found
    shift
    printf '   · %-76s' "$text"
    if found=$("$@" 2>&1); then
        paint 32 ✔
        claims=$((claims + 1))
    else
        paint 31 ✘
        failed+=("$text")
    fi
    echo
    while read -r line; do
        [ -z "$line" ] || printf '     %s\n' "$(paint 2 "$line")"
    done <<<"$found"
}

# The last line; whether all held.
end() {
    echo
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'Failed: %s\n' "${failed[@]}"
        paint '1;31' "${#failed[@]} failed, $claims claims true, in $SECONDS s."
    else
        paint '1;32' "All $claims claims checked and true, in $SECONDS s."
    fi
    echo
    [ ${#failed[@]} -eq 0 ]
}
