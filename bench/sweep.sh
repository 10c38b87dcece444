# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# shellcheck disable=SC2154 # round, here and the settings are run's
# The scenario "sweep": immediate mode at all rates, stock's (a wake-up for each packet), by blocks
# (PCAPV3_IMMEDIATE=v3) and adaptive; to be sourced by run. The question is whether adaptive follows
# the better of the other two.

# Packets a second. Primes: a period that is a multiple of the retire timer's always meets it at one
# phase. Single packets as long as the sender, which has to wake a V2 reader for each, makes it;
# batches of 32 from SWEEP_BATCHED on.
SWEEP_STEPS=(103 307 1009 3001 10007 20011 50021 100003 200003 500009 1000003 most)
SWEEP_BATCHED=500009
SWEEP_SECONDS=0.6
SWEEP_LEAST=300  # packets, or there is no 99th percentile
SWEEP_TIMED=5000 # of a step, about so many: taking the time costs more than reading
SWEEP_LOSS=1     # per cent: who drops more is not the better one, however quick
SWEEP_LIBRARIES=(stock v3 adaptive)

round_sweep() {
  local where step library rate batch count cpu
  local -a steps libraries
  in_turn "${SWEEP_STEPS[@]}"
  steps=("${TURN[@]}")
  in_turn "${SWEEP_LIBRARIES[@]}"
  libraries=("${TURN[@]}")
  for where in apart together; do
    cpu=$TRAFFIC_CPU
    [[ $where == apart ]] || cpu=$READER_CPU
    for step in "${steps[@]}"; do
      rate=$step batch=1
      [[ $step != most ]] || rate=0
      if ((rate == 0 || rate >= SWEEP_BATCHED)); then batch=32; fi
      count=$(packets $((rate > 0 ? rate : 1500000)) "$SWEEP_SECONDS")
      ((count >= SWEEP_LEAST)) || count=$SWEEP_LEAST
      traffic "$cpu" "$count" 64 "$rate" $batch
      for library in "${libraries[@]}"; do
        # An odd number takes the time of packets at all places of a batch.
        PCAPV3_STATS=$WORKDIR/summary \
          read_with "$library" -i -e $((count / SWEEP_TIMED | 1)) latency
        if [[ $library == adaptive ]]; then # of the handle that was closed last
          WORDS+=" $(tail -n 1 "$WORKDIR/summary" | sed -nE \
            's/.*, delivered ([0-9]+),.* frames ([0-9]+), switches ([0-9]+).*/\1 \2 \3/p' |
            awk '{ print "frames_percent", 100 * $2 / ($1 + !$1), "switches", $3 }')"
        fi
        record "$where $library" "$(prefixed "$step" "$(xargs -n 2 <<<"$WORDS" |
          grep -E '^(mpps|median_us|p99_us|cpu_ns|[a-z]+_percent|packets_a_wait|switches) ')")"
      done
    done
  done
}

# shellcheck disable=SC2016 # awk's, not the shell's
SWEEP_AWK=$AWK_MEDIAN'
  function of(library, measure) { return median(where " " library "," step "_" measure) }
  function dropped(library) { return of(library, "dropped_percent") }
  function better(measure,    best, i, x) { # of the two that adaptive is made of
    best = ""
    for (i = 1; i <= 2; i++) {
      x = of(library[i], measure)
      if (dropped(library[i]) <= loss && (best == "" || x < best)) best = x
    }
    return best
  }
  BEGIN {
    read_csv(csv)
    steps = split(all_steps, all_step, " ")
    libraries = split(all_libraries, library, " ")
    titles["apart"] = "traffic on a CPU of its own"
    titles["together"] = "reader and traffic on one CPU"
  }'

sweep_awk() {
  awk -v csv="$RESULTS/sweep.csv" -v all_steps="${SWEEP_STEPS[*]}" -v loss="$SWEEP_LOSS" \
    -v all_libraries="${SWEEP_LIBRARIES[*]}" "${@:2}" "$SWEEP_AWK$1"
}

# Three figures in a cell, and how adaptive's compares with the better one.
sweep_table() {
  # shellcheck disable=SC2016 # awk's, not the shell's
  sweep_awk '
    function three(measure,    i, text) {
      for (i = 1; i <= libraries; i++) text = text (i > 1 ? " · " : "") fig(of(library[i], measure))
      return text
    }
    function ratio(measure,    best) {
      best = better(measure)
      return best > 0 ? of("adaptive", measure) / best : 0
    }
    BEGIN {
      for (w = 1; w <= split("apart together", wheres, " "); w++) {
        where = wheres[w]
        printf "\n| packets/s; %s | median, us | times the better | 99th percentile, us | reader CPU, %% of one | times the better | ns a packet | dropped, %% | by frames, %% |\n",
          titles[where]
        printf "|---|---|---|---|---|---|---|---|---|\n"
        quick = cheap = neither = 0
        for (s = 1; s <= steps; s++) {
          step = all_step[s]
          late = ratio("median_us")
          cpu = ratio("cpu_percent")
          quick += late <= 1.5
          cheap += cpu <= 1.3
          neither += late > 1.5 && cpu > 1.3
          printf "| %s%s | %s | %.2f | %s | %s | %.2f | %s | %s | %s |\n", step,
            (step == "most" || step >= batched ? ", batches of 32" : ""), three("median_us"), late,
            three("p99_us"), three("cpu_percent"), cpu, three("cpu_ns"), three("dropped_percent"),
            fig(of("adaptive", "frames_percent"))
        }
        printf "\nOf %d steps adaptive has the better latency (at most 1.5 times) at %d, the better CPU (at most 1.3 times) at %d, and neither at %d.\n",
          steps, quick, cheap, neither
      }
    }' -v batched="$SWEEP_BATCHED"
}

# sweep_picture FILE TITLE WHERE Y_NAME MEASURES CHART_OPTION...: the lines of the first are solid.
sweep_picture() {
  # shellcheck disable=SC2016 # awk's, not the shell's
  sweep_awk '
    BEGIN {
      split("2 3 1", colours, " ")
      n = split(measures, measure, " ")
      for (m = 1; m <= n; m++) {
        for (i = 1; i <= libraries; i++) {
          name = library[i] (m > 1 ? ", 99th" : "")
          printf "style\t%s\t%s\t%s\n", name, colours[i], (m > 1 ? "3 4" : "none")
          for (s = 1; s <= steps; s++) {
            step = all_step[s]
            printf "%s\t%s\t%s%s\n", name, of(library[i], "mpps") * 1e6, of(library[i], measure[m]),
              (dropped(library[i]) > loss ? "\thollow" : "")
          }
        }
      }
    }' -v where="$3" -v measures="$5" | draw "$1" -v title="$2" -v y_name="$4" -v log_x=1 \
    -v x_name="packets/s of 64 bytes (hollow: more than $SWEEP_LOSS % dropped)" "${@:6}"
}

sweep_pictures() {
  local where
  local -A on=([apart]="each on its own CPU" [together]="all on one CPU")
  for where in apart together; do
    sweep_picture "sweep_latency_$where.svg" "Immediate mode, from time stamp to callback; ${on[$where]}" \
      "$where" "microseconds, median and 99th percentile" "median_us p99_us" -v log_y=1
    sweep_picture "sweep_cpu_$where.svg" "Immediate mode, what reading takes; ${on[$where]}" \
      "$where" "reader CPU, % of one" cpu_percent
  done
}
