// Blocks that the program has: what <pcap/linux-v3.h> hands out, and all that one needs to be
// walked by any thread and given back at any time, also after its handle was closed.
//
// Which block is lent, and when, is the port's (port.h). Walking one is Delivery's, by a plan that
// is the block's own, so that nothing the handle is told later changes what a block brings.
//
// A slot of the ring that is lent keeps its TP_STATUS_USER; that it is not to be read once more is
// told by its number (source.h). Between the thread that gives a slot back and the one that finds
// it filled again, the block's status is what orders all other memory: stored with release here and
// loaded with acquire there (ring.h), by way of the kernel. What was written to its private area is
// ordered by that as well.
#pragma once

#include <pcap/pcap.h>

#include <atomic>
#include <cstdint>

#include "block.h"
#include "counters.h"
#include "delivery.h"
#include "pcap-linux-v3/include/pcap/linux-v3.h"
#include "ring.h"

namespace pcapv3 {

class Lender;

/// A filter's program, shared by all blocks that were taken while it was the handle's: that can get
/// another one, or be closed, while they are walked.
class Program {
 public:
  /// A copy. Null if memory is short.
  static Program* copy(const bpf_insn* code, unsigned count);
  bpf_insn* code() { return code_; }

  void hold() { holders_.fetch_add(1, std::memory_order_relaxed); }
  void let_go();

 private:
  Program() = default;
  std::atomic<unsigned> holders_{1};
  bpf_insn code_[1];  // and more behind it
};

}  // namespace pcapv3

/// A slot's block, while it is lent. There is one for each slot for as long as the ring lasts.
struct pcap_v3_block {
 public:
  pcap_v3_block() : delivery_(&never_, counters_) {}
  pcap_v3_block(const pcap_v3_block&) = delete;
  pcap_v3_block& operator=(const pcap_v3_block&) = delete;

  const pcap_v3_info& info() const { return info_; }
  int dispatch(int count, pcap_handler callback, u_char* user);
  int next(const pcap_pkthdr** header, const u_char** bytes);
  /// The header of the packet that was got last; null if there was none.
  const tpacket3_hdr* current() const { return got_ != nullptr ? got_ : cursor_.walked(); }
  /// What the program can write to for as long as it has the block; null if there is no such area.
  void* private_area();
  void give_back();

 private:
  friend class pcapv3::Lender;
  static void keep(u_char* user, const pcap_pkthdr* header, const u_char* bytes);
  int drop_rest();

  static const volatile std::sig_atomic_t never_;
  pcapv3::Lender* lender_ = nullptr;
  tpacket_block_desc* block_ = nullptr;
  pcapv3::TellingCursor cursor_;
  pcapv3::Counters counters_;
  pcapv3::Delivery delivery_;
  pcapv3::Program* program_ = nullptr;
  pcap_v3_info info_{};
  const tpacket3_hdr* got_ = nullptr;  // by next(); null in a dispatch()
  pcap_pkthdr header_{};               // what next() gave
  const u_char* bytes_ = nullptr;
};

namespace pcapv3 {

/// Lends the blocks of one ring. Lives until its port is closed and the last block is back.
class Lender {
 public:
  /// For `ring`, whose port's device has this name. Null if memory is short.
  static Lender* create(const Ring& ring, const char* device);
  Lender(const Lender&) = delete;
  Lender& operator=(const Lender&) = delete;

  // By the thread that reads the port.

  /// Lends the block in slot `index`, from `cursor` on. `program` is what `plan` filters by, if it
  /// does; `info` lacks nothing but the interface's name.
  pcap_v3_block* lend(unsigned index, const PacketCursor& cursor, const Plan& plan,
                      Program* program, const pcap_v3_info& info);
  /// Blocks that are out now.
  unsigned out() const { return holders_.load(std::memory_order_relaxed) - 1; }
  unsigned most_out() const { return most_out_; }
  /// Adds to `counters` what has been counted in blocks that are back, and was not yet added.
  void collect(Counters& counters);
  /// Packets that were lent and have not been collect()ed.
  std::uint64_t uncollected() const { return uncollected_; }
  /// The port is gone: keeps its ring for as long as blocks are outstanding.
  void close(Ring&& ring);

  // By any thread.

  void take_back(pcap_v3_block& block);
  std::uint32_t private_bytes() const { return private_bytes_; }

 private:
  Lender() = default;
  ~Lender();
  void let_go();

  std::atomic<unsigned> holders_{1};  // the port, and each block that is out
  std::atomic<std::uint64_t> delivered_{0};
  std::atomic<std::uint64_t> filtered_{0};
  std::atomic<std::uint64_t> other_way_{0};
  std::atomic<std::uint64_t> corrupt_{0};
  std::atomic<std::uint64_t> unwalked_{0};
  unsigned most_out_ = 0;
  std::uint64_t uncollected_ = 0;
  char device_[64] = "";
  const Ring* ring_ = nullptr;  // the port's, until that is gone
  Ring kept_;
  pcap_v3_block* blocks_ = nullptr;
  unsigned count_ = 0;
  std::uint32_t private_bytes_ = 0;
};

}  // namespace pcapv3
