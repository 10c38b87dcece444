# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# The ground that live tests stand on; to be sourced. It owns two network namespaces joined by a
# veth pair, a work folder, processes in the background, and that nothing of it is left when the
# script ends, however it ends. What is played, captured and compared is left to the scripts.
#
# Nothing but what a script sends is ever on the link: no addresses, no IPv6, no ARP.

export LC_ALL=C # tools' texts are read
PATH=$PATH:/usr/sbin:/sbin
# What the user has set is not what is to be tested.
unset LD_PRELOAD LD_LIBRARY_PATH "${!PCAPV3@}"

NS_PLAY=pcapv3-play-$$
NS_SEE=pcapv3-see-$$
WORKDIR=$(mktemp -d) || exit 1

# Removes everything, in the order in which one thing holds the other.
clean_up() {
  local ns pid
  ((BASHPID == $$)) || return # a child that was hit before it became its program
  trap '' INT TERM HUP PIPE # once more Ctrl-C must not leave half of it
  for pid in $(jobs -pr); do kill "$pid"; done
  for pid in $(jobs -pr); do wait_until 3 ended_when_told "$pid" || kill -KILL "$pid"; done
  wait
  # A script may have named more of them, after these two.
  for ns in /run/netns/{"$NS_PLAY","$NS_SEE"}{,-*}; do
    [[ -e $ns ]] && ip netns delete "${ns##*/}"
  done
  rm -rf "$WORKDIR"
} >/dev/null 2>&1

# bash runs the EXIT trap when exit does, so every signal is made an exit with its usual status.
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM

# Prints why live tests can't be run here; fails when they can.
why_no_live_tests() {
  if ((EUID != 0)); then
    echo "needs root, to make network namespaces"
  elif ! command -v ip >/dev/null; then
    echo "needs ip (package iproute2)"
  elif [[ ! -e /proc/self/ns/net ]]; then
    echo "needs /proc to be mounted"
  elif ! ip netns add "$NS_PLAY" 2>"$WORKDIR/why"; then
    echo "can't make a network namespace: $(<"$WORKDIR/why")"
  elif ! ip netns exec "$NS_PLAY" true 2>"$WORKDIR/why"; then
    ip netns delete "$NS_PLAY"
    # iproute2's lib/namespace.c: netns_switch
    case $(<"$WORKDIR/why") in
      *make-rslave*) echo "ip netns exec needs a root folder that is a mount point, which that of a" \
        "chroot is not: mount --bind it on itself, before chroot" ;;
      */sys*) echo "ip netns exec needs a folder /sys" ;;
      *) echo "can't run a program in a network namespace: $(<"$WORKDIR/why")" ;;
    esac
  else
    ip netns delete "$NS_PLAY"
    return 1
  fi
}

need_root() {
  local why
  if why=$(why_no_live_tests); then
    echo "1..0 # SKIP $why"
    exit 0
  fi
}

make_link() {
  local ns
  for ns in "$NS_PLAY" "$NS_SEE"; do
    ip netns add "$ns" &&
      { [[ ! -e /proc/sys/net/ipv6 ]] || ip netns exec "$ns" \
        tee /proc/sys/net/ipv6/conf/{all,default}/disable_ipv6 <<<1 >/dev/null; } &&
      ip -n "$ns" link set lo up || return
  done
  # Both ends are made where they belong, so that the machine's own namespace never has them.
  ip link add play0 netns "$NS_PLAY" mtu 65535 type veth \
    peer name see0 netns "$NS_SEE" mtu 65535 &&
    ip -n "$NS_PLAY" link set play0 arp off up &&
    ip -n "$NS_SEE" link set see0 arp off up &&
    wait_until 5 carrier "$NS_PLAY" play0 &&
    wait_until 5 carrier "$NS_SEE" see0
}

# make_ports COUNT: more such pairs, until there are see0 to see(COUNT-1).
make_ports() {
  local i
  for ((i = 1; i < $1; i++)); do
    echo "link add play$i netns $NS_PLAY mtu 65535 type veth peer name see$i netns $NS_SEE mtu 65535"
  done | ip -batch - &&
    for ((i = 1; i < $1; i++)); do echo "link set play$i arp off up"; done | ip -n "$NS_PLAY" -batch - &&
    for ((i = 1; i < $1; i++)); do echo "link set see$i arp off up"; done | ip -n "$NS_SEE" -batch - ||
    return
  for ((i = 1; i < $1; i++)); do wait_until 5 carrier "$NS_SEE" "see$i" || return; done
}

carrier() { [[ $(ip -n "$1" -o link show "$2") == *LOWER_UP* ]]; }

in_play() { ip netns exec "$NS_PLAY" "$@"; }
in_see() { ip netns exec "$NS_SEE" "$@"; }

# wait_until SECONDS COMMAND...: asks until COMMAND succeeds; fails when the time is over.
wait_until() {
  local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
  shift
  until "$@"; do
    ((${EPOCHREALTIME/./} < end)) || return 1
    sleep 0.02
  done
}

# Whether a process that this script has in the background has ended. The number alone does not
# tell: it may be another process's by now.
is_gone() { [[ $'\n'$(jobs -pr)$'\n' != *$'\n'"$1"$'\n'* ]]; }

# Tells it more than once: a signal is lost on a child that has not become its program yet.
ended_when_told() { is_gone "$1" || { kill "$1" && false; }; }

# start NAMESPACE COMMAND...: runs it in the background, as process $STARTED: ip and the launcher
# become the program, they do not stay as its parents. To be called with its output redirected.
start() {
  ip netns exec "$@" &
  STARTED=$!
}

# finish PID: its exit status; 124 when it had to be killed because it did not end in 10 seconds.
finish() {
  local status=124
  if wait_until 10 is_gone "$1"; then
    wait "$1"
    status=$?
  else
    kill -KILL "$1"
    wait "$1" 2>/dev/null # bash would tell that it was killed
  fi
  ((status == 0)) || echo "process $1 ended with status $status"
  return "$status"
}

# start_tcpdump NAMESPACE STDERR COMMAND...: starts it and waits until it captures.
start_tcpdump() {
  local ns=$1 stderr=$2
  shift 2
  start "$ns" "$@" 2>"$stderr"
  wait_until 10 says_listening "$STARTED" "$stderr" && ! is_gone "$STARTED"
}

says_listening() { is_gone "$1" || grep -q 'listening on' "$2"; }

# adds_up FILE: tcpdump's three lines there, "N packets captured", "N received by filter" and "N dropped
# by kernel".
adds_up() {
  local captured received dropped
  captured=$(sed -n 's/ packets\? captured$//p' "$1")
  received=$(sed -n 's/ packets\? received by filter$//p' "$1")
  dropped=$(sed -n 's/ packets\? dropped by kernel$//p' "$1")
  echo "captured $captured, received $received, dropped $dropped"
  [[ -n $captured ]] && ((captured > 0 && captured + dropped == received))
}

# The libpcap files that a process has mapped, one a line, as that process knows them: in a chroot,
# /proc tells where they are for its mount namespace, which ip netns exec has made.
mapped_libpcap() {
  local root file
  root=$(readlink "/proc/$1/root")
  grep -o '/.*/libpcap[^/]*$' "/proc/$1/maps" | sort -u |
    while read -r file; do echo "${file#"${root%/}"}"; done
}

# The distribution's libpcap, which its tcpdump links; a library with the same soname as ours.
stock_library() {
  ldd "$(command -v tcpdump)" | awk -v name="${LIBRARY##*/}" '$1 == name { print $3 }' |
    xargs -r readlink -f
}

# debug_shell NEXT: a shell on the terminal, in the namespace that has see0, instead of a script's
# tests. It says what would be next. All goes when it ends.
debug_shell() {
  local shell=(bash --norc)
  [[ -e /run/netns/$NS_SEE ]] && shell=(ip netns exec "$NS_SEE" "${shell[@]}")
  if { : </dev/tty >/dev/tty; } 2>/dev/null; then exec </dev/tty >/dev/tty 2>/dev/tty; fi
  cat >&2 <<END
This shell is in network namespace $NS_SEE, with see0; play0 is in $NS_PLAY:
ip netns exec \$NS_PLAY COMMAND. The work folder is $WORKDIR.
Next: $1
END
  export NS_PLAY NS_SEE WORKDIR PATH=$BUILDDIR:$PATH PS1="${NS_SEE##*-} \\w\\$ "
  "${shell[@]}"
  exit 0
}
