// SPDX-License-Identifier: BSD-3-Clause
// What tests of savefiles share: files, what they have to hold, and the callback of a live read in
// which the library writes in large pieces.
#pragma once

#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <iterator>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "capture.h"

namespace pcapv3::live {

constexpr std::size_t kStock = 4096;  // a FILE's buffer

constexpr std::size_t kRecord = 16;  // what comes before a packet in a file

/// A path in a folder of this test, which is removed with all that is in it.
class Folder {
 public:
  Folder() { CHECK(mkdtemp(path_) != nullptr, "%s", std::strerror(errno)); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    for (const std::string& file : files_) unlink(file.c_str());
    rmdir(path_);
  }
  const char* file(const char* name) {
    files_.push_back(std::string(path_) + "/" + name);
    return files_.back().c_str();
  }
  const char* path() const { return path_; }

 private:
  char path_[64] = "/tmp/pcapv3-savefile-XXXXXX";
  std::list<std::string> files_ = {};
};

inline Bytes content_of(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

inline std::size_t size_of(const char* path) {
  struct stat status = {};
  CHECK(stat(path, &status) == 0, "%s: %s", path, std::strerror(errno));
  return static_cast<std::size_t>(status.st_size);
}

inline void append_native(Bytes& bytes, std::uint32_t value) {
  const auto* at = reinterpret_cast<const std::uint8_t*>(&value);
  bytes.insert(bytes.end(), at, at + sizeof(value));
}

/// What a file has to hold, pcap-savefile(5).
struct Expected {
  Bytes bytes = {};

  explicit Expected(std::uint32_t magic = 0xa1b2c3d4) {
    append_native(bytes, magic);
    append_native(bytes, 2 | 4 << 16);  // version 2.4
    append_native(bytes, 0);
    append_native(bytes, 0);
    append_native(bytes, kWhole);
    append_native(bytes, DLT_EN10MB);
  }
};

/// The packet that a callback on this thread has got.
struct Current {
  pcap_pkthdr* header = nullptr;  // null: there is none
  const u_char* bytes = nullptr;
  unsigned dumped = 0;
};

inline thread_local Current current;

/// Packets to dump. In a callback, small ones lie where that's packet lies, one after the other, as
/// the packets of a block do: those may stay in the buffer. All others are of the same bytes but
/// for their length and time stamp.
class Writer {
 public:
  Expected expected;

  explicit Writer(pcap_dumper_t* dumper) : dumper_(dumper) { CHECK(dumper, "no dumper"); }

  pcap_dumper_t* dumper() const { return dumper_; }
  FILE* file() const { return pcap_dump_file(dumper_); }
  void dump(std::uint32_t length) {
    static const std::vector<u_char> kBytes = [] {
      std::vector<u_char> bytes(600'000);
      for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = static_cast<u_char>(i * 7 + i / 256);
      return bytes;
    }();
    const pcap_pkthdr header = {
        .ts = {.tv_sec = 1'700'000'000, .tv_usec = static_cast<suseconds_t>(++number_ % 1'000'000)},
        .caplen = length,
        .len = length + 5};
    const u_char* at = kBytes.data();
    if (current.header != nullptr && length <= kInBlock) {
      at = current.bytes + ++current.dumped;
      *current.header = header;
      pcap_dump(reinterpret_cast<u_char*>(dumper_), current.header, at);
    } else {
      pcap_dump(reinterpret_cast<u_char*>(dumper_), &header, at);
    }
    append_native(expected.bytes, static_cast<std::uint32_t>(header.ts.tv_sec));
    append_native(expected.bytes, static_cast<std::uint32_t>(header.ts.tv_usec));
    append_native(expected.bytes, header.caplen);
    append_native(expected.bytes, header.len);
    expected.bytes.insert(expected.bytes.end(), at, at + length);
  }
  void dump_many(unsigned count, std::uint32_t length) {
    for (unsigned i = 0; i < count; ++i) dump(length);
  }

 private:
  static constexpr std::uint32_t kInBlock = 300;

  pcap_dumper_t* dumper_;
  unsigned number_ = 0;
};

inline void check_content(const char* path, const Bytes& expected) {
  const Bytes found = content_of(path);
  const std::size_t both = std::min(found.size(), expected.size());
  const auto same = static_cast<std::size_t>(
      std::mismatch(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(both),
                    expected.begin())
          .first -
      found.begin());
  CHECK(same == expected.size() && same == found.size(),
        "%zu bytes are in the file, %zu were to be, the first %zu of them are right", found.size(),
        expected.size(), same);
}

inline Writer open_writer(pcap_t* p, const char* path) {
  pcap_dumper_t* dumper = pcap_dump_open(p, path);
  CHECK(dumper != nullptr, "%s", pcap_geterr(p));
  return Writer(dumper);
}

using Action = std::function<void()>;

/// A callback that dumps each of many packets to a file, one after the other, so that the library
/// takes it that more will be dumped; and then, with as many more at hand, does something else.
class Callback {
 public:
  static constexpr unsigned kBatch = 200;

  /// `first` is done with the first packet of the second batch, `others` with all that follow, and
  /// `before` with those of the first batch, in place of dumping each.
  Callback(pcap_t* p, Action first, Action others = {}, Action before = {})
      : first_(std::move(first)),
        others_(std::move(others)),
        before_(std::move(before)),
        writer_(open_writer(p, folder_.file("before"))) {
    sender_.send(0, kBatch);
  }
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;
  ~Callback() { pcap_dump_close(writer_.dumper()); }

  unsigned calls() const { return calls_; }
  int loop(pcap_t* p, int count) {
    return pcap_loop(p, count, call, reinterpret_cast<u_char*>(this));
  }

 private:
  static void call(u_char* user, const pcap_pkthdr* header, const u_char* bytes) {
    auto* self = reinterpret_cast<Callback*>(user);
    current = {const_cast<pcap_pkthdr*>(header), bytes};  // it is no constant
    const unsigned number = self->calls_ + 1;
    if (number <= kBatch && self->before_) self->before_();
    if (number <= kBatch && !self->before_) self->writer_.dump(100);
    if (number == kBatch) self->sender_.send(kBatch, kBatch);
    if (number == kBatch + 1) self->first_();
    if (number > kBatch + 1 && self->others_) self->others_();
    current = {};
    self->calls_ = number;
  }

  const Action first_;
  const Action others_;
  const Action before_;
  Folder folder_;
  Writer writer_;
  const Sender sender_ = remote();
  std::atomic<unsigned> calls_ = 0;
};

/// Does it in the callback of a live read.
inline void within_read(pcap_t* p, Action first, Action others = {}) {
  Callback callback(p, std::move(first), std::move(others));
  const int status = callback.loop(p, 2 * Callback::kBatch);
  CHECK(status == 0, "status %d, %s", status, pcap_geterr(p));
}

/// Does `first` and `others` in the callback of a live read, and looks while that waits for more.
inline void while_waiting(pcap_t* p, Action first, Action look, Action others = {},
                          Action before = {}) {
  Callback callback(p, std::move(first), std::move(others), std::move(before));
  std::atomic<pid_t> thread = 0;
  std::thread reader([&] {
    thread = static_cast<pid_t>(syscall(SYS_gettid));
    const int status = callback.loop(p, -1);
    CHECK(status == PCAP_ERROR_BREAK, "status %d, %s", status, pcap_geterr(p));
  });
  while (callback.calls() < 2 * Callback::kBatch) std::this_thread::yield();
  wait_until_asleep(thread);
  look();
  pcap_breakloop(p);
  reader.join();
}

}  // namespace pcapv3::live
