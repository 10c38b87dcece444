// SPDX-License-Identifier: BSD-3-Clause
// Writing savefiles by the functions of libpcap: the bytes of a file, and when they are in it. Each
// test opens a capture on the link, because it is in the callback of a live read that the library
// writes in large pieces, and says what holds for stock libpcap too, unless it asks is_ours().
// Programs that write savefiles are savefile_programs.test's.
#include <setjmp.h>

#include <csetjmp>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "savefiles.h"

namespace pcapv3::live {
namespace {

// ---- Bytes

/// write(2) and the like that this process has called.
std::size_t count_writes() {
  std::ifstream io("/proc/self/io");
  std::string word;
  std::size_t number = 0;
  while (io >> word >> number) {
    if (word == "syscw:") return number;
  }
  fail(__FILE__, __LINE__, "count_writes", "no syscw in /proc/self/io");
}

void dump_sizes(Writer& writer) {
  for (const std::uint32_t size : {0u, 1u, 64u, 1514u, 4096u, 65535u, 262144u, 600000u, 60u}) {
    writer.dump(size);
  }
  // So that a packet meets the end of a buffer, of whatever size, at each of its bytes.
  for (std::uint32_t i = 0; i < 20'000; ++i) writer.dump(i % 200);
}

void test_bytes_within_read() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  within_read(p.get(), [&] {
    Writer writer = open_writer(p.get(), path);
    dump_sizes(writer);
    pcap_dump_close(writer.dumper());
    check_content(path, writer.expected.bytes);
  });
}

void test_bytes_outside() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture({.precision = PCAP_TSTAMP_PRECISION_NANO});
  Writer writer = open_writer(p.get(), path);
  writer.expected = Expected(0xa1b23c4d);
  dump_sizes(writer);
  pcap_dump_close(writer.dumper());
  check_content(path, writer.expected.bytes);
}

/// Packets in the ring, in several blocks.
constexpr unsigned kManyBlocks = 6;  // stock libpcap has 8

constexpr unsigned kInEach = 700;

Handle open_with_many(const Sender& sender) {
  // So long that few batches are cut in two by it.
  setenv("PCAPV3_RETIRE", "250", 1);
  Handle p = open_capture({.timeout_ms = 250, .buffer_bytes = 16 << 20});
  for (unsigned i = 0; i < kManyBlocks; ++i) {
    sender.send(i * kInEach, kInEach);
    wait_until_received(p.get(), (i + 1) * kInEach);
    usleep(300'000);  // longer than a retire timeout
  }
  return p;
}

/// All but what is in the first of the blocks is dumped with more to follow: far fewer writes than
/// of stock's.
void test_large_writes() {
  Folder folder;
  const char* path = folder.file("file");
  const Sender sender = remote();
  Handle p = open_with_many(sender);
  pcap_dumper_t* dumper = pcap_dump_open(p.get(), path);
  const std::size_t before = count_writes();
  const int status =
      pcap_loop(p.get(), kManyBlocks * kInEach, pcap_dump, reinterpret_cast<u_char*>(dumper));
  CHECK(status == 0, "status %d, %s", status, pcap_geterr(p.get()));
  const std::size_t writes = count_writes() - before;
  pcap_dump_close(dumper);
  const std::size_t stock = size_of(path) / (kStock + 200);
  if (is_ours()) {
    CHECK(writes < stock / 4, "%zu writes", writes);
  } else {
    CHECK(writes >= stock, "%zu writes, of %zu of stock's", writes, stock);
  }
}

/// A callback that has dumped many packets leaves its read, by one way or the other; what is dumped
/// then is written out as by stock libpcap.
struct Leaver {
  static constexpr unsigned kCalls = (kManyBlocks - 2) * kInEach + kInEach / 2;

  pcap_dumper_t* dumper;
  bool throws;
  unsigned calls = 0;
  const u_char* last_bytes = nullptr;
  std::jmp_buf back = {};

  static void call(u_char* user, const pcap_pkthdr* header, const u_char* bytes) {
    auto* self = reinterpret_cast<Leaver*>(user);
    if (++self->calls == kCalls) {
      self->last_bytes = bytes;
      if (self->throws) throw kCalls;
      std::longjmp(self->back, 1);
    }
    pcap_dump(reinterpret_cast<u_char*>(self->dumper), header, bytes);
  }
  void read(pcap_t* p) {
    try {
      if (setjmp(back) == 0) pcap_loop(p, -1, call, reinterpret_cast<u_char*>(this));
    } catch (unsigned) {
    }
  }
};

void test_left_by_a_jump() {
  const Sender sender = remote();
  for (const bool throws : {false, true}) {
    Folder folder;
    const char* path = folder.file("file");
    Handle p = open_with_many(sender);
    pcap_dumper_t* dumper = pcap_dump_open(p.get(), path);
    Leaver leaver = {.dumper = dumper, .throws = throws};
    leaver.read(p.get());
    CHECK(leaver.calls == Leaver::kCalls, "%u calls", leaver.calls);
    if (is_ours()) {
      const auto all = static_cast<std::size_t>(pcap_dump_ftell(dumper));
      CHECK(size_of(path) + 4 * kStock < all, "nothing was kept back: %zu of %zu bytes",
            size_of(path), all);
    }
    // The packet itself, by a header of the program's; and other ones.
    pcap_pkthdr header = {.ts = {}, .caplen = 60, .len = 60};
    for (unsigned i = 0; i < 50; ++i) {
      pcap_dump(reinterpret_cast<u_char*>(dumper), &header, leaver.last_bytes);
      const auto all = static_cast<std::size_t>(pcap_dump_ftell(dumper));
      CHECK(size_of(path) + kStock >= all, "%zu of %zu bytes, %u packets after the jump",
            size_of(path), all, i + 1);
    }
    pcap_dump_close(dumper);
  }
}

// ---- When

void test_no_more_than_stock_outside() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  Writer writer = open_writer(p.get(), path);
  for (int i = 0; i <= 1000; ++i) {
    const std::size_t in_file = size_of(path);
    if (writer.expected.bytes.size() < kStock) CHECK(in_file == 0, "%zu bytes, early", in_file);
    CHECK(writer.expected.bytes.size() <= in_file + kStock, "after %d packets %zu of %zu bytes", i,
          in_file, writer.expected.bytes.size());
    writer.dump(100);
  }
  pcap_dump_close(writer.dumper());
}

void written_when_waiting(const char* device) {
  Folder folder;
  Handle p = open_capture({.device = device});
  const char* path = folder.file("file");
  Writer writer = open_writer(p.get(), path);
  const Action dump = [&] { writer.dump_many(20, 100); };
  while_waiting(
      p.get(), dump,
      [&] {
        const std::size_t all = writer.expected.bytes.size();
        const std::size_t in_file = size_of(path);
        CHECK(in_file + kStock > all, "%zu of %zu bytes", in_file, all);
      },
      dump);
  pcap_dump_close(writer.dumper());
  check_content(path, writer.expected.bytes);
}

void test_written_when_waiting() { written_when_waiting("see0"); }

void test_several_ports_written_when_waiting() {
  if (!is_ours()) skip("stock libpcap captures on one interface only");
  written_when_waiting("see0,lo");
}

/// A filter that came between two reads can reject the last packets at hand.
void test_written_when_filtered() {
  Folder folder;
  Handle p = open_capture({.timeout_ms = 30});
  const char* path = folder.file("file");
  pcap_dumper_t* dumper = pcap_dump_open(p.get(), path);
  const Sender sender = remote();
  const auto dump_all = [&](unsigned count, unsigned dumped) {
    for (unsigned got = 0; got < dumped;) {
      const int status = pcap_dispatch(p.get(), -1, pcap_dump, reinterpret_cast<u_char*>(dumper));
      CHECK(status >= 0, "%s", pcap_geterr(p.get()));
      got += static_cast<unsigned>(status);
    }
    const auto all = static_cast<std::size_t>(pcap_dump_ftell(dumper));
    CHECK(size_of(path) + kStock > all, "%zu of %zu bytes, after %u", size_of(path), all, count);
  };
  sender.send(0, 400);
  wait_until_received(p.get(), 400);
  dump_all(400, 400);
  sender.send(400, 401);  // the last number is even
  wait_until_received(p.get(), 801);
  set_filter(p.get(), kOdd);
  dump_all(801, 200);
  pcap_dump_close(dumper);
}

void test_many_files_written_when_waiting() {
  constexpr std::size_t kFiles = 10;
  Folder folder;
  Handle p = open_capture();
  std::vector<const char*> paths;
  std::vector<Writer> writers;
  for (std::size_t i = 0; i < kFiles; ++i) {
    paths.push_back(folder.file(std::to_string(i).c_str()));
    writers.push_back(open_writer(p.get(), paths.back()));
  }
  std::size_t next = 0;
  const Action dump = [&] { writers[next++ % kFiles].dump_many(50, 100); };
  while_waiting(
      p.get(), dump,
      [&] {
        for (std::size_t i = 0; i < kFiles; ++i) {
          const std::size_t all = writers[i].expected.bytes.size();
          CHECK(size_of(paths[i]) + kStock >= all, "file %zu: %zu of %zu bytes", i,
                size_of(paths[i]), all);
        }
      },
      dump, dump);
  for (std::size_t i = 0; i < kFiles; ++i) {
    pcap_dump_close(writers[i].dumper());
    check_content(paths[i], writers[i].expected.bytes);
  }
}

void test_other_thread_no_more_than_stock() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  Writer writer = open_writer(p.get(), path);
  within_read(p.get(), [&] {
    std::thread([&] { writer.dump_many(1000, 100); }).join();
    CHECK(size_of(path) + kStock >= writer.expected.bytes.size(), "%zu of %zu bytes", size_of(path),
          writer.expected.bytes.size());
  });
  pcap_dump_close(writer.dumper());
  check_content(path, writer.expected.bytes);
}

void test_flush() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  within_read(p.get(), [&] {
    Writer writer = open_writer(p.get(), path);
    CHECK(pcap_dump_flush(writer.dumper()) == 0, "%s", std::strerror(errno));
    check_content(path, writer.expected.bytes);
    for (const unsigned count : {1u, 1u, 100u, 10'000u}) {
      writer.dump_many(count, 70);
      CHECK(pcap_dump_flush(writer.dumper()) == 0, "%s", std::strerror(errno));
      check_content(path, writer.expected.bytes);
    }
    pcap_dump_close(writer.dumper());
  });
}

/// A pipe gets the same pieces at the same moments as from stock code, in a read too.
void test_pipe_as_stock() {
  Handle p = open_capture();
  std::vector<std::size_t> sizes[2];
  for (const bool off : {false, true}) {
    if (off) setenv("PCAPV3", "off", 1);  // is looked at by pcap_dump_open()
    int ends[2];
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "%s", std::strerror(errno));
    const std::string path = "/dev/fd/" + std::to_string(ends[1]);
    within_read(p.get(), [&] {
      Writer writer = open_writer(p.get(), path.c_str());
      char bytes[65536];
      for (int i = 0; i < 500; ++i) {
        writer.dump(static_cast<std::uint32_t>(i % 150));
        if (i % 100 == 0) pcap_dump_flush(writer.dumper());
        const ssize_t got = read(ends[0], bytes, sizeof(bytes));
        sizes[off].push_back(got > 0 ? static_cast<std::size_t>(got) : 0);
      }
      pcap_dump_close(writer.dumper());
    });
    close(ends[0]);
    close(ends[1]);
  }
  CHECK(sizes[0] == sizes[1], "other pieces than from stock code");
}

const Test kTests[] = {
    {"bytes of packets dumped within a read", test_bytes_within_read},
    {"bytes of packets dumped outside of one", test_bytes_outside},
    {"few and large writes", test_large_writes},
    {"written when a callback left its read by a jump or an exception", test_left_by_a_jump},
    {"outside of a read no more stays than in stock's buffer", test_no_more_than_stock_outside},
    {"all is written when a read waits", test_written_when_waiting},
    {"all is written when a read of several ports waits", test_several_ports_written_when_waiting},
    {"all is written where a filter rejects the last packets", test_written_when_filtered},
    {"ten files when a read waits", test_many_files_written_when_waiting},
    {"another thread's packets during a read", test_other_thread_no_more_than_stock},
    {"pcap_dump_flush", test_flush},
    {"a pipe gets the pieces that stock code writes", test_pipe_as_stock},
};
const Registration kRegistration({.name = "savefile", .tests = kTests, .modes = "ours off"});

}  // namespace
}  // namespace pcapv3::live
