# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# shellcheck disable=SC2153,SC2154 # WORDS, round and the settings are run's
# The scenario "limits": what a handle holds while its program is stopped, and what it costs before
# a packet has come, ours beside stock's; to be sourced by run. see2 is without offloads. A list of
# interfaces is compared with a handle of stock's for each of them.

link_limits() { in_see "$BUILDDIR/bench/sender" see2 0 64; }

# stopped NAME DEVICE COUNT RATE STALL_S [ARGUMENT]...: tcpdumps of both libraries side by side,
# which are stopped in the midst of COUNT packets at RATE a second, on all interfaces together.
stopped() {
  local what=$1 device=$2 count=$3 rate=$4 stall=$5 library interface file id
  local around dropped
  local -a ids=() started=()
  shift 5
  around=$(awk -v n="$count" -v r="$rate" -v s="$stall" 'BEGIN { print (n / r - s) / 2 }')
  for library in "${TURN[@]}"; do
    for interface in $([[ $library == ours ]] && echo "$device" || echo "${device//,/ }"); do
      file=$WORKDIR/stopped.$library.$interface
      start_tcpdump "$NS_SEE" "$file" env "$(setting "$library")" "$BUILDDIR/pcapv3" \
        tcpdump -n -i "$interface" -Z root -w /dev/null "$@" || die "tcpdump: $(<"$file")"
      ids+=("$STARTED") started+=("$library $file")
    done
  done
  start "$NS_PLAY" "$BUILDDIR/bench/sender" "${device//see/play}" "$count" 200 "$rate" >/dev/null
  sleep "$around" # not in hope: it is what is measured
  kill -STOP "${ids[@]}"
  sleep "$stall"
  kill -CONT "${ids[@]}"
  finish "$STARTED" || die "the sender failed"
  sleep 1.2 # stock's last block
  kill -INT "${ids[@]}"
  for id in "${ids[@]}"; do finish "$id" || die "tcpdump failed"; done
  for library in "${TURN[@]}"; do
    dropped=0
    for file in "${started[@]}"; do
      [[ $file == "$library "* ]] || continue
      file=${file#* }
      dropped=$((dropped + $(sed -n 's/ packets\? dropped by kernel$//p' "$file")))
    done
    record "$library" "${what}_dropped $dropped"
  done
}

# limits LIBRARY NAME ARGUMENT...: records what bench/limits says.
limits() {
  local library=$1 what=$2 words
  shift 2
  words=$(in_see timeout --foreground 300 env "$(setting "$library")" taskset -c "$READER_CPU" \
    "$BUILDDIR/bench/limits" "$@" 2>"$WORKDIR/limits.said") ||
    die "limits $library $*: $(<"$WORKDIR/limits.said")"
  record "$library" "$(prefixed "$what" "$words")"
}

# Each on a port of its own, all at the same time.
delays() {
  local library timeout port=0 id
  local -a ids=()
  for library in "${TURN[@]}"; do
    for timeout in 0 10000; do
      start "$NS_SEE" timeout 60 env "$(setting "$library")" "$BUILDDIR/bench/limits" \
        -t "$timeout" \
        delay "see$port" ip netns exec "$NS_PLAY" "$BUILDDIR/bench/sender" "play$port" 120 200 20 \
        >"$WORKDIR/delay.$library.$timeout"
      ids+=("$STARTED")
      port=$((port + 1))
    done
  done
  for id in "${ids[@]}"; do finish "$id" || die "a reader failed"; done
  for library in "${TURN[@]}"; do
    for timeout in 0 10000; do
      record "$library" "$(prefixed "to_$timeout" \
        "$(grep '^delay_ms ' "$WORKDIR/delay.$library.$timeout")")"
    done
  done
}

# Without the addresses that nmap needs, nothing but what is sent is on the link.
nmap_limits() {
  local library
  for library in "${TURN[@]}"; do nmap_scan "$library"; done
  { ip -n "$NS_PLAY" addr flush dev play0 && ip -n "$NS_SEE" addr flush dev see0 &&
    ip -n "$NS_PLAY" link set play0 arp off && ip -n "$NS_SEE" link set see0 arp off; } ||
    die "the link keeps its addresses"
}

round_limits() {
  local library
  in_turn stock ours
  if has tcpdump; then
    stopped slow see0 800 100 5
    stopped fast see0 10000 1000 7
    stopped raised see0 800 100 5 -B 4096
    stopped list see0,see1 400 200 1
    stopped short see0 4000 1000 1 --immediate-mode -s 96
    stopped bare see2 4000 1000 1 --immediate-mode
  fi
  for library in "${TURN[@]}"; do
    limits "$library" plain memory see0
    limits "$library" small -i -b 128 memory see0
    limits "$library" immediate -i memory see0
    limits "$library" plain open_close see0
    limits "$library" immediate -i open_close see0
    limits "$library" list open_close see0,see1
    limits "$library" plain locked see0
    limits "$library" plain address see0
    limits "$library" plain files see0
    limits "$library" immediate -i files see0
    limits "$library" plain -b 128 most see0
    limits "$library" immediate -i -b 128 most see0
    traffic "$TRAFFIC_CPU" 2000000 64 1000000 32
    read_with "$library" -c loop count
    record "$library" "$(prefixed default "$WORDS")"
  done
  delays
  if has nmap; then nmap_limits; fi
}

# As rows in run.
limits_rows() {
  cat <<END
limits||what a handle holds and costs, at its defaults; tcpdumps side by side, stopped by SIGSTOP
limits|slow_dropped|stopped for 5 s at 100/s: dropped of 800|ours-stock <= 0
limits|fast_dropped|stopped for 7 s at 1,000/s: dropped of 10,000|ours-stock <= 0
limits|raised_dropped|-B 4096, stopped for 5 s at 100/s: dropped of 800|ours-stock <= 0
limits|list_dropped|two interfaces, stopped for 1 s at 100/s each: dropped of 400|ours-stock <= 0
limits|short_dropped|--immediate-mode -s 96, stopped for 1 s at 1,000/s: dropped of 4,000|ours-stock <= 0
limits|bare_dropped|--immediate-mode, no offloads, stopped for 1 s at 1,000/s: dropped of 4,000|ours-stock <= 0
limits|plain_mib|memory of each of 100 handles, MiB|(ours-1)/stock <= 2.2
limits|plain_mapped_mib|of that mapped, MiB|
limits|small_mib|memory of each of 100 handles, immediate mode with a buffer of 128 KiB, MiB|(ours-1)/stock <= 2.2
limits|small_mapped_mib|of that mapped, MiB|
limits|immediate_mib|memory of each of 100 handles, immediate mode, MiB|(ours-1)/stock <= 2.2
limits|immediate_mapped_mib|of that mapped, MiB|
limits|plain_many_open_ms|to open one of 100 handles, ms|
limits|small_many_open_ms|to open one of 100 handles, immediate mode with a buffer of 128 KiB, ms|
limits|plain_open_ms|to open a handle, ms|
limits|plain_close_ms|to close it, ms|
limits|plain_both_ms|both, ms|ours/stock <= 1.3
limits|immediate_open_ms|to open a handle in immediate mode, ms|
limits|immediate_close_ms|to close it, ms|
limits|immediate_both_ms|both, ms|ours/stock <= 1.6
limits|list_open_ms|to open a list of two interfaces, ms|
limits|list_close_ms|to close it, ms|
limits|list_both_ms|both, ms|ours/stock <= 1.3
limits|plain_opened|opened after mlockall(MCL_FUTURE), RLIMIT_MEMLOCK 8 MiB (1: yes)|ours >= 1
limits|plain_allocated|30 MiB allocated once it is open, of seven RLIMIT_AS from 40 to 100 MiB|ours-stock >= 0
limits|plain_first_files|descriptors of a process's first handle|
limits|plain_files|descriptors of a further one|ours <= 3
limits|plain_files_given_out|the same, when one was given out|
limits|immediate_first_files|descriptors of a process's first handle in immediate mode|
limits|immediate_files|descriptors of a further one|ours <= 5
limits|immediate_files_given_out|the same, when one was given out|ours <= 6
limits|plain_handles|handles with 1,024 files|ours >= 340
limits|immediate_handles|handles in immediate mode with 1,024 files|ours >= 200
limits|ms|nmap of 1,000 TCP ports, ms|ours/stock <= 1.1
limits|default_cpu_ns|pcap_loop, 64 bytes at 1 Mpps: reader CPU, ns a packet|stock/ours >= 1
limits|default_dropped_percent|the same: dropped, %|
limits|to_0_delay_ms|longest delay at 20/s for 6 s, time-out 0, ms|ours <= 250
limits|to_10000_delay_ms|the same, time-out 10 s, ms|ours <= 250
END
}
