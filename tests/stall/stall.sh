# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# What a comparison of stalled readers stands on; to be sourced, after netns.sh. The links are see0,
# see1 for lists, and see2 without offloads. What is measured is stall.cc's, what is right
# judge.awk's.

make_stall_links() {
  local i
  make_link && make_ports 3 || return
  for i in 0 1 2; do
    ip -n "$NS_PLAY" link set "play$i" mtu 1500 &&
      ip -n "$NS_SEE" link set "see$i" mtu 1500 || return
  done
  in_see "$BUILDDIR/stall" --plain see2
}

# stall RATE SIZE STALL_MS: measures the cells of its standard input, on the same traffic.
stall() {
  in_see timeout --foreground $((120 + $3 / 1000)) "$BUILDDIR/stall" "/run/netns/$NS_PLAY" "$@"
}

judge() { awk -f "$SRCDIR/tests/stall/judge.awk" "$@"; }
