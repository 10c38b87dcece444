// SPDX-License-Identifier: BSD-3-Clause
// A dumper is a FILE like any other: positions, buffers, appending, closing, locking, errors.
#include <sched.h>
#include <sys/mount.h>

#include <atomic>
#include <list>
#include <thread>
#include <utility>

#include "savefiles.h"

namespace pcapv3::live {
namespace {

// ---- The dumper is a FILE

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

// ---- Closed, locked, cancelled

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

// ---- Errors

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

const Test kTests[] = {
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
const Registration kRegistration({.name = "savefile_stream", .tests = kTests, .modes = "ours off"});

}  // namespace
}  // namespace pcapv3::live
