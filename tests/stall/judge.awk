# SPDX-License-Identifier: BSD-3-Clause
# Says of each cell that stall.cc has measured whether this library holds what stock libpcap holds;
# several lines of one cell are rounds, of which the median counts. Prints a line for each cell:
#
#   VERDICT \t NAME \t FIGURES
#
# VERDICT is "holds"; "known REASON" where it does not in a mode that is known for it; "loses"; or
# "wrong" where the figures contradict one another, whatever the mode.
#
# It holds if no more packets are dropped than by stock, plus
#   - where both drop some, what 256 KiB of stock's ring have room for, one of its blocks, or what
#     comes in its time-out if that is less; in immediate mode these are slots for the largest frame;
#   - where stock holds for longer than 8 s, as it delivers nothing for as long, what comes in the
#     stall after 8 s (pcap-linux-v3(7), "Stall"), or 100 ms sooner.

BEGIN {
  kStockBlock = 262144 # pcap-linux.c: create_ring, MAXIMUM_SNAPLEN
  kStockRing = 2097152 # pcap-linux.c: setup_mmapped
  kHeld = 8000         # ms
  kInexact = 100       # ms, of a stall: to go on takes a moment with many readers
  # Modes that hold less than stock still, and why.
  known["list"] = "the blocks of several ports are retired each 8 ms"
  known["immediate list"] = known["list"]
}

function min(a, b) { return a < b ? a : b }
function max(a, b) { return a > b ? a : b }

function median(list,    v, n, i, j, x) {
  n = split(list, v, " ")
  for (i = 2; i <= n; i++) {
    x = v[i] + 0
    for (j = i - 1; j > 0 && v[j] + 0 > x; j--) v[j + 1] = v[j]
    v[j + 1] = x
  }
  return n % 2 ? v[(n + 1) / 2] + 0 : (v[n / 2] + v[n / 2 + 1]) / 2
}

# What a packet takes in a ring, with its header and its address (af_packet.c: tpacket_rcv).
function stored(n) { return int((n + 82 + 15) / 16) * 16 }

function bytes(n) {
  return n == 0 ? "none" : n >= 1048576 ? n / 1048576 "M" : n / 1024 "K"
}

function comma(n) { return n >= 1000 ? int(n / 1000) sprintf(",%03d", n % 1000) : n }

{
  kind = $2
  ports = split($1, each, ",")
  if (ports > 1) kind = kind == "plain" ? "list" : "immediate list"
  name = comma($6) "/s of " comma($7) " bytes, " $8 / 1000 " s: " kind
  if ($1 == "see2") name = name " without offloads"
  name = name ", to_ms " comma($3) ", snaplen " comma($4) ", buffer " bytes($5)
  if (!(name in kinds)) names[++count] = name
  kinds[name] = kind
  ours[name] = ours[name] " " $10
  stock[name] = stock[name] " " $13
  received[name] = $9
  if ($9 != $12) wrong[name] = "received " $9 " here and " $12 " by stock"
  if ($15 != $9 || $16 != $10) {
    wrong[name] = "received " $9 " and dropped " $10 " here, but " $15 " and " $16 " at the end"
  }
  if ($10 + $11 != $9) wrong[name] = $9 " received, but " $10 " dropped and " $11 " delivered here"

  later[name] = 0
  if (kind ~ /immediate/) {
    in_block[name] = ports * kStockBlock / stored(min($4, $1 == "see2" ? 1518 : 65535))
  } else {
    in_block[name] = ports * kStockBlock / stored($7)
    if ($3 > 0) in_block[name] = min(in_block[name], ports * $6 * $3 / 1000)
    blocks = int((($5 ? $5 : kStockRing) + kStockBlock - 1) / kStockBlock)
    lasts = $3 > 0 ? min($8, blocks * $3) : $8
    later[name] = ports * $6 * max(0, lasts - kHeld + (lasts > kHeld) * kInexact) / 1000
  }
}

END {
  for (i = 1; i <= count; i++) {
    name = names[i]
    here = median(ours[name])
    there = median(stock[name])
    allowed = there + later[name]
    if (here > 0 && there > 0) allowed += in_block[name]
    verdict = "holds"
    if (here > int(allowed + 0.5)) verdict = "loses"
    if (verdict == "loses" && kinds[name] in known) verdict = "known " known[kinds[name]]
    figures = "of " received[name] " dropped here " here ", by stock " there
    if (allowed > there) figures = figures sprintf(", %d allowed", allowed + 0.5)
    if (split(ours[name], all, " ") > 1) {
      figures = figures " (here" ours[name] ", stock" stock[name] ")"
    }
    if (name in wrong) {
      verdict = "wrong"
      figures = figures "; " wrong[name]
    }
    print verdict "\t" name "\t" figures
  }
}
