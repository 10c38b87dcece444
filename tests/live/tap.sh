# shellcheck shell=bash
# Prints what the Test Anything Protocol wants; to be sourced. What is tested is left to the
# scripts. The plan comes last, so that a script that dies half way is seen to have died.

TAP_NUMBER=0

# Every line of its standard input as a diagnostic.
diag() { sed 's/^/# /'; }

# The number sign begins a directive, so none may stand in a test's name.
ok() {
  TAP_NUMBER=$((TAP_NUMBER + 1))
  echo "ok $TAP_NUMBER - ${1//#/}"
}

not_ok() {
  TAP_NUMBER=$((TAP_NUMBER + 1))
  echo "not ok $TAP_NUMBER - ${1//#/}"
}

# skip TEST WHY
skip() {
  TAP_NUMBER=$((TAP_NUMBER + 1))
  echo "ok $TAP_NUMBER - ${1//#/} # SKIP $2"
}

skip_all() {
  echo "1..0 # SKIP $1"
  exit 0
}

# check TEST COMMAND...: ok when the command succeeds. What it says becomes diagnostics if not. It
# runs in this shell, for it may wait for a process of ours. WORKDIR is netns.sh's.
check() {
  local name=$1
  shift
  if "$@" >"$WORKDIR/said" 2>&1; then
    ok "$name"
  else
    not_ok "$name"
    { echo "$*" | cut -c -150 && cut -c -500 "$WORKDIR/said"; } | diag
  fi
}

plan() { echo "1..$TAP_NUMBER"; }
