// Writing savefiles by the functions of libpcap: the bytes of a file, when they are in it, and that
// the dumper is a FILE like any other. Each test opens a capture on the link, because it is in the
// callback of a live read that the library writes in large pieces, and says what holds for stock
// libpcap too, unless it asks is_ours(). Programs that write savefiles are savefile.test's.
#include <fcntl.h>
#include <pcap.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <csetjmp>
#include <functional>
#include <iterator>
#include <list>
#include <utility>

#include "capture.h"

namespace pcapv3::live {
namespace {

constexpr std::size_t kStock = 4096;  // a FILE's buffer
constexpr std::size_t kRecord = 16;   // what comes before a packet in a file

bool is_ours() { return std::strcmp(link_arguments().library, "ours") == 0; }

// ---- Files ----

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

Bytes content_of(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

std::size_t size_of(const char* path) {
  struct stat status = {};
  CHECK(stat(path, &status) == 0, "%s: %s", path, std::strerror(errno));
  return static_cast<std::size_t>(status.st_size);
}

void append_native(Bytes& bytes, std::uint32_t value) {
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
thread_local Current current;

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

void check_content(const char* path, const Bytes& expected) {
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

Writer open_writer(pcap_t* p, const char* path) {
  pcap_dumper_t* dumper = pcap_dump_open(p, path);
  CHECK(dumper != nullptr, "%s", pcap_geterr(p));
  return Writer(dumper);
}

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

// ---- A live read ----

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
  const Sender sender_{"play0", link_arguments().peer};
  std::atomic<unsigned> calls_ = 0;
};

/// Does it in the callback of a live read.
void within_read(pcap_t* p, Action first, Action others = {}) {
  Callback callback(p, std::move(first), std::move(others));
  const int status = callback.loop(p, 2 * Callback::kBatch);
  CHECK(status == 0, "status %d, %s", status, pcap_geterr(p));
}

/// Does `first` and `others` in the callback of a live read, and looks while that waits for more.
void while_waiting(pcap_t* p, Action first, Action look, Action others = {}, Action before = {}) {
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

// ---- Bytes ----

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
  const Sender sender("play0", link_arguments().peer);
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
  const Sender sender("play0", link_arguments().peer);
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

// ---- When ----

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

void test_aggregate_written_when_waiting() {
  if (!is_ours()) skip("stock libpcap has no aggregates");
  written_when_waiting("see0,lo");
}

/// A filter that came between two reads can reject the last packets at hand.
void test_written_when_filtered() {
  Folder folder;
  Handle p = open_capture({.timeout_ms = 30});
  const char* path = folder.file("file");
  pcap_dumper_t* dumper = pcap_dump_open(p.get(), path);
  const Sender sender("play0", link_arguments().peer);
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

// ---- The dumper is a FILE ----

void test_positions() {
  Folder folder;
  Handle p = open_capture();
  within_read(p.get(), [&] {
    Writer writer = open_writer(p.get(), folder.file("file"));
    for (std::uint32_t i = 0; i < 6000; ++i) {
      const auto all = static_cast<std::int64_t>(writer.expected.bytes.size());
      CHECK(pcap_dump_ftell(writer.dumper()) == all && pcap_dump_ftell64(writer.dumper()) == all &&
                ftello(writer.file()) == all,
            "%lld bytes, not %lld", static_cast<long long>(pcap_dump_ftell64(writer.dumper())),
            static_cast<long long>(all));
      writer.dump(i % 200);
    }
    pcap_dump_close(writer.dumper());
  });
}

void test_more_than_4_gib() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  within_read(p.get(), [&] {
    constexpr std::int64_t kFar = std::int64_t{5} << 30;
    Writer writer = open_writer(p.get(), path);
    CHECK(fseeko(writer.file(), kFar, SEEK_SET) == 0, "%s", std::strerror(errno));
    writer.dump_many(10'000, 84);
    CHECK(pcap_dump_ftell64(writer.dumper()) == kFar + 1'000'000, "%lld",
          static_cast<long long>(pcap_dump_ftell64(writer.dumper())));
    pcap_dump_close(writer.dumper());
    CHECK(size_of(path) == kFar + 1'000'000, "%zu bytes", size_of(path));
  });
}

void test_file_is_written_to_in_between() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  within_read(p.get(), [&] {
    Writer writer = open_writer(p.get(), path);
    Bytes& bytes = writer.expected.bytes;
    const auto write = [&](const char* text) {
      std::fwrite(text, 1, std::strlen(text), writer.file());
      bytes.insert(bytes.end(), text, text + std::strlen(text));
    };
    for (int i = 0; i < 5000; ++i) {
      writer.dump(90);
      write("one");
      if (i % 1000 == 500) {
        // In the buffer's past, and back again.
        std::fseek(writer.file(), 16, SEEK_SET);
        std::fputc('a' + i / 1000, writer.file());
        bytes[16] = static_cast<std::uint8_t>('a' + i / 1000);
        std::fseek(writer.file(), 0, SEEK_END);
      }
    }
    // The program's own buffer, then none, then the system's again.
    static char own[1000];
    std::fflush(writer.file());
    std::setvbuf(writer.file(), own, _IOFBF, sizeof(own));
    writer.dump_many(500, 90);
    write("two");
    std::fflush(writer.file());
    std::setvbuf(writer.file(), nullptr, _IONBF, 0);
    writer.dump(90);
    check_content(path, bytes);
    std::setvbuf(writer.file(), nullptr, _IOFBF, 0);
    writer.dump_many(5000, 90);
    pcap_dump_close(writer.dumper());
    check_content(path, bytes);
  });
}

void test_callers_buffer_stays() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  within_read(p.get(), [&] {
    static char own[1000];
    FILE* file = std::fopen(path, "wb");
    std::setvbuf(file, own, _IOFBF, sizeof(own));
    Writer writer(pcap_dump_fopen(p.get(), file));
    CHECK(writer.file() == file, "another stream");
    writer.dump(100);
    CHECK(std::equal(own, own + 140, reinterpret_cast<char*>(writer.expected.bytes.data())),
          "the packet is not in the caller's buffer");
    for (int i = 0; i < 500; ++i) {
      writer.dump(100);
      CHECK(size_of(path) + sizeof(own) >= writer.expected.bytes.size(), "%zu of %zu bytes",
            size_of(path), writer.expected.bytes.size());
    }
    std::setvbuf(file, nullptr, _IONBF, 0);
    writer.dump(100);
    check_content(path, writer.expected.bytes);
    pcap_dump_close(writer.dumper());
  });
}

void test_append() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  Bytes expected = Expected().bytes;
  for (int i = 0; i < 3; ++i) {
    within_read(p.get(), [&] {
      pcap_dumper_t* dumper = pcap_dump_open_append(p.get(), path);
      CHECK(dumper != nullptr, "%s", pcap_geterr(p.get()));
      Writer writer(dumper);
      check_content(path, expected);  // stock code flushes when it seeks to the end
      writer.expected.bytes = expected;
      CHECK(pcap_dump_ftell64(dumper) == static_cast<std::int64_t>(expected.size()), "%lld",
            static_cast<long long>(pcap_dump_ftell64(dumper)));
      writer.dump_many(10'000, 64);
      expected = writer.expected.bytes;
      CHECK(pcap_dump_ftell64(dumper) == static_cast<std::int64_t>(expected.size()), "%lld",
            static_cast<long long>(pcap_dump_ftell64(dumper)));
      pcap_dump_close(dumper);
      check_content(path, expected);
    });
  }
  Handle other(pcap_open_dead(DLT_RAW, kWhole));
  CHECK(pcap_dump_open_append(other.get(), path) == nullptr, "another link type");
}

// ---- Closed, forked, cancelled ----

/// fclose(3) in the place of pcap_dump_close(3PCAP), and a stream of somebody else's in its memory.
void test_closed_as_a_file() {
  Folder folder;
  const char* path = folder.file("file");
  const char* other_path = folder.file("other");
  Handle p = open_capture();
  FILE* other = nullptr;
  std::list<Bytes> memory;
  while_waiting(
      p.get(),
      [&] {
        Writer writer = open_writer(p.get(), path);
        writer.dump_many(100, 100);
        std::fclose(reinterpret_cast<FILE*>(writer.dumper()));
        check_content(path, writer.expected.bytes);
        other = std::fopen(other_path, "wb");
        std::fputs("text", other);
        writer = open_writer(p.get(), path);
        writer.dump_many(100, 100);
        std::fclose(reinterpret_cast<FILE*>(writer.dumper()));
        // Where the stream was is now something that is no stream.
        for (std::size_t size = 400; size < 800; size += 8) {
          memory.emplace_back(size, std::uint8_t{0x7f});
        }
      },
      [&] { CHECK(size_of(other_path) == 0, "another's stream was flushed"); });
  std::fclose(other);
  CHECK(size_of(other_path) == 4, "%zu bytes", size_of(other_path));
}

void test_closed_by_another_thread() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  while_waiting(
      p.get(),
      [&] {
        Writer writer = open_writer(p.get(), path);
        writer.dump_many(1000, 100);
        std::thread([&] { pcap_dump_close(writer.dumper()); }).join();
        check_content(path, writer.expected.bytes);
      },
      [] {});
}

/// Locked by another thread for as long as it likes: neither does the reader wait for that.
void test_locked_by_another_thread() {
  Folder folder;
  const char* path = folder.file("file");
  Handle p = open_capture();
  Writer writer = open_writer(p.get(), path);
  std::atomic<int> step = 0;
  std::thread locker;
  while_waiting(
      p.get(),
      [&] {
        writer.dump_many(100, 100);
        locker = std::thread([&] {
          flockfile(writer.file());
          step = 1;
          while (step != 2) std::this_thread::yield();
          funlockfile(writer.file());
        });
        while (step != 1) std::this_thread::yield();
      },
      [&] {
        step = 2;
        locker.join();
      });
  pcap_dump_close(writer.dumper());
  check_content(path, writer.expected.bytes);
}

/// A thread that is cancelled when it next can be, after or before it dumps, leaves nothing locked.
void test_cancelled() {
  for (const bool before : {false, true}) {
    Folder folder;
    Handle p = open_capture();
    Writer writer = open_writer(p.get(), folder.file("file"));
    const Action action = [&] {
      if (before) pthread_cancel(pthread_self());
      writer.dump_many(1000, 100);
      if (!before) pthread_cancel(pthread_self());
    };
    Callback callback(p.get(), action);
    std::pair<pcap_t*, Callback*> work = {p.get(), &callback};
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void* argument) -> void* {
          const auto& [handle, reader] = *static_cast<std::pair<pcap_t*, Callback*>*>(argument);
          const int status = reader->loop(handle, -1);
          CHECK(false, "status %d, %s", status, pcap_geterr(handle));
          return nullptr;
        },
        &work);
    pthread_join(thread, nullptr);
    pcap_dump_close(writer.dumper());
  }
}

// ---- Errors ----

void test_full_device() {
  Handle p = open_capture();
  within_read(p.get(), [&] {
    Writer writer = open_writer(p.get(), "/dev/full");
    CHECK(!std::ferror(writer.file()), "an error before anything was written");
    writer.dump_many(2, 100);
    CHECK(pcap_dump_flush(writer.dumper()) == -1 && errno == ENOSPC, "%s", std::strerror(errno));
    CHECK(std::ferror(writer.file()), "no error");
    pcap_dump_close(writer.dumper());
  });
}

void test_full_disk() {
  // In a mount namespace of this process alone.
  Folder folder;
  if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", folder.path(), "tmpfs", 0, "size=1M") != 0) {
    skip("can't mount a tmpfs");
  }
  const char* path = folder.file("file");
  Handle p = open_capture();
  within_read(p.get(), [&] {
    Writer writer = open_writer(p.get(), path);
    writer.dump_many(20'000, 100);
    pcap_dump_flush(writer.dumper());
    CHECK(std::ferror(writer.file()), "no error");
    writer.dump_many(20'000, 100);  // does nothing
    Bytes expected = writer.expected.bytes;
    expected.resize(1 << 20);
    check_content(path, expected);
    if (std::strstr(pcap_lib_version(), " 1.10.0") == nullptr) {
      // Nor when there is room again: the file is broken. (1.10.0 did go on.)
      CHECK(mount("", folder.path(), "", MS_REMOUNT, "size=4M") == 0, "%s", std::strerror(errno));
      writer.dump_many(100, 100);
    }
    pcap_dump_close(writer.dumper());
    if (std::strstr(pcap_lib_version(), " 1.10.0") == nullptr) check_content(path, expected);
  });
  umount(folder.path());
}

void test_no_such_folder() {
  Handle p = open_capture();
  CHECK(pcap_dump_open(p.get(), "/no-such-folder/file") == nullptr, "it opened");
  CHECK(std::strcmp(pcap_geterr(p.get()), "/no-such-folder/file: No such file or directory") == 0,
        "%s", pcap_geterr(p.get()));
}

constexpr Test kTests[] = {
    {"bytes of packets dumped within a read", test_bytes_within_read},
    {"bytes of packets dumped outside of one", test_bytes_outside},
    {"few and large writes", test_large_writes},
    {"written when a callback left its read by a jump or an exception", test_left_by_a_jump},
    {"outside of a read no more stays than in stock's buffer", test_no_more_than_stock_outside},
    {"all is written when a read waits", test_written_when_waiting},
    {"all is written when a read of several ports waits", test_aggregate_written_when_waiting},
    {"all is written where a filter rejects the last packets", test_written_when_filtered},
    {"ten files when a read waits", test_many_files_written_when_waiting},
    {"another thread's packets during a read", test_other_thread_no_more_than_stock},
    {"pcap_dump_flush", test_flush},
    {"a pipe gets the pieces that stock code writes", test_pipe_as_stock},
    {"positions after each packet", test_positions},
    {"past 4 GiB", test_more_than_4_gib},
    {"the FILE is written to, sought in and rebuffered in between",
     test_file_is_written_to_in_between},
    {"the caller's FILE keeps its buffer", test_callers_buffer_stays},
    {"pcap_dump_open_append", test_append},
    {"closed by fclose", test_closed_as_a_file},
    {"closed by another thread", test_closed_by_another_thread},
    {"locked by another thread", test_locked_by_another_thread},
    {"cancelled", test_cancelled},
    {"/dev/full", test_full_device},
    {"a full disk", test_full_disk},
    {"no such folder", test_no_such_folder},
};

const Registration kRegistration({.name = "savefile", .tests = kTests, .modes = "ours off"});

}  // namespace
}  // namespace pcapv3::live
