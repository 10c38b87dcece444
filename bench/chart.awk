# SPDX-License-Identifier: BSD-3-Clause
# Draws lines as SVG, in colours that suit light and dark pages. What the figures are is the caller's.
#
#   awk -F '\t' -v title=T -v x_name=X -v y_name=Y [-v log_x=1] [-v log_y=1] [-v y_most=100] \
#     -f chart.awk <POINTS
#
# POINTS, by tabs: a line "SERIES x y [hollow]" each; first, for each series, "style SERIES COLOUR
# DASHES": COLOUR from 1 to 5, DASHES as SVG's stroke-dasharray or "none". Hollow points are those
# to be told from the others; what that says is the caller's, too.
function escaped(text) {
  gsub(/&/, "\\&amp;", text)
  gsub(/</, "\\&lt;", text)
  return text
}
function log10(v) { return log(v) / log(10) }
function at_x(v) {
  if (!log_x) return left + (right - left) * v / x_end
  return left + (right - left) * (log10(v) - log10(x_start)) / (log10(x_end) - log10(x_start))
}
function at_y(v) {
  if (!log_y) return bottom - (bottom - top) * (v - y_start) / (y_end - y_start)
  return bottom - (bottom - top) * (log10(v) - log10(y_start)) / (log10(y_end) - log10(y_start))
}
function write_at(x, y, anchor, text, more) {
  printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y, anchor, more,
    escaped(text)
}
function tick_x(v) {
  printf "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", at_x(v), top, bottom
  write_at(at_x(v), bottom + 18, "middle", !log_x || v < 1000 ? sprintf("%g", v) : \
    v < 1e6 ? sprintf("%g k", v / 1000) : sprintf("%g M", v / 1e6))
}
function tick_y(v) {
  printf "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", left, at_y(v), right
  write_at(left - 8, at_y(v) + 4, "end", v >= 1e5 ? sprintf("%d", v) : sprintf("%g", v))
}
# A round step that gives two to five ticks up to `most`.
function step_for(most,    step, power) {
  power = int(log10(most / 5) + 100) - 100 # rounded down
  step = 10 ^ power
  if (most / 5 > 5 * step) return 10 * step
  if (most / 5 > 2 * step) return 5 * step
  return most / 5 > step ? 2 * step : step
}
function colours(page, ink, grid, c,    i, all, n) {
  printf ".page{fill:%s}text{fill:%s}.grid{stroke:%s}", page, ink, grid
  n = split(c, all, " ")
  for (i = 1; i <= n; i++) printf ".c%d{stroke:%s}.f%d{fill:%s}", i, all[i], i, all[i]
}

$1 == "style" { order[++series] = $2; colour[$2] = $3; dashes[$2] = $4; next }
{
  n = ++points[$1]
  x[$1, n] = $2
  y[$1, n] = log_y && $3 < 1 ? 1 : $3
  hollow[$1, n] = $4
  if ($2 > x_max) x_max = $2
  if (x_min == "" || $2 < x_min) x_min = $2
  if (y[$1, n] > y_max) y_max = y[$1, n]
  if (y_min == "" || y[$1, n] < y_min) y_min = y[$1, n]
}

END {
  if (x_min == "" || (log_x && x_min <= 0)) { # or the loops below never end
    print "chart.awk: nothing that could be drawn" >"/dev/stderr"
    exit 1
  }
  left = 84; right = 590; top = 48; bottom = 352
  if (log_x) {
    x_start = 10 ^ int(log10(x_min))
    for (x_end = x_start; x_end < x_max; x_end *= 10) continue
    if (x_end / 5 >= x_max) x_end /= 5
    else if (x_end / 2 >= x_max) x_end /= 2
  } else {
    if (x_max <= 0) x_max = 1
    x_step = step_for(x_max)
    x_end = x_step * int(x_max / x_step + 0.999)
  }
  if (log_y) {
    y_start = 10 ^ int(log10(y_min))
    for (y_end = y_start * 10; y_end < y_max; y_end *= 10) continue
  } else {
    y_start = 0
    if (y_most == "") y_most = y_max > 0 ? y_max : 1
    y_step = step_for(y_most)
    y_end = y_step * int(y_most / y_step + 0.999)
  }

  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 410\" width=\"760\" height=\"410\""
  printf " font-family=\"system-ui,sans-serif\" font-size=\"13\">\n<style>"
  colours("#ffffff", "#222222", "#dddddd", "#1565c0 #c75000 #1a7f3c #8a3fc0 #666666")
  printf ".grid,.line{fill:none}.line{stroke-width:2.2}\n@media (prefers-color-scheme:dark){"
  colours("#15181c", "#e2e2e2", "#3a3f45", "#6cb2ff #ff9d4d #4fd08a #c99bff #b0b0b0")
  print "}</style>"
  print "<rect class=\"page\" width=\"760\" height=\"410\" rx=\"6\"/>"
  write_at(left, 26, "start", title, " font-size=\"15\" font-weight=\"600\"")
  if (log_x) for (v = x_start; v <= x_end * 1.001; v *= 10) tick_x(v)
  else for (v = 0; v <= x_end * 1.001; v += x_step) tick_x(v)
  if (log_y) {
    for (v = y_start; v <= y_end * 1.001; v *= 10) {
      tick_y(v)
      if (v < y_end) { tick_y(2 * v); tick_y(5 * v) }
    }
  } else {
    for (v = 0; v <= y_end * 1.001; v += y_step) tick_y(v)
  }
  write_at((left + right) / 2, bottom + 42, "middle", x_name)
  write_at(0, 0, "middle", y_name,
    sprintf(" transform=\"translate(20 %.1f) rotate(-90)\"", (top + bottom) / 2))

  for (i = 1; i <= series; i++) {
    s = order[i]
    if (!points[s]) continue
    d = ""
    for (n = 1; n <= points[s]; n++) {
      d = d sprintf("%s%.1f %.1f", n == 1 ? "M" : "L", at_x(x[s, n]), at_y(y[s, n]))
    }
    printf "<path class=\"line c%d\" stroke-dasharray=\"%s\" d=\"%s\"/>\n", colour[s], dashes[s], d
    for (n = 1; n <= points[s]; n++) {
      printf "<circle class=\"%s%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"/>\n", hollow[s, n] ? "page c" : "f",
        colour[s], at_x(x[s, n]), at_y(y[s, n]), hollow[s, n] ? 4 : 3
    }
    legend = top + 10 + 24 * lines++
    printf "<path class=\"line c%d\" stroke-dasharray=\"%s\" d=\"M%d %dh34\"/>\n", colour[s],
      dashes[s], right + 18, legend
    write_at(right + 60, legend + 4, "start", s)
  }
  print "</svg>"
}
