// Several rings read as one: the module's half of a handle on eth1,eth2, and of one in immediate
// mode, whose port has two rings (frame_ring.h).
//
// The ports are ordinary ones, each with a stock handle that opened it, has its filter and tells
// its statistics. Here they are read: blocks go through the merge (merge.h), and its packets
// through one delivery into the program's callback. Where there is one port, packets are nearly
// always in one of its two rings only; then its blocks are read as if there were no other.
//
// An interface can go away while others go on. Its port stays, and is bound to an interface of the
// same name when there is one again. The stock handles are compat/aggregate.c's: it is asked to.
//
// Belongs to its handle and to the thread that uses that; what others may call is in the handle's
// Break (break.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "break.h"
#include "error.h"
#include "grace_period.h"
#include "log.h"
#include "merge.h"
#include "module.h"
#include "pause.h"
#include "port.h"
#include "process.h"
#include "settings.h"
#include "wait.h"

struct pcapv3_aggregate {
 public:
  /// `lone`: it has one port, whose handle `handle` is; else that is one over the ports' handles.
  pcapv3_aggregate(pcap_t* handle, volatile std::sig_atomic_t* break_flag, pcapv3::Break& breaking,
                   bool lone)
      : handle_(handle),
        break_flag_(break_flag),
        break_(breaking),
        lone_(lone),
        delivery_(break_flag, counters_) {}
  ~pcapv3_aggregate() { break_.set_event(-1); }
  pcapv3_aggregate(const pcapv3_aggregate&) = delete;
  pcapv3_aggregate& operator=(const pcapv3_aggregate&) = delete;

  static void* operator new(std::size_t bytes) noexcept { return std::malloc(bytes); }
  static void operator delete(void* memory) { std::free(memory); }

  /// Reads the settings and makes the descriptors.
  bool open();
  const char* error() const { return error_.c_str(); }

  /// Takes port `index` in, before the first read. False, with a text.
  bool add(unsigned index, pcapv3_port& port, int socket);
  /// Takes ports 0 to `count - 1` in, before the first read, in place of as many that there are, or
  /// as the first. False, with a text, and then it has what it had.
  bool replace(unsigned count, pcapv3_port* const* ports, const int* sockets);
  /// Takes it out, after the last read. Leaves its socket where it is waited for.
  void remove(unsigned index);
  bool has_read() const { return reader_.load(std::memory_order_relaxed) != nullptr; }

  void set_nonblocking(bool nonblocking) { nonblocking_ = nonblocking; }
  void set_endless(bool endless) { endless_ = endless; }
  int descriptor() const { return wait_.descriptor(); }
  /// False if the lone port's socket is to be waited on instead. From any thread.
  bool watch_descriptor();
  /// Is told of changes of the ports' interfaces from now on, and of no others: they are all there.
  void watch_links();
  /// No more packets of a lone port come as frames, though there may be some. From any thread.
  void settle();
  /// Whether the lone port's socket is what the program waits on: it is read without this, or there
  /// are no frames any more.
  bool is_alone() const {
    return lone_ && (ports_[0]->pair().is_alone() ||
                     (ports_[0]->pair().is_ending() && ports_[0]->frames() == nullptr));
  }
  bool hides_descriptor(int timeout_ms);
  std::uint32_t most_retire_ms() const;

  /// Delivers as the ports' plans tell, which have changed.
  void follow_ports();

  /// A read_op of libpcap: pcap_dispatch(3PCAP) tells what it returns.
  int read(int count, pcap_handler callback, u_char* user);
  /// pcap_v3_take_block(3): the ports' blocks in turn.
  int take(int timeout_ms, pcap_v3_block** block);

 private:
  static constexpr unsigned kMostPorts = pcapv3::Merge::kMostPorts;
  static_assert(kMostPorts == PCAPV3_MOST_PORTS);
  /// The merge's number for the lone port's ring of frames; that of its blocks is 0.
  static constexpr unsigned kFrames = 1;

  bool fans_out() const { return settings_.fanout.is_set(); }
  /// The lone port's ring of frames; null: there is none.
  pcapv3::FrameRing* frames() const {
    return lone_ && ports_[0] != nullptr ? ports_[0]->frames() : nullptr;
  }
  void take_in(unsigned index, pcapv3_port& port, int socket);
  void note_ring(const pcapv3::Geometry& geometry);
  bool add_frames();
  void drop_frames();
  bool reads_here();
  bool is_reader() const;
  void give_back_spent();
  void give_back_direct();
  bool look_at_two();
  int direct_error();
  int read_rings(int most, int delivered, pcap_handler callback, u_char* user);
  bool has_direct() const;
  void look();
  int corrupt_block();
  int corrupt(const char* text);
  bool collect(std::uint64_t wait_ns, bool& some);
  std::uint64_t until_next() const;
  int end_drain(bool complete);
  std::uint64_t seen() const;
  int take_blocks(int timeout_ms, pcap_v3_block** block);
  int take_until(std::uint64_t until_ns, pcap_v3_block** block);
  int leave(int status);
  int stay(int status);
  bool has_more() const;
  bool has_more(const pcapv3::Source& source) const;
  void begin_drain(bool whole);
  bool drain_more(bool whole);
  void clear_ends();
  unsigned sources(pcapv3::Source* (&sources)[kMostPorts]);
  bool pause();
  bool look_after_ports();
  std::uint64_t until_look(bool reading) const;
  void check_ports(const pcapv3::Wait::Events& events);
  bool check_lone();
  bool is_read(unsigned index);
  bool bind_again(unsigned index);
  bool has_ports();
  bool leave_merge();
  int lend(pcap_v3_block** block);
  bool may_have_blocks();
  std::uint64_t all() const { return count_ == 0 ? 0 : ~std::uint64_t{0} >> (kMostPorts - count_); }

  const pcapv3::Maker maker_;
  pcap_t* const handle_;
  volatile std::sig_atomic_t* const break_flag_;
  pcapv3::Break& break_;
  pcapv3::GracePeriod grace_period_;  // of several ports; a lone one has its own
  const bool lone_;
  pcapv3::ErrorText error_;
  pcapv3::Settings settings_;
  pcapv3::Log debug_;
  pcapv3::Merge merge_;
  pcapv3::Counters counters_;  // nothing's: each port has its own
  pcapv3::Delivery delivery_;
  pcapv3::Source* direct_ = nullptr;  // of the lone port, whose block is read past the merge
  pcapv3::Wait wait_;
  pcapv3::Pause pause_;
  pcapv3_port* ports_[kMostPorts] = {};
  int sockets_[kMostPorts] = {};
  unsigned count_ = 0;
  std::uint64_t gone_ = 0;       // ports, by bit, that have no interface
  std::uint64_t unread_ = 0;     // of these, those that still have packets
  std::uint64_t down_ = 0;       // ports that had an error, and that netlink does not tell of
  std::uint64_t unwatched_ = 0;  // ports whose socket's events are not told of
  // Times are of CLOCK_MONOTONIC.
  std::uint64_t gone_ns_ = 0;       // when the last of them went
  std::uint64_t collected_ns_ = 0;  // when events were asked for
  std::uint64_t window_ns_ = 0;
  std::uint64_t timeout_ns_ = 0;  // after which a read returns without a packet; 0: never
  std::uint64_t give_up_ns_ = 0;  // when that is, for the read under way; 0: never
  bool troubled_ = false;  // the lone port's interface went down, and is not known to be up or gone
  std::atomic<bool> watched_{false};  // the program may wait by the descriptor
  bool nonblocking_ = false;
  bool endless_ = false;
  std::atomic<const void*> reader_{nullptr};  // the thread that has read last; null: none has
  bool lends_ = false;                        // blocks were taken last, not packets read
  unsigned next_to_lend_ = 0;                 // port
  std::uint64_t drained_seen_ = 0;            // packets before the drain's present round
  bool drains_whole_ = false;                 // it is of blocks that are lent
};
