// SPDX-License-Identifier: BSD-3-Clause
// The reader: the one loop that reads packets, for every handle.
//
// It takes batches from the handle's feed and delivers them to the program's callback, drains after
// a break, decides when to wait and when to sleep, ends a read by time, and makes the descriptor
// that a program selects on readable when it should be. The feed decides which packets are next
// (feed.h), delivery.h does what is done to each, and libpcap is reached through host_ops.h alone.
//
//   libpcap's read ─▶ Reader ─▶ Feed: Single | Merged | TwoRings ─▶ Port ─▶ ring
//                        └────▶ Delivery ─▶ the program's callback
//
// A reader of one port waits as stock code does, on the port's socket, until the program holds
// blocks; all others wait on a set (wait_set.h).
//
// Invariants: a callback may itself read, break, set a filter, or leave by longjmp(3), so all state
// is complete whenever one is called. Nothing here allocates, locks or makes a system call per
// packet.
//
// A reader belongs to its handle and to the thread that reads it. What other threads may call is in
// the handle's Break (break.h), except for watch_descriptor() and use_blocks_only().
#pragma once

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>

#include "adaptive/two_rings.h"
#include "break.h"
#include "coalesce.h"
#include "delivery.h"
#include "feed.h"
#include "grace_period.h"
#include "host_ops.h"
#include "hotplug.h"
#include "merged.h"
#include "module.h"
#include "port_set.h"
#include "process.h"
#include "setup/error.h"
#include "setup/log.h"
#include "setup/settings.h"
#include "single.h"
#include "wait_set.h"

struct pcapv3_reader {
 public:
  pcapv3_reader(pcap_t* handle, const pcapv3_host_ops& host, volatile std::sig_atomic_t* break_flag,
                pcapv3::Break& breaking)
      : handle_(handle),
        host_(host),
        break_flag_(break_flag),
        break_(breaking),
        delivery_(break_flag, none_) {}
  ~pcapv3_reader();
  pcapv3_reader(const pcapv3_reader&) = delete;
  pcapv3_reader& operator=(const pcapv3_reader&) = delete;

  static void* operator new(std::size_t bytes) noexcept { return std::malloc(bytes); }
  static void operator delete(void* memory) { std::free(memory); }

  // ---- Setting up (reader_setup.cc) ----

  /// Reads the settings. Returns false, with a text in error(), if one is invalid.
  bool open();
  const char* error() const { return error_.c_str(); }

  /// Has the reader read one port alone, which must have its ring.
  void set_port(pcapv3_port& port, int socket);
  /// In immediate mode, makes the port's second ring; see module.h. add_frames() returns false,
  /// with a text, if the port has to do without it.
  void begin_frames(pcapv3_port& port, int socket, const pcapv3_slots_request& request);
  bool add_frames();
  void drop_frames();
  /// Null if there is no second ring, or never was one.
  pcapv3::TwoRings* two_rings() const { return two_; }

  /// For several ports: makes what reading them needs. Returns false, with a text, if that fails.
  bool open_ports();
  /// Reads ports 0 to `count - 1`, either as the first ports or in place of the same number of
  /// present ones. Must be called before the first read. Returns false, with a text, on failure;
  /// the reader then keeps what it had.
  bool set_ports(unsigned count, pcapv3_port* const* ports, const int* sockets);
  /// Takes all ports out, after the last read. Their sockets stay in the wait set.
  void remove_ports();
  /// Returns the longest retire timeout that the ring of one of several ports should have.
  std::uint32_t max_retire_ms() const;

  bool has_read() const { return reader_.load(std::memory_order_relaxed) != nullptr; }
  /// Must be called when the ports' plans may have changed.
  void follow();
  void set_nonblocking(bool nonblocking) { nonblocking_ = nonblocking; }
  /// Has a read wait until it has a packet, however long that takes, unless reads never wait.
  void set_no_timeout(bool no_timeout) { no_timeout_ = no_timeout; }

  // ---- Reading (reader.cc) ----

  /// Implements libpcap's read_op: pcap_dispatch(3PCAP) says what it returns.
  int read(int count, pcap_handler callback, u_char* user);
  /// Implements pcap_v3_next_block(3); several ports' blocks come in turn.
  int acquire(int timeout_ms, pcap_v3_block** block);
  /// Called in the callback: returns whether the packet stays where it is until the next read.
  bool keeps_packet() const;

  // ---- The descriptor (reader_setup.cc) ----

  /// Is readable whenever a packet can be delivered; -1 if the program waits on the port's socket.
  int descriptor() const { return wait_.is_open() ? wait_.descriptor() : -1; }
  /// Returns whether the program is one of those that must not get it; such a program's reads
  /// return after `timeout_ms`, if that is above 0, without a packet.
  bool hides_descriptor(int timeout_ms);
  /// The program has been given the descriptor. Returns false if it must get the port's socket
  /// instead. Any thread may call it.
  bool watch_descriptor();
  /// The program has the port's socket, which must stay as it is. Any thread may call it.
  void keep_socket();
  /// Has all packets of a port in immediate mode come as blocks from now on. Any thread may call
  /// it.
  void use_blocks_only();

 private:
  enum class Kind : std::uint8_t { kSingle, kMerged, kTwoRings };
  enum class Waited : std::uint8_t { kLook, kOver, kFailed };

  // Setting up.
  void open_drain();
  void note_ring(const pcapv3::Geometry& geometry);
  void note_lone_ring();
  bool enter_set();

  // The feed, by its kind.
  bool is_lone() const { return merged_ == nullptr; }  // by any thread
  bool waits_by_set() const {
    return kind_ != Kind::kSingle || ports_.ports[0]->blocks().has_outstanding();
  }
  bool releases_at_once() const {
    return kind_ == Kind::kSingle || (kind_ == Kind::kTwoRings && two_->is_alone());
  }
  pcapv3::Merge* merge() {
    return kind_ == Kind::kSingle     ? nullptr
           : kind_ == Kind::kTwoRings ? &two_->merged().merge()
                                      : &merged_->merge();
  }
  pcapv3::Ready ready();
  int deliver(int max, pcap_handler callback, u_char* user);
  const char* drop_corrupt();
  pcapv3::PacketCursor* open_packets();
  void release_spent();
  void release_all_spent();
  bool is_drained();
  bool has_more();

  // The loop.
  void begin_read(bool nested);
  void follow_changes();
  int run(int max, int delivered, pcap_handler callback, u_char* user);
  int wait_to_acquire(std::uint64_t until_ns, pcap_v3_block** block);
  int acquire_next(pcap_v3_block** block);
  bool leave_packets();
  bool look_after_ring();
  int fail(const char* text);
  int leave(int status);
  int stay(int status);

  // Breaks.
  bool drains_after_break();
  void begin_drain();
  void clear_ends();
  bool drain_more();
  int end_drain(bool complete);
  std::uint64_t seen() const;

  // Waiting.
  Waited wait(bool& collected);
  Waited wait_by_host();
  bool coalesce();
  bool sleep(int ms);
  bool collect(std::uint64_t wait_ns, bool& some);
  bool look_after_ports();
  bool may_have_packets();
  bool may_have_blocks();
  bool check_lone();
  std::uint64_t until_next();
  std::uint64_t until_look(bool reading) const;
  bool is_reader() const;
  bool waits_forever() const { return no_timeout_ && !nonblocking_; }

  pcap_t* const handle_;
  const pcapv3_host_ops& host_;
  volatile std::sig_atomic_t* const break_flag_;
  pcapv3::Break& break_;
  const pcapv3::Maker maker_;
  pcapv3::ErrorText error_;
  pcapv3::Settings settings_;
  pcapv3::Log debug_;

  Kind kind_ = Kind::kSingle;
  pcapv3::Single single_;
  pcapv3::Merged* merged_ = nullptr;
  pcapv3::TwoRings* two_ = nullptr;
  pcapv3::PortSet ports_;
  pcapv3::Counters none_;  // for packets of several ports, which have counters of their own
  pcapv3::Delivery delivery_;
  unsigned followed_ = 0;  // the sum of the plans' versions

  pcapv3::GracePeriod grace_period_;
  pcapv3::WaitSet wait_;
  bool in_set_ = false;  // whether the ports' sockets are in it
  pcapv3::Hotplug hotplug_{handle_, host_, ports_, wait_, debug_};
  pcapv3::WakeupCoalescing coalescing_;
  bool nonblocking_ = false;
  bool no_timeout_ = false;
  bool nested_ = false;             // the read is in a callback of another one
  bool acquires_ = false;           // blocks were acquired last, rather than packets read
  unsigned next_acquired_ = 0;      // the port whose turn it is
  std::uint64_t drained_seen_ = 0;  // packets seen before its present round
  bool troubled_ = false;  // the lone port's interface went down, and is not known to be up or gone
  std::atomic<bool> watched_{false};          // the program may wait on the descriptor
  std::atomic<const void*> reader_{nullptr};  // the thread that read last; null if none has
  std::uint64_t window_ns_ = 0;
  std::uint64_t timeout_ns_ = 0;  // after which a read returns without a packet; 0: no timeout
  // Times of CLOCK_MONOTONIC.
  std::uint64_t give_up_ns_ = 0;    // when the read under way returns without a packet; 0: never
  std::uint64_t collected_ns_ = 0;  // when events were last asked for
};
