# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Prints what the Test Anything Protocol wants; to be sourced. What is tested is left to the
# scripts. The plan comes last, so that a script that dies half way is seen to have died. Tests are
# not numbered, so that those of a program can stand in between.
#
# ONLY=TEXT in the environment has a script end at once, as skipped, if the text, in upper or lower
# case, is neither in its name nor in a line with one of its checks. A script with SELECTS=names asks
# is_selected for each test instead.

TAP_COUNT=0

# Every line of its standard input as a diagnostic.
diag() { sed 's/^/# /'; }

# The number sign begins a directive, so none may stand in a test's name.
ok() {
  TAP_COUNT=$((TAP_COUNT + 1))
  echo "ok - ${1//#/}"
}

not_ok() {
  TAP_COUNT=$((TAP_COUNT + 1))
  echo "not ok - ${1//#/}"
}

# skip TEST WHY
skip() {
  TAP_COUNT=$((TAP_COUNT + 1))
  echo "ok - ${1//#/} # SKIP $2"
}

# count_more COUNT: so many tests were printed by a program.
count_more() { TAP_COUNT=$((TAP_COUNT + $1)); }

skip_all() {
  echo "1..0 # SKIP $1"
  exit 0
}

# check TEST COMMAND...: ok when the command succeeds. What it says becomes diagnostics if not. It
# runs in this shell, for it may wait for a process of ours. WORKDIR is netns.sh's.
check() {
  local name=$1
  shift
  if [[ -n ${DEBUG_SHELL-} && $(type -t debug_shell) == function ]]; then
    debug_shell "$name: $*" # netns.sh's; what the first test stands on is there
  fi
  if "$@" >"$WORKDIR/said" 2>&1; then
    ok "$name"
  else
    not_ok "$name"
    { echo "$*" | cut -c -150 && cut -c -500 "$WORKDIR/said"; } | diag
  fi
}

plan() { echo "1..$TAP_COUNT"; }

is_selected() { [[ -z ${ONLY-} || ${1,,} == *"${ONLY,,}"* ]]; } # NAME

names_here() {
  basename "$0" .test
  grep -E '^ *(check|skip|holds|captures|maps|runs|refuses|ignored_by_loader) ' "$0"
}
[[ ${SELECTS-} == names ]] || is_selected "$(names_here)" ||
  skip_all "\"$ONLY\" is in no name here"
