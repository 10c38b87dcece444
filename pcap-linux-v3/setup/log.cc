// SPDX-License-Identifier: BSD-3-Clause
#include "setup/log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "setup/settings.h"

namespace pcapv3 {

Log::~Log() {
  if (ours_) close(fd_);
}

bool Log::open(const char* setting, const char* const* environment, ErrorText& error) {
  const char* where = find_setting(environment, setting);
  if (where == nullptr) return true;
  if (std::strcmp(where, "stderr") == 0) {
    fd_ = STDERR_FILENO;
    return true;
  }
  fd_ = ::open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    return error.set("%s=%s: can't be opened (%s); stderr or a file's path is wanted", setting,
                     where, std::strerror(errno));
  }
  ours_ = true;
  return true;
}

void Log::line(const char* format, ...) {
  if (!on()) return;
  char text[512];
  constexpr std::size_t kRoom = sizeof(text) - 1;  // for the line's end
  int length = std::snprintf(text, kRoom, "pcap-linux-v3: ");
  va_list args;
  va_start(args, format);
  const int more =
      std::vsnprintf(text + length, kRoom - static_cast<std::size_t>(length), format, args);
  va_end(args);
  std::size_t end = std::min(static_cast<std::size_t>(length + std::max(more, 0)), kRoom - 1);
  text[end++] = '\n';
  // Each line is one write, so that lines of several handles and processes do not mix (O_APPEND). A
  // log that can't be written must not disturb the capture.
  [[maybe_unused]] const ssize_t written = write(fd_, text, end);
}

}  // namespace pcapv3
