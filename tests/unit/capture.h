// SPDX-License-Identifier: BSD-3-Clause
// A capture over a fake kernel (fake_kernel.h): ports, and the reader over them, opened as the seam
// opens them, with a host that stands in for libpcap. It can have each of the reader's three feeds.
#pragma once

#include <pcap/pcap.h>

#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "fake_kernel.h"
#include "pcap-linux-v3/counters.h"
#include "pcap-linux-v3/module.h"

struct pcap_v3_block;

namespace pcapv3::test {

using Numbers = std::vector<std::uint32_t>;

enum class FeedKind { kSingle, kMerged, kTwoRings };

class Capture {
 public:
  struct Options {
    unsigned ports = 2;  ///< For a merged capture.
    bool nonblocking = false;
    bool no_timeout = false;
    int timeout_ms = 1000;
    bool drain = true;
    bool hides_descriptor = false;  ///< Reads then end by time.
    const char* buffer = "1M";      ///< This makes eight blocks. Null: the ring starts small and
                                    ///< grows, and its retire timeout is timeout_ms.
    bool promiscuous = false;
  };
  static constexpr std::uint64_t kMs = FakeKernel::kMs;

  explicit Capture(FeedKind kind) : Capture(kind, Options()) {}
  Capture(FeedKind kind, const Options& options);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// Runs when everything is closed.
  std::function<void()> after_close;

  // ---- Packets ----

  /// Has the next packet come to a port. Returns whether there was room.
  bool send(unsigned port = 0, std::size_t bytes = 60);
  /// Sends `count` packets, to the ports in turn.
  void send_many(unsigned count, std::size_t bytes = 60);
  /// Sends a packet that the kernel counts now, but goes on storing until the next grace period.
  void send_slowly(unsigned port = 0);
  unsigned sent() const { return next_; }
  /// Returns the numbers of the packets that were stored.
  const std::set<std::uint32_t>& stored() const { return stored_; }
  /// Corrupts the packet that came to a port last.
  void spoil_last(unsigned port = 0);
  /// Lets the retire timers expire, so that the reader owns all packets.
  void retire() { kernel.pass(9 * kMs); }

  // ---- Reading ----

  /// Reads as pcap_dispatch(3PCAP) does; what comes is added to `got`.
  int read(int count = -1);
  /// Does the same, and repeats it as long as it brings nothing: a read may end by an event that
  /// brings no packet which may go yet.
  int read_some(int count = -1);
  /// Reads until nothing is left.
  void read_all();
  /// Reads until `count` packets have come, or 50 times.
  void read_until(std::size_t count);
  /// Returns the numbers read since the last call.
  Numbers take() { return std::move(got); }
  int acquire(int timeout_ms, pcap_v3_block** block);
  /// Reads a block to its end, into `got`.
  void walk(pcap_v3_block* block);
  void release(pcap_v3_block* block);
  Numbers got;
  /// The packet that came last, and whether it stays until the next read.
  const u_char* last_bytes = nullptr;
  bool is_kept = false;
  std::function<void(std::uint32_t number)> in_callback;

  // ---- Breaks ----

  /// Does what pcap_breakloop(3PCAP) does.
  void break_loop();
  /// Do the same in a signal handler on this thread, and on another thread.
  void break_in_handler();
  void break_in_thread();

  // ---- The host ----

  /// Packets pass if `filter` returns true; if it is empty, all do.
  void set_filter(std::function<bool(std::uint32_t number)> filter);
  /// If not 0 when a filter is set: the kernel has that filter, and it runs here for this many
  /// blocks only.
  unsigned old_blocks = 0;
  void set_nonblocking(bool nonblocking);
  std::function<int()> in_wait;  ///< Runs in place of the host's wait.
  std::string error;
  std::vector<bool> gone;       ///< Ports whose interface is gone.
  std::vector<bool> returning;  ///< Of these, those that can be bound again.
  unsigned looks_after_trouble = 0;
  unsigned rings_replaced = 0;  ///< How often the host was told so.
  /// Numbers that the filter has rejected.
  std::set<std::uint32_t> rejected;

  // ---- What there is ----

  FakeKernel kernel;
  pcapv3_reader* reader = nullptr;
  pcapv3_port* port(unsigned index) { return ports_[index].port; }
  int socket(unsigned index) const { return ports_[index].socket; }
  unsigned ports() const { return static_cast<unsigned>(ports_.size()); }
  /// Returns the counters of all ports, after the kernel's counts were asked for.
  Counters counters();
  /// Returns whether the counts of pcap_stats(3PCAP) are frozen, and stores those of all ports
  /// together.
  bool frozen(pcap_stat& stats) const;
  /// Returns whether the descriptor reports that it is time to read.
  bool is_readable() const;
  bool break_flag_is_set() const { return break_flag_ != 0; }

 private:
  /// A handle as the module knows it: a pcap_t that it never looks into.
  struct Handle {
    Capture* capture;
    unsigned index;
  };
  struct Port {
    std::unique_ptr<Handle> handle;
    int socket = -1;
    int ifindex = 0;
    pcapv3_port* port = nullptr;
  };
  struct Host;

  static Handle& of(pcap_t* handle) { return *reinterpret_cast<Handle*>(handle); }
  static void callback(u_char* user, const pcap_pkthdr* header, const u_char* bytes);
  void open_port(Port& port);
  int wait();
  bool has_filter() const { return !filters_.empty() && filters_.back(); }
  int filter(std::size_t filter, const u_char* bytes, unsigned captured);

  const FeedKind kind_;
  const Options options_;
  std::vector<Port> ports_;
  Handle own_{this, ~0u};
  pcapv3_break breaking_{};
  volatile std::sig_atomic_t break_flag_ = 0;
  bool break_event_ = false;
  bool nonblocking_;
  bool filters_old_blocks_ = false;
  int frames_ = -1;
  std::uint32_t next_ = 0;
  std::set<std::uint32_t> stored_;
  /// All filters that were set, because blocks keep theirs; the last one is the handle's.
  std::vector<std::function<bool(std::uint32_t)>> filters_;
  static inline Capture* the_capture = nullptr;
  struct sigaction before_ {};
};

/// Returns `first`, `first` + 1, ... up to `last`.
Numbers from_to(std::uint32_t first, std::uint32_t last);

}  // namespace pcapv3::test
