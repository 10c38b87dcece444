// SPDX-License-Identifier: BSD-3-Clause
// Programs that confine themselves once a handle is activated: a seccomp(2) filter that allows what
// stock libpcap calls, and kills for anything else. With PCAPV3=off it shows that the list is
// stock's.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstddef>
#include <fstream>
#include <string>
#include <vector>

#include "breaks.h"
#include "capture.h"

namespace pcapv3::live {
namespace {

/// What stock libpcap calls in reading, pcap_breakloop(), pcap_stats(), pcap_setfilter() and
/// pcap_close(); what malloc() may; and what this program needs by itself.
constexpr long kAllowed[] = {
    SYS_poll,  SYS_read,          SYS_write,      SYS_getsockopt, SYS_setsockopt,
    SYS_ioctl, SYS_recvfrom,      SYS_fcntl,      SYS_close,      SYS_munmap,
    SYS_mmap,  SYS_brk,           SYS_exit_group, SYS_tgkill,     SYS_rt_sigreturn,
    SYS_futex, SYS_clock_gettime, SYS_madvise,    SYS_uname,      SYS_eventfd2,
};

void confine() {
  std::vector<sock_filter> code = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  for (const long number : kAllowed) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 1));
    code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "%s", std::strerror(errno));
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "%s", std::strerror(errno));
}

pid_t g_thread = 0;

void raise_here() { syscall(SYS_tgkill, g_thread, g_thread, SIGUSR1); }

/// Numbered frames that come in order, counted without memory of each.
struct Seen {
  std::uint32_t next = 0;
  std::uint32_t raise_at = ~0u;
};

void see(u_char* user, const pcap_pkthdr* header, const u_char* bytes) {
  auto& seen = *reinterpret_cast<Seen*>(user);
  const std::uint32_t number = number_of(Bytes(bytes, bytes + header->caplen));
  CHECK(number == seen.next, "frame %u came where %u was due", number, seen.next);
  ++seen.next;
  if (number == seen.raise_at) raise_here();
}

/// Sends frames from another process, which nothing confines, when it is told to by a pipe.
class Peer {
 public:
  Peer() {
    CHECK(pipe(orders_) == 0, "%s", std::strerror(errno));
    pid_ = fork();
    if (pid_ != 0) {
      close(orders_[0]);
      return;
    }
    close(orders_[1]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const Sender sender = remote();
    std::uint32_t sent = 0;
    for (std::uint32_t count; read(orders_[0], &count, sizeof(count)) == sizeof(count);) {
      sender.send(sent, count);
      sent += count;
    }
    _exit(EXIT_SUCCESS);
  }
  ~Peer() { close(orders_[1]); }
  void send(std::uint32_t count) const {
    if (write(orders_[1], &count, sizeof(count)) != sizeof(count)) give_up("a pipe");
  }

 private:
  int orders_[2] = {};
  pid_t pid_ = 0;
};

void read_to(pcap_t* p, Seen& seen, std::uint32_t last) {
  while (seen.next < last) {
    const int status = pcap_dispatch(p, -1, see, reinterpret_cast<u_char*>(&seen));
    CHECK(status >= 0, "status %d, %s", status, pcap_geterr(p));
  }
}

void confined() {
  const Peer sender;
  Handle handle = open_capture({.timeout_ms = 20, .buffer_bytes = 64 << 20});
  pcap_t* p = handle.get();
  bpf_program program = {};
  CHECK(pcap_compile(p, &program, "ether proto 0x88b5", 1, PCAP_NETMASK_UNKNOWN) == 0, "%s",
        pcap_geterr(p));
  break_on(SIGUSR1, p);
  g_thread = getpid();
  std::fflush(stdout);
  confine();

  Seen seen;
  u_char* const user = reinterpret_cast<u_char*>(&seen);
  // Reading: as packets come, and under load, when a busy reader pauses.
  sender.send(10);
  read_to(p, seen, 10);
  sender.send(200'000);
  read_to(p, seen, 200'010);
  CHECK(pcap_setfilter(p, &program) == 0, "%s", pcap_geterr(p));
  sender.send(10);
  read_to(p, seen, 200'020);
  // Packet by packet.
  sender.send(10);
  while (seen.next < 200'030) {
    pcap_pkthdr* header = nullptr;
    const u_char* bytes = nullptr;
    const int status = pcap_next_ex(p, &header, &bytes);
    CHECK(status >= 0, "status %d", status);
    if (status == 1) see(user, header, bytes);
  }
  // Without waiting.
  char error[PCAP_ERRBUF_SIZE];
  CHECK(pcap_setnonblock(p, 1, error) == 0, "%s", error);
  for (int i = 0; i < 100; ++i) {
    CHECK(pcap_dispatch(p, -1, see, user) >= 0, "%s", pcap_geterr(p));
  }
  CHECK(pcap_setnonblock(p, 0, error) == 0, "%s", error);
  // Breaks: by a signal in the callback, and by the callback.
  seen.raise_at = seen.next + 4;
  sender.send(10);
  CHECK(pcap_loop(p, -1, see, user) == PCAP_ERROR_BREAK, "no break");
  read_to(p, seen, 200'040);
  pcap_stat stats = {};
  CHECK(pcap_stats(p, &stats) == 0 && stats.ps_drop == 0, "%s, %u dropped", pcap_geterr(p),
        stats.ps_drop);
  pcap_close(handle.release());
}

/// A signal that comes while the library waits delivers what had come by then: it needs no further
/// system call to be known for one.
void confined_drain() {
  if (is_off()) skip("stock libpcap does not drain");
  Handle handle = create({.timeout_ms = 1000});
  pcap_t* p = handle.get();
  // Of a promiscuous capture stock libpcap's statistics open files.
  CHECK(pcap_set_promisc(p, 1) == 0 && pcap_activate(p) == 0, "%s", pcap_geterr(p));
  break_on(SIGUSR1, p);
  const pid_t reader = getpid();
  const pid_t other = fork();
  if (other == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const Sender sender = remote();
    wait_until_asleep(reader);
    sender.send(0, 20);
    kill(reader, SIGUSR1);
    _exit(EXIT_SUCCESS);
  }
  std::fflush(stdout);
  confine();
  Seen seen;
  const int status = pcap_loop(p, -1, see, reinterpret_cast<u_char*>(&seen));
  CHECK(status == PCAP_ERROR_BREAK && seen.next == 20, "status %d, %u packets", status, seen.next);
  pcap_close(handle.release());
}

const Test kTests[] = {
    {"a program that allows what stock libpcap calls runs to its end", confined, 60},
    {"a signal while it waits delivers what had come", confined_drain},
};
const Registration kRegistration({.name = "confined", .tests = kTests, .modes = "ours off"});

}  // namespace
}  // namespace pcapv3::live
