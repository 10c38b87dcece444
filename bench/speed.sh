# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# shellcheck disable=SC2154 # round, scenario and here are run's
# The scenarios that tell what reading costs and how much can be read, of this library, of stock
# libpcap, of bare rings and of programs; to be sourced by run, which has what they are made of.
# A round_NAME makes all the measurements of one round of a scenario.

RING=64       # MiB, of every ring but the curve's
CURVE_RING=16 # less than what comes in a step of the curve: what a ring holds is no rate
CURVE_STEPS=(0.1 0.3 0.5 0.7 0.9 1.0 1.1 1.2 1.4 most) # Mpps
CURVE_SECONDS=0.7
RAW=("raw V1" "raw V2" "raw V3")
: "${CAPTURES:=$(echo "$BUILDDIR"/source/tcpdump-*/tests)}"
: "${REPLAY:=$CAPTURES/afs.pcap}" # 601 packets, of 60 to 1,514 bytes

# in_turn WORD...: sets TURN to them; in every other round it goes the other way round.
in_turn() {
  local word
  TURN=()
  for word in "$@"; do
    if ((round % 2)); then TURN+=("$word"); else TURN=("$word" "${TURN[@]}"); fi
  done
}

# prefixed PREFIX NAME VALUE...
prefixed() { xargs -n 2 <<<"${*:2}" | sed "s/^/$1_/"; }

# traffic_on_one_cpu COUNT SIZES RATE BATCH: traffic on the reader's CPU, which it has whenever it wants it, as a
# network card's interrupts do. With an equal share it would be slowed down by who reads much, and
# the load that is offered would depend on the reader.
traffic_on_one_cpu() {
  traffic "$READER_CPU" "$@" "$EARLY_US"
  TRAFFIC=("${FIRST[@]}" "${TRAFFIC[@]}")
}
# As a card that waits that long to raise an interrupt: to take the CPU away from the reader for each
# batch costs more than reading it does.
EARLY_US=200
FIRST=(chrt -f 1)
"${FIRST[@]}" true 2>/dev/null || FIRST=(nice -n -20)

# packets PER_SECOND SECONDS: so many, in whole batches.
packets() { awk -v r="$1" -v s="$2" 'BEGIN { print int(r * s / 32) * 32 }'; }

# read_with READER ARGUMENT...: sets WORDS to the figures of a handle (stock or ours) or a bare ring.
read_with() {
  local name=$1
  shift
  if [[ $name == raw* ]]; then set -- -r "${name#raw V}" "$@"; fi
  WORDS=$(run_reader "$name" "$@") || exit
  expect_all_came "$WORDS"
}

round_patch() {
  local where name
  for where in apart together; do
    local load=(2000000 64 1000000 32)
    if [[ $where == apart ]]; then
      traffic "$TRAFFIC_CPU" "${load[@]}"
    else
      traffic_on_one_cpu "${load[@]}"
    fi
    in_turn "${RAW[@]}" stock ours
    for name in "${TURN[@]}"; do
      read_with "$name" -b "$RING" count
      record "$where $name" "$(awk '
        { for (i = 1; i < NF; i += 2) is[$i] = $(i + 1) }
        END {
          kpps = is["packets"] / is["received"] * is["mpps"] * 1e3
          print "mpps", is["mpps"], "captured_kpps", kpps, "cpu_percent", is["cpu_ns"] * kpps / 1e4,
            "dropped_percent", is["dropped_percent"]
        }' <<<"${WORDS//$'\n'/ }")"
    done
  done
}

round_read() {
  local what size call name
  in_turn 64/loop 64/dispatch 64/next_ex 1514/next_ex 64/floor 1514/floor
  local -a whats=("${TURN[@]}")
  for what in "${whats[@]}"; do
    size=${what%/*} call=${what#*/}
    if ((size == 64)); then
      traffic "$TRAFFIC_CPU" 2000000 64 1000000 32
    else
      traffic "$TRAFFIC_CPU" 640000 1514 400000 32
    fi
    if [[ $call == floor ]]; then
      read_with "raw V3" -b "$RING" count
      record other "$(prefixed "floor_$size" "$WORDS")"
      continue
    fi
    in_turn stock ours
    for name in "${TURN[@]}"; do
      read_with "$name" -b "$RING" -c "$call" count
      record "$name" "$(prefixed "${call}_$size" "$WORDS")"
    done
  done
}

round_sizes() {
  local name size sizes batch
  for size in 64 128 512 1514 imix; do
    sizes=$size batch=32
    [[ $size == imix ]] && sizes=$IMIX batch=1
    traffic "$TRAFFIC_CPU" 576000 "$sizes" 400000 "$batch"
    in_turn stock ours
    for name in "${TURN[@]}"; do
      read_with "$name" -b "$RING" count
      record "$name" "$(prefixed "$size" "$WORDS")"
    done
  done
}

round_replay() {
  local name packets loops
  packets=$(tcpdump -r "$REPLAY" --count 2>/dev/null | awk '{ print $1 }')
  ((packets > 0)) || die "no packets in $REPLAY"
  loops=$((600000 / packets))
  SENT=$((loops * packets))
  # shellcheck disable=SC2016 # the inner shell's
  TRAFFIC=(ip netns exec "$NS_PLAY" taskset -c "$TRAFFIC_CPU" bash -c 'set -o pipefail
    tcpreplay -q -i play0 --topspeed --preload-pcap --loop="$1" "$2" 2>&1 |
      awk "/^Rated:/ { print \"mpps\", \$(NF - 1) / 1e6 } { all = all \"\n\" \$0 }
        END { if (all !~ /Rated:/) { print all >\"/dev/stderr\"; exit 1 } }"' \
    replay "$loops" "$REPLAY")
  in_turn stock ours
  for name in "${TURN[@]}"; do
    read_with "$name" -b "$RING" count
    record "$name" "$WORDS"
  done
}

# capture LIBRARY PROGRAM INTERFACE MIB [-n]: sets WORDS to what an unmodified program captured,
# dropped (as it tells) and took. LIBRARY "none": it uses no libpcap.
capture() {
  local library=$1 program=$2 interface=$3 mib=$4 ready
  local -a command
  case $program in
    tcpdump)
      ready="listening on"
      command=(tcpdump -n -i "$interface" -B $((mib * 1024)) -Z root -w "$WORKDIR/captured")
      ;;
    dumpcap)
      ready="File: "
      command=(dumpcap -q -i "$interface" -B "$mib" -w "$WORKDIR/captured")
      ;;
    netsniff-ng) # -A -N: it leaves the machine's settings alone
      ready="Running!"
      command=(netsniff-ng -A -N -s -i "$interface" -S "${mib}MiB" -o "$WORKDIR/captured.pcap")
      ;;
  esac
  [[ $library == none ]] || command=("$BUILDDIR/pcapv3" "${command[@]}")
  WORDS=$(in_see timeout --foreground 120 env "$(setting "$library")" \
    PCAPV3_BUFFER="${mib}M" taskset -c "$READER_CPU" "$BUILDDIR/bench/program" "${@:5}" \
    "$WORKDIR/said" "$ready" "${command[@]}" -- "${TRAFFIC[@]}") || die "$scenario: $program failed"
  # What was dropped is part of what tcpdump tells it received, and not of what the others tell. What
  # dumpcap calls flushed are packets that came to it after the interrupt: it throws them
  # away itself, which has nothing to do with the rate.
  WORDS+=" $(tr '\r' '\n' <"$WORKDIR/said" | awk '
    /packets captured$/ || / packets passed filter$/ { captured = $1 }
    /packets received by filter$/ { received = $1 }
    / packets incoming / { seen = $1 }
    /packets dropped by kernel$/ || / packets failed filter / { dropped = $1 }
    /^Packets captured: / { captured = $3 }
    /^Packets received\/dropped on / {
      split($6, of, "/")
      split($7, by, /[:\/]/) # (pcap:N/dumpcap:N/flushed:N/...
      received = of[1] + of[2]
      dropped = by[2] + by[4]
    }
    END {
      if (seen != "") received = seen + dropped
      if (received == "" || dropped == "") exit 1
      print "captured", captured + 0, "received", received, "dropped", dropped,
        "dropped_percent", 100 * dropped / (received + !received)
    }')" || die "$program did not tell what it captured: $(<"$WORKDIR/said")"
  [[ $WORDS =~ cpu_ms\ ([0-9.]+).*captured\ ([0-9]+).*dropped\ ([0-9]+) ]] || die "$program: $WORDS"
  ((BASH_REMATCH[2] > 0)) || die "$program captured nothing"
  WORDS+=" cpu_ns $(awk -v ms="${BASH_REMATCH[1]}" -v n="${BASH_REMATCH[2]}" \
    'BEGIN { printf "%.1f", ms * 1e6 / n }')"
  # Ended with the traffic, some programs leave in the ring what they had not read.
  [[ ${5-} == -n ]] || ((BASH_REMATCH[2] + BASH_REMATCH[3] >= SENT)) ||
    echo "bench: $library $program on $interface: $SENT sent, ${BASH_REMATCH[2]} captured," \
      "${BASH_REMATCH[3]} dropped" >&2
}

round_programs() {
  local what name program interface
  ((round > 1)) || { dd if=/dev/zero of="$WORKDIR/captured" bs=1M count=256 status=none &&
    rm "$WORKDIR/captured"; } || die "no room for what is captured"
  in_turn tcpdump/see0 tcpdump/any tcpdump/lo dumpcap/see0 netsniff-ng/see0 floor/see0
  local -a whats=("${TURN[@]}")
  for what in "${whats[@]}"; do
    program=${what%/*} interface=${what#*/}
    traffic "$TRAFFIC_CPU" 2000000 64 "$([[ $program == dumpcap ]] && echo 500000 || echo 1000000)" 32
    [[ $interface != lo ]] || TRAFFIC=(ip netns exec "$NS_SEE" taskset -c "$TRAFFIC_CPU" \
      "$BUILDDIR/bench/sender" lo 2000000 64 1000000 32)
    if [[ $program == floor ]]; then
      read_with "raw V3" -b "$RING" -o "$WORKDIR/captured" count
      record other "$(prefixed floor "$WORDS")"
    elif ! has "$program"; then
      ((round > 1)) || echo "bench: there is no $program" >&2
    elif [[ $program == netsniff-ng ]]; then
      capture none "$program" "$interface" "$RING"
      record other "$(prefixed "$program" "$WORDS")"
    else
      in_turn stock ours
      for name in "${TURN[@]}"; do
        capture "$name" "$program" "$interface" "$RING"
        record "$name" "$(prefixed "${program}_$interface" "$WORDS")"
      done
    fi
    rm -f "$WORKDIR"/captured*
  done
}

round_curve() {
  local step rate name
  local -a steps names
  in_turn "${CURVE_STEPS[@]}"
  steps=("${TURN[@]}")
  in_turn "${RAW[@]}" {stock,ours}" pcap_loop" {stock,ours}" tcpdump" {stock,ours}" dumpcap" \
    "none netsniff-ng"
  names=("${TURN[@]}")
  for step in "${steps[@]}"; do
    rate=0
    [[ $step == most ]] || rate=$(awk -v m="$step" 'BEGIN { printf "%d", m * 1e6 }')
    traffic_on_one_cpu "$(packets $((rate > 0 ? rate : 1500000)) "$CURVE_SECONDS")" 64 "$rate" 32
    for name in "${names[@]}"; do
      case $name in
        raw*) read_with "$name" -b "$CURVE_RING" count ;;
        *pcap_loop) read_with "${name% *}" -b "$CURVE_RING" count ;;
        *)
          has "${name#* }" || continue
          capture "${name% *}" "${name#* }" see0 "$CURVE_RING" -n
          ;;
      esac
      record "${name#none }" "$(prefixed "$step" "$(xargs -n 2 <<<"$WORDS" |
        grep -E '^(mpps|dropped_percent) ')")"
    done
  done
}

# ---- Tables and pictures ----

# As rows in run. A goal may name other figures than stock's: those recorded as "other".
speed_rows() {
  local apart="reader CPU $READER_CPU, traffic CPU $TRAFFIC_CPU" size
  cat <<END
read||CPU of reading, rings of $RING MiB; 64 bytes at 1 Mpps, 1,514 at 0.4; $apart
read|floor_64_cpu_ns|bare V3 ring, 64 bytes, ns a packet (the floor)|other
read|loop_64_cpu_ns|pcap_loop, 64 bytes, ns a packet|stock/ours >= 2.5; ours/floor_64_cpu_ns <= 2
read|dispatch_64_cpu_ns|pcap_dispatch, 64 bytes, ns a packet|stock/ours >= 2.5; ours/floor_64_cpu_ns <= 2
read|next_ex_64_cpu_ns|pcap_next_ex, 64 bytes, ns a packet|stock/ours >= 2
read|floor_1514_cpu_ns|bare V3 ring, 1,514 bytes, ns a packet|other
read|next_ex_1514_cpu_ns|pcap_next_ex, 1,514 bytes, ns a packet|
read|next_ex_1514_mpps|the traffic of that, Mpps|
read|next_ex_64_dropped_percent|pcap_next_ex, 64 bytes: dropped, %|
programs||CPU of programs that write to a file in memory; 64 bytes at 1 Mpps, dumpcap at 0.5, rings of $RING MiB; $apart
programs|floor_cpu_ns|bare V3 ring, written 1 MiB at a time, ns a packet (the floor)|other
programs|tcpdump_see0_cpu_ns|tcpdump -w, ns a packet|stock/ours >= 1.3; ours/floor_cpu_ns <= 1.25
programs|tcpdump_see0_dropped_percent|dropped, %|
programs|tcpdump_any_cpu_ns|tcpdump -i any -w, ns a packet|stock/ours >= 1.3
programs|tcpdump_any_dropped_percent|dropped, %|
programs|tcpdump_lo_cpu_ns|tcpdump -i lo -w, ns a packet|stock/ours >= 1.3
programs|tcpdump_lo_dropped_percent|dropped, %|
programs|dumpcap_see0_cpu_ns|dumpcap -w, ns a packet|stock/ours >= 5
programs|dumpcap_see0_dropped_percent|dropped, %|
programs|netsniff-ng_cpu_ns|netsniff-ng, ns a packet|other
programs|netsniff-ng_dropped_percent|netsniff-ng: dropped, %|other
sizes||pcap_loop by packet size, 0.4 Mpps wanted; $apart
END
  for size in 64 128 512 1514 imix; do
    echo "sizes|${size}_cpu_ns|$size: reader CPU, ns a packet|"
  done
  cat <<END
sizes|imix_mpps|the IMIX's traffic, Mpps|
replay||pcap_loop, ${REPLAY##*/} played by tcpreplay at top speed; $apart
replay|mpps|traffic, Mpps|
replay|dropped_percent|dropped, %|
replay|cpu_ns|reader CPU, ns a packet|
END
}

patch_table() {
  awk -v csv="$RESULTS/patch.csv" "$AWK_MEDIAN"'
    BEGIN {
      read_csv(csv)
      n = split("raw V1,raw V2,raw V3,stock,ours", names, ",")
      where["apart"] = "traffic on a CPU of its own"
      where["together"] = "reader and traffic on one CPU"
      theirs["apart", "raw V1"] = "600 K pps, 70 %, 7 to 10 %"
      theirs["apart", "raw V3"] = "720 K pps, 53 %, about 1 %"
      theirs["together", "raw V1"] = "700 to 800 K pps, 50 %, 9 to 10 %"
      theirs["together", "raw V3"] = "1 M pps, about 30 %, under 1 %"
      for (j = 1; j <= split("apart together", sets, " "); j++) {
        set = sets[j]
        printf "\n| %s | traffic, Mpps | captured, K pps | reader CPU, %% of one | dropped, %% | the patch: %s |\n",
          where[set], set == "apart" ? "hardware" : "a virtual machine of one CPU"
        printf "|---|---|---|---|---|---|\n"
        for (i = 1; i <= n; i++) {
          key = set " " names[i]
          printf "| %s | %s | %s | %s | %s | %s |\n", names[i], cell(key ",mpps"),
            cell(key ",captured_kpps"), cell(key ",cpu_percent"), cell(key ",dropped_percent"),
            theirs[set, names[i]]
        }
      }
    }'
}

CURVE_NAMES="raw V1,raw V2,raw V3,stock pcap_loop,ours pcap_loop,stock tcpdump,ours tcpdump"
CURVE_NAMES+=",stock dumpcap,ours dumpcap,netsniff-ng"

# fanout_held MODE READERS WORK: prints the highest rate, in Kpps, that so many readers with WORK ns of
# work a packet hold without a drop. A ring holds a thirtieth of what comes, or less.
FANOUT_SECONDS=2
fanout_held() {
  local held=0 most=$((1400000 * $2 / $3)) too_much kpps words
  too_much=$most
  while (((too_much - held) * 50 > most)); do
    kpps=$(((held + too_much) / 2))
    traffic "$TRAFFIC_CPU" "$(packets $((kpps * 1000)) "$FANOUT_SECONDS")" 64 $((kpps * 1000)) 32 \
      "$EARLY_US"
    TRAFFIC=("${FIRST[@]}" "${TRAFFIC[@]}")
    words=$(PCAPV3_FANOUT=1:$1 run_reader ours -b 1 -t 10 -k "$3" -n "$2" fanout) || exit
    expect_all_came "$words"
    # What was wanted is not always what the sender, on a CPU of a reader's, could do.
    if [[ $words == *" dropped 0 "* && $words =~ mpps\ ([0-9.]+) ]]; then
      held=$kpps
      awk -v m="${BASH_REMATCH[1]}" -v k="$kpps" 'BEGIN { exit m * 1000 < 0.97 * k }' || break
    else
      too_much=$kpps
    fi
  done
  echo "$held"
}

round_fanout() {
  local mode readers work held
  for work in 2 10; do
    for ((readers = 1; readers <= $(nproc); readers *= 2)); do
      for mode in lb rollover; do
        held=$(fanout_held $mode $readers "${work}000") || exit
        record "$mode" "${work}_$readers $held"
      done
    done
  done
}

fanout_table() {
  awk -v csv="$RESULTS/fanout.csv" "$AWK_MEDIAN"'
    BEGIN {
      read_csv(csv)
      printf "\n| work a packet, us | readers, one a CPU | in turn (lb), Kpps without a drop | times one | as there is room (rollover) | times one |\n"
      printf "|---|---|---|---|---|---|\n"
      for (i = 1; i <= split("2 10", works, " "); i++) {
        for (n = 1; ("lb," works[i] "_" n) in values; n *= 2) {
          what = "," works[i] "_"
          printf "| %d | %d | %s | %.2f | %s | %.2f |\n", works[i], n, cell("lb" what n),
            median("lb" what n) / median("lb" what 1), cell("rollover" what n),
            median("rollover" what n) / median("rollover" what 1)
        }
      }
    }'
}

# The highest rate without a drop is that of the last step before the first in which a packet was
# dropped in the median round.
curve_table() {
  awk -v csv="$RESULTS/curve.csv" -v names="$CURVE_NAMES" -v steps="${CURVE_STEPS[*]}" "$AWK_MEDIAN"'
    BEGIN {
      read_csv(csv)
      n = split(names, name, ",")
      m = split(steps, step, " ")
      printf "\n| dropped, %%, at so many Mpps wanted |"
      for (j = 1; j <= m; j++) printf " %s |", step[j] == "most" ? "the most" : step[j]
      printf " highest rate without a drop, Mpps | above stock |\n|---|"
      for (j = 1; j <= m + 2; j++) printf "---|"
      printf "\n"
      for (i = 1; i <= n; i++) {
        if (!((name[i] "," step[1] "_mpps") in values)) continue
        printf "| %s |", name[i]
        clean = 1
        best[name[i]] = 0
        for (j = 1; j <= m; j++) {
          dropped = median(name[i] "," step[j] "_dropped_percent")
          printf " %s |", (dropped > 0 && dropped < 0.01 ? "<0.01" : fig(dropped))
          if (dropped > 0) clean = 0
          rate = median(name[i] "," step[j] "_mpps")
          if (clean && rate > best[name[i]]) best[name[i]] = rate
        }
        all[name[i]] = clean
        stock = name[i]
        is = sub(/^ours/, "stock", stock) ? best[name[i]] > best[stock] ? "yes" : "no" : ""
        if (is != "" && all[name[i]] && all[stock]) is = "neither dropped any"
        printf " %s%s | %s |\n", fig(best[name[i]]), clean ? " (the most)" : "", is
      }
    }'
}

# curve_picture FILE TITLE [SERIES COLOUR DASHES]...
curve_picture() {
  local file=$1 title=$2
  shift 2
  awk -v csv="$RESULTS/curve.csv" -v styles="$(printf '%s|%s|%s;' "$@")" \
    -v steps="${CURVE_STEPS[*]}" "$AWK_MEDIAN"'
    BEGIN {
      read_csv(csv)
      n = split(styles, style, ";")
      m = split(steps, step, " ")
      for (i = 1; i < n; i++) { # the last is empty
        split(style[i], s, "|")
        printf "style\t%s\t%s\t%s\n", s[1], s[2], s[3]
        for (j = 1; j <= m; j++) {
          if (!((s[1] "," step[j] "_mpps") in values)) continue
          printf "%s\t%s\t%s\n", s[1], median(s[1] "," step[j] "_mpps"),
            median(s[1] "," step[j] "_dropped_percent")
        }
      }
    }' | draw "$file" -v title="$title" -v y_most=100 \
    -v x_name="offered load, million packets/s of 64 bytes" -v y_name="dropped, %"
}

# draw FILE OPTION...
draw() { awk -F '\t' "${@:2}" -f "$here/chart.awk" >"$RESULTS/$1" || die "no picture $1"; }

curve_pictures() {
  curve_picture curve_readers.svg "Dropped by offered load, all on one CPU: counting" \
    "raw V1" 5 "2 4" "raw V2" 4 "2 4" "raw V3" 3 "2 4" "stock pcap_loop" 2 "8 5" \
    "ours pcap_loop" 1 none
  curve_picture curve_programs.svg "Dropped by offered load, all on one CPU: writing to a file" \
    "stock tcpdump" 2 "8 5" "ours tcpdump" 2 none "stock dumpcap" 1 "8 5" "ours dumpcap" 1 none \
    "netsniff-ng" 5 "2 4"
}

latency_pictures() {
  awk -v csv="$RESULTS/latency.csv" "$AWK_MEDIAN"'
    BEGIN {
      read_csv(csv)
      n = split("0 1 5 10 20 30 40 50 60 70 80 90 95 98 99 100", percent, " ")
      print "style\tstock\t2\t8 5\nstyle\tv3\t3\t2 4\nstyle\tours\t1\tnone"
      for (i = 1; i <= n; i++) {
        printf "stock\t%s\t%s\n", percent[i], median("stock,quantile_" percent[i])
        printf "v3\t%s\t%s\n", percent[i], median("v3,quantile_" percent[i])
        printf "ours\t%s\t%s\n", percent[i], median("ours,quantile_" percent[i])
      }
    }' | draw latency.svg -v title="Immediate mode, 197 packets/s: from time stamp to callback" \
    -v x_name="share of packets that took no longer, %" -v y_name="delay, microseconds" -v log_y=1
}
