# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# shellcheck disable=SC2154 # round, scenario and the settings are run's
# The scenario "blocks": what it costs to hand packets over to decoder threads, by block and by
# packet, and what decoder threads are worth; to be sourced by run. The program is examples/flows.cc.

# Mpps, by the work on a packet in ns. To send takes part of a CPU, too: of two CPUs the more the less
# the decoders can get through.
declare -A BLOCKS_STEPS=(
  [1000]="0.3 0.5 0.7 0.8 0.9 1.0 1.1 1.2 1.4"
  [4000]="0.10 0.15 0.20 0.25 0.30 0.35 0.40 0.45 0.50 0.55"
)
BLOCKS_SECONDS=1.0
BLOCKS_RING=4 # MiB: much less than what comes in a step, so that it can't stand in for keeping up

# flows CPUS PROGRAM-OPTION ARGUMENT...: sets WORDS to what examples/flows took, saw and dropped.
flows() {
  local cpus=$1 option=$2 mib=$RING
  shift 2
  [[ $option == -n ]] && mib=$BLOCKS_RING
  WORDS=$(in_see timeout --foreground 120 env PCAPV3_BUFFER="${mib}M" taskset -c "$cpus" \
    "$BUILDDIR/bench/program" ${option:+"$option"} "$WORKDIR/said" capturing \
    "$BUILDDIR/examples/flows" "$@" see0 -- "${TRAFFIC[@]}") || die "$scenario: flows failed"
  WORDS=${WORDS//$'\n'/ }
  WORDS+=" $(grep '^packets ' "$WORKDIR/said")"
  [[ $WORDS =~ cpu_ms\ ([0-9.]+).*packets\ ([0-9]+).*received\ ([0-9]+)\ dropped\ ([0-9]+) ]] ||
    die "flows: $WORDS"
  ((BASH_REMATCH[2] + BASH_REMATCH[4] == BASH_REMATCH[3])) ||
    die "flows: packets were neither decoded nor dropped: $WORDS"
  WORDS+=" $(awk -v ms="${BASH_REMATCH[1]}" -v n="${BASH_REMATCH[2]}" -v all="${BASH_REMATCH[3]}" \
    -v dropped="${BASH_REMATCH[4]}" 'BEGIN {
      printf "cpu_ns %.1f dropped_percent %.4f", ms * 1e6 / (n + !n), 100 * dropped / (all + !all)
    }')"
}

round_blocks() {
  local how step threads work rate
  local -a hows
  # The same load, with a CPU for all of the program's threads.
  traffic "$TRAFFIC_CPU" 1200000 64 400000 32
  in_turn "-n 0" "-n 1" "-p -n 0" "-p -n 1"
  hows=("${TURN[@]}")
  for how in "${hows[@]}"; do
    # shellcheck disable=SC2086 # words
    flows "$READER_CPU" "" $how
    record "same load $how" "$WORDS"
  done
  # Heavy decoders, on all CPUs. The sender has its CPU whenever it wants it, as interrupts have.
  in_turn "1000 1" "1000 2" "4000 1" "4000 2"
  hows=("${TURN[@]}")
  for how in "${hows[@]}"; do
    read -r work threads <<<"$how"
    for step in ${BLOCKS_STEPS[$work]}; do
      rate=$(awk -v m="$step" 'BEGIN { printf "%d", m * 1e6 }')
      traffic "$TRAFFIC_CPU" "$(packets "$rate" "$BLOCKS_SECONDS")" 64 "$rate" 32 "$EARLY_US"
      TRAFFIC=("${FIRST[@]}" "${TRAFFIC[@]}")
      flows "0-$(($(nproc) - 1))" -n -n "$threads" -w "$work"
      record "heavy $how" "$(prefixed "$step" "$(xargs -n 2 <<<"$WORDS" |
        grep -E '^(mpps|dropped_percent) ')")"
    done
  done
}

blocks_table() {
  awk -v csv="$RESULTS/blocks.csv" -v cpus="$(nproc)" -v light="${BLOCKS_STEPS[1000]}" \
    -v heavy="${BLOCKS_STEPS[4000]}" "$AWK_MEDIAN"'
    function load(name, key) {
      printf "| %s | %s | %s | %s |", name, cell(key ",mpps"), cell(key ",dropped_percent"),
        cell(key ",cpu_ns")
      return median(key ",cpu_ns")
    }
    function rates(work, steps,    m, step, j, threads, best, clean, dropped) {
      m = split(steps, step, " ")
      printf "\n| dropped, %%, at so many Mpps wanted; %d CPUs for everything, %d us of work a packet |",
        cpus, work / 1000
      for (j = 1; j <= m; j++) printf " %s |", step[j]
      printf " highest rate without a drop, Mpps |\n|---|"
      for (j = 0; j <= m; j++) printf "---|"
      printf "\n"
      for (threads = 1; threads <= 2; threads++) {
        printf "| %d decoder thread%s |", threads, (threads > 1 ? "s" : "")
        best = 0
        clean = 1
        for (j = 1; j <= m; j++) {
          dropped = median("heavy " work " " threads "," step[j] "_dropped_percent")
          printf " %s |", (dropped > 0 && dropped < 0.01 ? "<0.01" : fig(dropped))
          if (dropped > 0) clean = 0
          if (clean) best = median("heavy " work " " threads "," step[j] "_mpps")
        }
        printf " %s |\n", fig(best)
      }
    }
    BEGIN {
      read_csv(csv)
      printf "\n| 64 bytes, 0.4 Mpps wanted, the program on one CPU | traffic, Mpps | dropped, %% | CPU of all threads, ns a packet | hand-off, ns a packet |\n"
      printf "|---|---|---|---|---|\n"
      b0 = load("walked by block, no hand-off", "same load -n 0"); printf " |\n"
      b1 = load("handed over by block", "same load -n 1"); printf " %.1f |\n", b1 - b0
      p0 = load("read by callback, no hand-off", "same load -p -n 0"); printf " |\n"
      p1 = load("handed over by packet, copied", "same load -p -n 1"); printf " %.1f |\n", p1 - p0
      ratio = b1 > b0 ? sprintf("%.1f times", (p1 - p0) / (b1 - b0)) : "that by block does not show"
      printf "\nA hand-off by packet against one by block: %s (goal: 5 times).\n", ratio
      rates(1000, light)
      rates(4000, heavy)
    }'
}
