# SPDX-License-Identifier: BSD-3-Clause
# Makes pcap-linux-v3-differences(7), "what differs from stock libpcap, and why", from
# tests/fidelity/differences. tests/fidelity/fidelity.test compares that file with what libpcap
# really does, so the page can't go stale. make runs this script, with `release` set to the project's
# name and version. An entry that is not fit for readers is an error.

function fail(text) {
  print FILENAME ": " text >"/dev/stderr"
  failed = 1
  exit 1
}

# Returns the text as roff: no line begins with a control character, `such words` are bold, and so
# are names of functions.
function roff(text) {
  gsub(/\\/, "\\e", text)
  gsub(/-/, "\\-", text)
  gsub(/"/, "\\(dq", text)
  while (match(text, /`[^`]*`/)) {
    text = substr(text, 1, RSTART - 1) "\\fB" substr(text, RSTART + 1, RLENGTH - 2) "\\fP" \
           substr(text, RSTART + RLENGTH)
  }
  gsub(/pcap_[a-z_]+\(\)/, "\\fB&\\fP", text)
  gsub(/PCAPV3_?[A-Z]*=off/, "\\fB&\\fP", text)
  return text ~ /^[.']/ ? "\\&" text : text
}

function end_entry(   other) {
  if (scenario == "") return
  if (why == "") fail("scenario " scenario ": no reason")
  if (title != "") {
    ++count
    titles[count] = title
    whys[count] = why
    scenarios[count] = "\\fI" roff(scenario) "\\fP"
    number[scenario] = count
  } else {
    other = why
    if (!sub(/^As /, "", other) || !sub(/\.$/, "", other) || !(other in number))
      fail("scenario " scenario ": no title, and the reason is not \"As SCENARIO.\" with one above")
    scenarios[number[other]] = scenarios[number[other]] ", \\fI" roff(scenario) "\\fP"
  }
  scenario = title = why = ""
}

{ value = $0; sub(/^[a-z]+: */, "", value) }
/^scenario:/ { end_entry(); scenario = value }
/^title:/ { title = value }
/^why:/ { why = value }

END {
  if (failed) exit 1
  end_entry()
  if (count == 0) fail("no entries")
  print ".\\\" Made by man/differences.awk of tests/fidelity/differences. SPDX-License-Identifier: BSD-3-Clause"
  print ".TH PCAP\\-LINUX\\-V3\\-DIFFERENCES 7 \"\" \"" release "\""
  print ".SH NAME\npcap\\-linux\\-v3\\-differences \\- what differs from stock libpcap, and why"
  print ".SH DESCRIPTION"
  print "A program should not be able to tell\n.BR pcap\\-linux\\-v3 (7)\nfrom the libpcap whose place it takes."
  print "The project's tests play about ninety scenarios, from opening a handle to closing it, with this"
  print "library, with the same library and \\fBPCAPV3=off\\fP, and with the distribution's libpcap, and"
  print "compare what a program can see. This page lists all intended differences."
  print "It is made from the list that the tests use. They fail when they find a difference that is not"
  print "in the list, and when a difference in the list is gone."
  print ".PP\nWhat can be set, and what is chosen where libpcap leaves the choice (sizes, timeouts), is in"
  print ".BR pcap\\-linux\\-v3 (7).\n\\fBPCAPV3=off\\fP gives stock behaviour back."
  for (i = 1; i <= count; ++i) {
    print ".SS " roff(titles[i])
    print roff(whys[i])
    print ".PP\nShown by the scenario" (scenarios[i] ~ /,/ ? "s " : " ") scenarios[i] "."
  }
  print ".SH SEE ALSO\n.BR pcap\\-linux\\-v3 (7),\n.BR pcap (3PCAP)"
}
