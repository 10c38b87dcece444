// SPDX-License-Identifier: BSD-3-Clause
// Scenarios: what happens around a capture: its interface goes down, is renamed or deleted; its
// process forks, opens many handles, has threads, or lacks privileges. Leaves what reading returns
// otherwise to reading.cc.
#include <grp.h>
#include <linux/capability.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <mutex>

#include "record.h"

namespace pcapv3::fidelity {
namespace {

constexpr int kSnaplen = 2000;  // in immediate mode stock code has a slot of this for each packet

/// For traffic of which no packet may be dropped, however busy the machine: time-outs are what uses
/// up the blocks of stock code's ring.
Options roomy(const char* device = "see0", bool immediate = false) {
  return {.device = device,
          .snaplen = 200,
          .timeout_ms = 100,
          .immediate = immediate,
          .buffer_bytes = 16 << 20};
}

/// One pcap_dispatch that must not wait: its status, and the packets.
void note_dispatch(const char* name, pcap_t* p) {
  Packets packets;
  note_status(name, pcap_dispatch(p, -1, keep, user(packets)), p);
  if (!packets.empty()) note_numbers(name, packets);
}

void note_injected(const char* name, pcap_t* p) {
  const Bytes bytes = bytes_of({.number = 1000});
  note_status(name, pcap_inject(p, bytes.data(), bytes.size()), p);
}

/// How an event loop is told to go on asking.
void note_required_timeout(const char* name, pcap_t* p) {
  const timeval* required = pcap_get_required_select_timeout(p);
  if (required == nullptr) {
    note(name, "no required time-out");
  } else {
    note(name, "required time-out %ld s %ld us", static_cast<long>(required->tv_sec),
         static_cast<long>(required->tv_usec));
  }
}

/// Sends one frame and waits until it can be read.
void send_and_wait(pcap_t* p, const Sender& sender, std::uint32_t number) {
  sender.send(number, 1);
  pollfd ready = {.fd = pcap_get_selectable_fd(p), .events = POLLIN, .revents = 0};
  CHECK(poll(&ready, 1, 10000) == 1, "frame %u does not come", number);
}

// The interface.

/// Runs ip(8) in this network namespace; its exit status.
int ip(const char* arguments) { return std::system((std::string("ip ") + arguments).c_str()); }

void must_ip(const char* arguments) {
  const int status = ip(arguments);
  CHECK(status == 0, "ip %s: %d", arguments, status);
}

/// Waits until an interface is up and its carrier there.
void wait_until_running(const char* interface) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request = {};
  std::snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
  while ((request.ifr_flags & IFF_RUNNING) == 0) {
    CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0, "%s: %s", interface, std::strerror(errno));
  }
  close(fd);
}

/// Waits until what own1 sends comes out at its other end.
void wait_until_connected(const char* other_end) {
  wait_until_running(other_end);
  wait_until_running("own1");
  // The flag shows a little before packets get through, but with the lock held that this waits for
  // (link_watch.c: linkwatch_do_dev).
  must_ip("link set own1 up");
}

/// A veth pair that a scenario may do anything to, in this namespace: it captures on own0 what it
/// sends out of own1.
class OwnLink {
 public:
  OwnLink() {
    ip("link delete own1 2>/dev/null");  // of a scenario that was ended half way
    must_ip("link add own0 type veth peer name own1");
    must_ip("link set own1 arp off up");
    must_ip("link set own0 arp off up");
    wait_until_connected("own0");
  }
  OwnLink(const OwnLink&) = delete;
  OwnLink& operator=(const OwnLink&) = delete;
  ~OwnLink() { ip("link delete own1 2>/dev/null"); }
};

Options own(bool immediate) {
  return {.device = "own0", .snaplen = kSnaplen, .immediate = immediate};
}

void down_and_up() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const OwnLink link;
    const Sender sender("own1");
    const Handle handle = open_capture(own(immediate));
    pcap_t* p = handle.get();
    const int fd = pcap_get_selectable_fd(p);
    note("descriptor", "flags %d", fcntl(fd, F_GETFD));
    set_nonblock(p);
    sender.send(0, 3);
    note_numbers("up", take_until(p, 2));
    send_and_wait(p, sender, 3);
    must_ip("link set own0 down");
    note_ready("down", fd);
    note_dispatch("down, packets left", p);
    note_dispatch("down", p);
    note_ready("down, seen", fd);
    note_dispatch("down, still", p);
    note_required_timeout("down", p);
    note_injected("down, inject", p);
    must_ip("link set own0 up");
    wait_until_connected("own0");
    note_dispatch("up again", p);
    note_ready("up again", fd);
    note_required_timeout("up again", p);
    sender.send(4, 3);
    note_numbers("up again", take_until(p, 6));
    note_stats("counts", p);
  }
}

/// A loop in a thread of its own.
class Loop {
 public:
  explicit Loop(pcap_t* p) : p_(p), thread_([this] { run(); }) {}
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop() { thread_.join(); }

  void wait_for(std::uint32_t count) const {
    while (count_ < count) std::this_thread::yield();
  }
  void wait_until_waiting() const {
    while (id_ == 0) std::this_thread::yield();
    wait_until_asleep(id_);
  }
  /// Waits for its end.
  void note_end(const char* name) {
    while (!ended_) std::this_thread::yield();
    note_status(name, status_, p_);
    note_numbers(name, packets_);
  }

 private:
  void run() {
    id_ = static_cast<pid_t>(syscall(SYS_gettid));
    status_ = pcap_loop(p_, -1, take, reinterpret_cast<u_char*>(this));
    ended_ = true;
  }
  static void take(u_char* pointer, const pcap_pkthdr* header, const u_char* data) {
    Loop* loop = reinterpret_cast<Loop*>(pointer);
    loop->packets_.emplace_back(*header, data);
    ++loop->count_;
  }

  pcap_t* const p_;
  std::atomic<pid_t> id_ = 0;
  std::atomic<std::uint32_t> count_ = 0;
  std::atomic<bool> ended_ = false;
  int status_ = 0;
  Packets packets_;
  std::thread thread_;  // last, so that it finds the others made
};

void down_and_up_blocking() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const OwnLink link;
    const Sender sender("own1");
    const Handle handle = open_capture(own(immediate));
    pcap_t* p = handle.get();
    Loop loop(p);
    sender.send(0, 3);
    loop.wait_for(3);
    for (std::uint32_t number = 3; number < 12; number += 3) {
      loop.wait_until_waiting();
      must_ip("link set own0 down");
      must_ip("link set own0 up");
      wait_until_connected("own0");
      sender.send(number, 3);
      loop.wait_for(number + 3);
    }
    loop.wait_until_waiting();
    pcap_breakloop(p);
    loop.note_end("loop");
  }
}

/// The error, and that it stays, and what can still be asked.
void note_gone(pcap_t* p) {
  note_dispatch("gone", p);
  note_dispatch("gone, again", p);
  note_ready("gone", pcap_get_selectable_fd(p));
  note_required_timeout("gone", p);
  pcap_pkthdr* header = nullptr;
  pcap_pkthdr copy = {};
  const u_char* data = nullptr;
  note_status("gone, next_ex", pcap_next_ex(p, &header, &data), p);
  note("gone, next", "%d", pcap_next(p, &copy) != nullptr);
  note_status("gone, loop", pcap_loop(p, -1, keep, nullptr), p);
  note_injected("gone, inject", p);
  note_stats("gone, counts", p);
  note_status("gone, direction", pcap_setdirection(p, PCAP_D_IN), p);
  bpf_program program;
  note_status("gone, compile", pcap_compile(p, &program, "ip", 1, PCAP_NETMASK_UNKNOWN), p);
  note_status("gone, filter", pcap_setfilter(p, &program), p);
  pcap_freecode(&program);
}

void deleted() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const OwnLink link;
    const Sender sender("own1");
    const Handle handle = open_capture(own(immediate));
    pcap_t* p = handle.get();
    set_nonblock(p);
    send_and_wait(p, sender, 0);
    must_ip("link delete own0");
    note_ready("deleted", pcap_get_selectable_fd(p));
    note_dispatch("deleted, packets left", p);
    note_gone(p);
  }
}

void deleted_blocking() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const OwnLink link;
    const Sender sender("own1");
    const Handle handle = open_capture(own(immediate));
    pcap_t* p = handle.get();
    Loop loop(p);
    sender.send(0, 3);
    loop.wait_for(3);
    loop.wait_until_waiting();
    must_ip("link delete own0");
    loop.note_end("loop");
    note_gone(p);
  }
}

/// Another interface with the same name is another interface.
void replaced() {
  const OwnLink link;
  const Handle handle = open_capture(own(false));
  pcap_t* p = handle.get();
  must_ip("link delete own0");
  const OwnLink other;
  note_dispatch("old handle", p);
  const Sender sender("own1");
  const Handle fresh = open_capture(own(false));
  sender.send(0, 3);
  note_numbers("new handle", take_until(fresh.get(), 2));
  note_dispatch("old handle", p);
}

void renamed() {
  for (const bool immediate : {false, true}) {
    for (const bool live : {false, true}) {
      note("handle", "immediate mode %d, renamed while up %d", immediate, live);
      const OwnLink link;
      const Sender sender("own1");
      const Handle handle = open_capture(own(immediate));
      pcap_t* p = handle.get();
      set_nonblock(p);
      sender.send(0, 3);
      note_numbers("before", take_until(p, 2));
      if (!live) must_ip("link set own0 down");
      note("rename", "%d", ip("link set own0 name own9"));
      if (!live) {
        note_dispatch("down", p);
        must_ip("link set own9 up");
        wait_until_connected("own9");
        note_dispatch("up", p);
        note_dispatch("up, again", p);
      } else {
        sender.send(3, 3);
        note_numbers("after", take_until(p, 5));
      }
      note_stats("counts", p);
      note_required_timeout("after", p);
    }
  }
}

/// Not "any": that goes on with the others.
void any_goes_on() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const OwnLink link;
    const Handle handle =
        open_capture({.device = "any", .snaplen = kSnaplen, .immediate = immediate});
    pcap_t* p = handle.get();
    CHECK(pcap_setdirection(p, PCAP_D_IN) == 0, "%s", pcap_geterr(p));
    Sender("own1").send(0, 3);
    note_numbers("own0", take_until(p, 2));
    must_ip("link set own0 down");
    peer().send(3, 3);
    note_numbers("see0", take_until(p, 5));
    must_ip("link delete own0");
    peer().send(6, 3);
    note_numbers("see0", take_until(p, 8));
    const OwnLink another;
    Sender("own1").send(9, 3);
    note_numbers("new own0", take_until(p, 11));
  }
}

void opened_while_down() {
  const OwnLink link;
  must_ip("link set own0 down");
  for (const bool immediate : {false, true}) {
    const Handle handle = create(own(immediate));
    note_status("activate", pcap_activate(handle.get()), handle.get());
  }
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle handle(pcap_open_live("own0", kSnaplen, 1, 10, error));
  note("open_live", "%d \"%s\"", handle != nullptr, error);
}

// The process.

/// Runs `function` in a child process, and waits for its end.
template <typename Function>
void in_child(Function function) {
  std::fflush(stdout);
  const pid_t child = fork();
  CHECK(child >= 0, "%s", std::strerror(errno));
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(20);  // neither is inherited
    function();
    std::fflush(stdout);
    _exit(EXIT_SUCCESS);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child, "%s", std::strerror(errno));
  note("child", "ended with %d", status);
}

/// The parent's capture goes on, whatever the child does with its copy of the handle.
void forked() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
    pcap_t* p = handle.get();
    const Sender sender = peer();
    std::uint32_t next = 0;
    const auto go_on = [&](const char* name) {
      sender.send(next, 3);
      next += 3;
      note_numbers(name, take_until(p, next - 1));
      note_stats(name, p);
    };
    go_on("before");
    in_child([] {});
    go_on("child that ends");
    in_child([&] { handle.reset(); });
    go_on("child that closes");
    in_child([&] {
      set_nonblock(p);
      pcap_breakloop(p);
      note_dispatch("in the child", p);
    });
    go_on("child that breaks");
    in_child([&] {
      handle.reset();
      const Handle own_handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
      sender.send(100, 3);
      note_numbers("in the child", take_until(own_handle.get(), 102));
    });
    note_numbers("in the parent", take_until(p, 102));
    go_on("child with a handle of its own");
  }
}

/// The same, while a thread waits for packets.
void forked_while_waiting() {
  for (const bool immediate : {false, true}) {
    note("immediate mode", "%d", immediate);
    const Handle handle = open_capture({.snaplen = kSnaplen, .immediate = immediate});
    pcap_t* p = handle.get();
    const Sender sender = peer();
    Loop loop(p);
    sender.send(0, 3);
    loop.wait_for(3);
    loop.wait_until_waiting();
    in_child([&] { pcap_close(p); });
    sender.send(3, 3);
    loop.wait_for(6);
    loop.wait_until_waiting();
    in_child([&] { pcap_breakloop(p); });
    sender.send(6, 3);
    loop.wait_for(9);
    loop.wait_until_waiting();
    pcap_breakloop(p);
    loop.note_end("loop");
    note_stats("counts", p);
  }
}

// Many handles.

/// What a process has that a handle could leave behind.
struct Holdings {
  std::size_t descriptors = count_descriptors();
  std::size_t mappings = count_mappings();
  std::size_t bytes = count_bytes();

  static std::size_t count_mappings() {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) ++count;
    return count;
  }
  static std::size_t count_bytes() {
    // Chunks that malloc keeps for the thread count as used (tcache: 7 of each size); all of them.
    void* chunks[7];
    for (std::size_t size = 8; size < 1100; size += 16) {
      for (void*& chunk : chunks) chunk = std::malloc(size);
      for (void* chunk : chunks) std::free(chunk);
    }
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
  }
};

void note_left(const char* name, const Holdings& before) {
  const Holdings after;
  note(name, "left %zd descriptors, %zd mappings, %zd bytes",
       static_cast<ssize_t>(after.descriptors - before.descriptors),
       static_cast<ssize_t>(after.mappings - before.mappings),
       static_cast<ssize_t>(after.bytes - before.bytes));
}

void open_and_close(int count) {
  for (int i = 0; i < count; ++i) {
    const Handle handle =
        create({.snaplen = 200, .immediate = i % 4 == 1, .buffer_bytes = 1 << 16});
    pcap_t* p = handle.get();
    const int status = pcap_activate(p);
    CHECK(status == 0, "handle %d: %d %s", i, status, pcap_geterr(p));
    if (i % 4 == 2) set_nonblock(p);
    if (i % 4 == 3) set_filter(p, "vlan and ip");
  }
}

/// 1,000 of them; by eight processes, because the kernel takes its time for each.
void thousand_handles() {
  std::fflush(stdout);
  for (int i = 0; i < 8; ++i) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(100);
    open_and_close(4);  // what is set up once has been, also for counting
    const Holdings first;
    const Holdings before;
    open_and_close(125);
    note_left("125 handles", before);
    std::fflush(stdout);
    _exit(EXIT_SUCCESS);
  }
  int ended_well = 0;
  for (int status = 0; wait(&status) > 0;) ended_well += status == 0 ? 1 : 0;
  note("ended well", "%d", ended_well);
}

/// Handles that are never, or in vain, activated. Without a descriptor at the end: stock libpcap
/// leaves one for each.
void handles_without_activation() {
  char error[PCAP_ERRBUF_SIZE];
  const auto make = [&error](const char* device, int count, bool activated) {
    for (int i = 0; i < count; ++i) {
      const Handle handle(pcap_create(device, error));
      if (activated) pcap_activate(handle.get());
    }
  };
  make("see0", 2, false);
  make("nosuch0", 2, true);
  const Holdings before;
  make("see0", 100, false);
  note_left("not activated", before);
  const Holdings between;
  make("nosuch0", 100, true);
  note_left("activated in vain", between);
}

// Threads.

void two_threads() {
  for (const bool immediate : {false, true}) {
    const Handle handles[] = {open_capture(roomy("see0", immediate)),
                              open_capture(roomy("see0", immediate))};
    Packets packets[2];
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 2; ++i) {
      threads.emplace_back([&, i] { packets[i] = take_until(handles[i].get(), 4999); });
    }
    const Sender sender = peer();
    std::thread([&sender] {
      stay_on_cpu();
      sender.send(0, 5000);
    }).join();
    for (std::size_t i = 0; i < 2; ++i) {
      threads[i].join();
      note_numbers("thread", packets[i]);
      note_stats("thread", handles[i].get());
    }
  }
}

/// One thread reads while another sends out of the same handle.
void inject_from_thread() {
  const Handle handle = open_capture(roomy());
  pcap_t* p = handle.get();
  Handle other_end;
  in_namespace(run_arguments().peer, [&] { other_end = open_capture(roomy("play0")); });
  CHECK(pcap_setdirection(other_end.get(), PCAP_D_IN) == 0, "%s", pcap_geterr(other_end.get()));
  std::thread other([p] {
    stay_on_cpu();
    for (std::uint32_t number = 0; number < 1000; ++number) {
      const Bytes bytes = bytes_of({.number = number});
      CHECK(pcap_inject(p, bytes.data(), bytes.size()) == static_cast<int>(bytes.size()), "%s",
            pcap_geterr(p));
    }
  });
  const Sender sender = peer();
  std::thread traffic([&sender] {
    stay_on_cpu();
    sender.send(0, 1000);
  });
  note_numbers("received", take_until(p, 999));
  other.join();
  traffic.join();
  note_numbers("sent", take_until(other_end.get(), 999));
}

/// Threads that open, filter and close handles of their own at the same time.
void threads_that_open() {
  std::atomic<int> opened = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&opened] {
      for (int j = 0; j < 5; ++j) {
        const Handle handle =
            open_capture({.snaplen = 200, .immediate = j % 2 == 1, .buffer_bytes = 1 << 16});
        set_filter(handle.get(), "vlan 5 and ip host 10.0.0.1");
        ++opened;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  note("opened", "%d", opened.load());
}

/// Two threads write to one savefile, in turn; one of them in its callback, so that it waits for
/// packets while the other goes on.
void dump_from_two_threads() {
  constexpr std::uint32_t kLast = 999;
  char path[] = "/tmp/pcapv3-dump-XXXXXX";
  const int fd = mkstemp(path);
  CHECK(fd >= 0, "%s", std::strerror(errno));
  const Handle handle = open_capture(roomy());
  struct Writer {
    std::mutex mutex;
    pcap_dumper_t* dumper;
    static void dump(u_char* writer, const pcap_pkthdr* header, const u_char* bytes) {
      auto* self = reinterpret_cast<Writer*>(writer);
      const std::lock_guard<std::mutex> guard(self->mutex);
      pcap_dump(reinterpret_cast<u_char*>(self->dumper), header, bytes);
    }
  } writer = {.mutex = {}, .dumper = pcap_dump_open(handle.get(), path)};
  CHECK(writer.dumper != nullptr, "%s", pcap_geterr(handle.get()));
  const Sender sender = peer();
  std::thread other([&] {
    stay_on_cpu();
    for (std::uint32_t number = 0; number <= kLast; ++number) {
      if (number % 100 == 0) usleep(1000);  // the reader may wait meanwhile
      sender.send(number, 1);
      const Bytes bytes(200, static_cast<std::uint8_t>(number));
      const pcap_pkthdr header = {.ts = {}, .caplen = 200, .len = 200};
      Writer::dump(reinterpret_cast<u_char*>(&writer), &header, bytes.data());
    }
  });
  const int looped =
      pcap_loop(handle.get(), kLast + 1, Writer::dump, reinterpret_cast<u_char*>(&writer));
  note_status("loop", looped, handle.get());
  other.join();
  pcap_dump_close(writer.dumper);
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle file(pcap_open_offline(path, error));
  CHECK(file != nullptr, "%s", error);
  Packets packets;
  note_status("file", pcap_loop(file.get(), -1, keep, user(packets)), file.get());
  Packets captured;
  for (const Packet& packet : packets) {
    if (packet.header.caplen != 200) captured.push_back(packet);
  }
  note_numbers("captured", captured);
  note("others", "%zu", packets.size() - captured.size());
  close(fd);
  unlink(path);
}

/// Loops that another thread ends, wherever the reader is at that moment.
void break_loops(pcap_t* p, int rounds, Packets& packets) {
  std::atomic<int> round = 0;
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      while (round < i) std::this_thread::yield();
      pcap_breakloop(p);
    }
  });
  int broken = 0;
  while (round < rounds) {
    ++round;
    if (pcap_loop(p, -1, keep, user(packets)) == PCAP_ERROR_BREAK) ++broken;
  }
  other.join();
  note("broken", "%d of %d", broken, rounds);
}

void break_1000_times() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  Packets packets;
  break_loops(p, 1000, packets);
  note("packets", "%zu", packets.size());
  stay_on_cpu();
  peer().send(0, 5);
  note_numbers("after that", take_until(p, 4));
}

/// Two threads that break the same loop. The later one may come too late for it, and break the
/// next.
void break_from_two_threads() {
  const Handle handle = open_capture({.snaplen = kSnaplen});
  pcap_t* p = handle.get();
  const pid_t reader = getpid();
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([p, reader] {
      wait_until_asleep(reader);
      pcap_breakloop(p);
    });
  }
  Packets packets;
  note_status("loop", pcap_loop(p, -1, keep, user(packets)), p);
  for (std::thread& thread : threads) thread.join();
  pcap_breakloop(p);
  note_status("loop", pcap_loop(p, -1, keep, user(packets)), p);
  stay_on_cpu();
  peer().send(0, 5);
  note_numbers("after that", take_until(p, 4));
}

void break_under_traffic() {
  constexpr std::uint32_t kLast = 19999;
  for (const bool immediate : {false, true}) {
    const Handle handle = open_capture(roomy("see0", immediate));
    const Sender sender = peer();
    std::thread traffic([&] {
      stay_on_cpu();
      sender.send(0, kLast + 1);
    });
    Packets packets;
    break_loops(handle.get(), 50, packets);
    if (packets.empty() || number_of(packets.back().bytes) != kLast) {
      for (Packet& packet : take_until(handle.get(), kLast)) packets.push_back(std::move(packet));
    }
    traffic.join();
    note_numbers("frames", packets);
  }
}

// Privileges.

/// Runs `function` in a child process as a user with no capability, or with CAP_NET_RAW only.
template <typename Function>
void as_nobody(bool raw, Function function) {
  in_child([&] {
    constexpr uid_t kNobodysId = 65534;
    __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct data[2] = {};
    if (raw) data[0].effective = data[0].permitted = 1U << CAP_NET_RAW;
    CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && setgroups(0, nullptr) == 0 &&
              setresgid(kNobodysId, kNobodysId, kNobodysId) == 0 &&
              setresuid(kNobodysId, kNobodysId, kNobodysId) == 0 &&
              syscall(SYS_capset, &header, data) == 0,
          "%s", std::strerror(errno));
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // which setresuid() has cleared
    function();
  });
}

void note_devices() {
  char error[PCAP_ERRBUF_SIZE] = "";
  pcap_if_t* devices = nullptr;
  note_status("findalldevs", pcap_findalldevs(&devices, error), error);
  for (const pcap_if_t* device = devices; device != nullptr; device = device->next) {
    note("device", "%s, flags %#x", device->name, device->flags);
  }
  pcap_freealldevs(devices);
}

void note_opening(const char* device) {
  char error[PCAP_ERRBUF_SIZE] = "";
  const Handle live(pcap_open_live(device, kSnaplen, 1, 10, error));
  note(device, "open_live %d \"%s\"", live != nullptr, error);
  for (const bool immediate : {false, true}) {
    const Handle handle = create({.device = device, .snaplen = kSnaplen, .immediate = immediate});
    note_status("can_set_rfmon", pcap_can_set_rfmon(handle.get()), handle.get());
    note_status("activate", pcap_activate(handle.get()), handle.get());
  }
}

void unprivileged() {
  as_nobody(false, [] {
    note_devices();
    for (const char* device : {"see0", "lo", "any", "nosuch0"}) note_opening(device);
  });
}

void net_raw_only() {
  const Sender sender = peer();
  as_nobody(true, [&] {
    note_devices();
    for (const char* device : {"see0", "lo", "any", "nosuch0"}) note_opening(device);
    for (const bool immediate : {false, true}) {
      const Handle handle =
          create({.snaplen = kSnaplen, .immediate = immediate, .buffer_bytes = 16 << 20});
      pcap_t* p = handle.get();
      note_status("promiscuous mode", pcap_set_promisc(p, 1), p);
      note_status("activate", pcap_activate(p), p);
      set_filter(p, "ether[21] & 1 = 1");
      sender.send(0, 10);
      note_numbers("frames", take_until(p, 9));
      note_injected("inject", p);
      note_status("direction", pcap_setdirection(p, PCAP_D_IN), p);
      note_stats("counts", p);
    }
    const Handle handle = create();
    note_status("monitor mode", pcap_set_rfmon(handle.get(), 1), handle.get());
    note_status("activate", pcap_activate(handle.get()), handle.get());
  });
}

constexpr Scenario kTable[] = {
    {"down-and-up", on_one_cpu<down_and_up>},
    {"down-and-up-blocking", on_one_cpu<down_and_up_blocking>},
    {"deleted", on_one_cpu<deleted>},
    {"deleted-blocking", on_one_cpu<deleted_blocking>},
    {"replaced", on_one_cpu<replaced>},
    {"renamed", on_one_cpu<renamed>},
    {"any-goes-on", on_one_cpu<any_goes_on>},
    {"opened-while-down", opened_while_down},
    {"forked", on_one_cpu<forked>},
    {"forked-while-waiting", on_one_cpu<forked_while_waiting>},
    {"1000-handles", thousand_handles, 100},
    {"handles-without-activation", handles_without_activation},
    {"two-threads", two_threads},
    {"inject-from-thread", inject_from_thread},
    {"threads-that-open", threads_that_open},
    {"dump-from-two-threads", dump_from_two_threads},
    {"break-1000-times", break_1000_times, 60},
    {"break-from-two-threads", break_from_two_threads},
    {"break-under-traffic", break_under_traffic},
    {"unprivileged", unprivileged},
    {"net-raw-only", on_one_cpu<net_raw_only>},
};

}  // namespace

extern const std::span<const Scenario> kLifecycleScenarios(kTable);

}  // namespace pcapv3::fidelity
