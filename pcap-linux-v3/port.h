// SPDX-License-Identifier: BSD-3-Clause
// A port: one packet socket with its ring, its delivery options and its counters; the module's half
// of a stock handle on one interface.
//
// It chooses and makes the ring, follows what the program sets on the handle, and accounts for each
// packet. It has no loop, does not wait and knows nothing of breaks: the reader decides what is
// read from it, and when (reader.h).
//
// A port belongs to its handle and to the thread that uses that. The exceptions are is_sole() and
// frozen_stats(), which a signal handler may call.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "blocks/port_blocks.h"
#include "counters.h"
#include "delivery.h"
#include "growth/growth.h"
#include "host_ops.h"
#include "module.h"
#include "process.h"
#include "ring.h"
#include "ring_position.h"
#include "setup/error.h"
#include "setup/geometry.h"
#include "setup/log.h"
#include "setup/settings.h"
#include "setup/socket_options.h"

struct pcapv3_port {
 public:
  pcapv3_port(pcap_t* handle, const pcapv3_host_ops& host, const char* device);
  ~pcapv3_port();
  pcapv3_port(const pcapv3_port&) = delete;
  pcapv3_port& operator=(const pcapv3_port&) = delete;

  // The memory comes from malloc, so that the library needs no C++ run-time library.
  static void* operator new(std::size_t bytes) noexcept { return std::malloc(bytes); }
  static void operator delete(void* memory) { std::free(memory); }

  // ---- Setting up ----

  /// Reads the settings. Returns false, with a text in error(), if one is invalid.
  bool open();
  const char* error() const { return error_.c_str(); }
  bool set_error(const char* text) { return error_.set("%s", text); }
  bool wants_summary() const { return stats_.on(); }
  /// is_own() returns whether this process reads the port or, if none has read it yet, has made it;
  /// a forked process that only has a copy must close that and do no more. is_sole() returns
  /// whether no other process can have a copy.
  bool is_own() const { return read_in_ == pcapv3::process_generation(); }
  bool is_sole() const { return !maker_.is_other() && forks_before_ == pcapv3::forks_made(); }
  /// takes_immediate() returns whether V3 serves immediate mode; adapts(), whether it also gets a
  /// second ring, of V2 slots.
  bool takes_immediate() const;
  bool adapts() const;
  bool fans_out() const { return settings_.fanout.is_set(); }
  bool attach_drop_all(int fd);
  bool join_fanout(int fd, int index, bool loopback);
  int make_ring(int fd, const pcapv3_ring_request& request);
  /// Continues with the socket `spare` in place of `fd`; see module.h: pcapv3_port_replace_socket.
  bool replace_socket(int fd, int spare, int index, bool loopback);
  void log_stock(const char* why);

  // ---- What the handle is ----

  pcap_t* handle() const { return handle_; }
  const pcapv3_host_ops& host() const { return host_; }
  const char* device() const { return device_; }
  const pcapv3::Settings& settings() const { return settings_; }
  pcapv3::Log& debug() { return debug_; }
  /// Returns the packet socket; requires that refresh() was called.
  int socket() const { return socket_; }
  bool is_promiscuous() const { return promiscuous_; }
  std::uint32_t headroom() const { return headroom_; }
  const pcapv3::Ring& ring() const { return ring_; }
  pcapv3::RingPosition& position() { return position_; }
  const pcapv3::RingPosition& position() const { return position_; }
  unsigned unfinished_blocks() const { return position_.handed_over() + 1; }

  /// Looks at the handle again and makes a new plan.
  void refresh();
  /// Does the same after a filter was set; the kernel must have it by now.
  void filter_set();
  const pcapv3::Plan& plan() const { return plan_; }
  /// Returns a different number for each plan.
  unsigned plan_version() const { return plan_version_; }

  // ---- Being read ----

  /// Must be called when a read begins: sets the socket options that wait for the first read, and
  /// unfreezes the statistics.
  void begin_read();
  /// Releases the oldest block to the kernel.
  void release_block();
  /// Counts a block that was acquired, of so many bytes.
  void count_block(std::uint32_t bytes);
  /// While this is set, packets older than some of the ring's blocks are still to be read from
  /// elsewhere, so the userland filter for old packets stays.
  void hold_old_filter(bool hold) { holds_old_filter_ = hold; }
  /// Counts the packet at `cursor` as corrupt, and the rest of its block as lost. Returns the text
  /// for it, which is in error(), too.
  const char* count_corrupt(const pcapv3::PacketCursor& cursor, unsigned block);
  pcapv3::PortBlocks& blocks() { return blocks_; }
  const pcapv3::PortBlocks& blocks() const { return blocks_; }

  // ---- Its ring's growth (growth/growth.h) ----

  pcapv3::Growth& growth() { return growth_; }
  /// Returns how many bytes of the ring a block has used up, which was handed over and not
  /// released: all of its bytes if the next packet did not fit into it.
  std::uint32_t used_bytes(const tpacket_hdr_v1& block) const;
  /// Returns the sum of these for all blocks that were ever released or acquired, and for those
  /// that are handed over, as far as these are more than half of the ring's blocks.
  std::uint64_t bytes_read() const { return bytes_read_; }
  std::uint64_t backlog_bytes() const;
  /// Must be called when the ring has been replaced; `packets` and `drops` have been counted since
  /// the counts were last asked for.
  void ring_replaced(unsigned packets, unsigned drops);
  /// Must be called when nothing of the ring before is used any more.
  void leave_old_ring();

  // ---- Statistics ----

  pcapv3::Counters& counters() { return counters_; }
  /// Returns the number of packets in the blocks that were released or acquired.
  std::uint64_t packets_in_blocks() const { return packets_in_blocks_; }
  /// These choose the lines that the summary has; see counters.h: summarize.
  void summarize_late(bool merged) { merged_ = merged; }
  void summarize_frames(bool two_rings) { two_rings_ = two_rings; }
  /// Freezes the counts of pcap_stats(3PCAP) as they are now until the next begin_read(). If not
  /// `complete`, only brings them up to date.
  void freeze_stats(bool complete);
  bool frozen_stats(pcap_stat& stats) const;
  void before_count();
  void count(unsigned packets, unsigned drops, unsigned freezes);
  /// Returns whether, by the counts, packets may be missing before or in the block with this
  /// number.
  bool may_have_lost(std::uint64_t sequence) const {
    return sequence >= lost_from_ && sequence <= lost_to_;
  }

 private:
  void write_summary();

  pcap_t* const handle_;
  const pcapv3_host_ops& host_;
  const pcapv3::Maker maker_;
  std::uint32_t read_in_ = pcapv3::process_generation();
  const std::uint32_t forks_before_ = pcapv3::forks_made();
  char device_[64];  // a copy, because stock code may free its own first; no interface has a longer
                     // name
  pcapv3::ErrorText error_;
  pcapv3::Settings settings_;
  pcapv3::Log debug_;
  pcapv3::Log stats_;

  pcapv3::Ring ring_;
  pcapv3::RingPosition position_{ring_};
  pcapv3::PortBlocks blocks_;
  pcapv3::Geometry first_ring_;  // the first ring as the kernel granted it
  pcapv3::Growth growth_;
  pcapv3::RingRequest request_;
  std::uint32_t headroom_ = pcapv3::kFrameHeadroom;
  int socket_ = -1;
  bool promiscuous_ = false;
  bool flow_hash_ = false;
  std::uint64_t largest_packet_ = 0;
  pcapv3::SocketOptions options_;
  std::uint32_t truncate_at_ = 0;  // bytes that the kernel is to truncate packets to; 0: none, or
                                   // done

  pcapv3::Plan plan_;
  unsigned plan_version_ = 0;
  bool active_ = false;
  bool filtering_old_blocks_ = false;
  bool holds_old_filter_ = false;
  pcapv3::Stamp filter_set_ = 0;

  pcapv3::Counters counters_;
  std::uint64_t packets_in_blocks_ = 0;
  std::uint64_t bytes_read_ = 0;
  bool merged_ = false;
  bool two_rings_ = false;
  bool frozen_ = false;
  std::uint64_t frozen_received_ = 0;
  std::uint64_t filling_ = 0;    // as before_count() saw it
  std::uint64_t lost_from_ = 0;  // the numbers of blocks that packets may be missing before
  std::uint64_t lost_to_ = 0;
};
