// A port: one interface being captured, the module's half of a stock handle.
//
// It puts the pieces together: settings and machine into a geometry, that into a ring, the ring
// into a source, and the source's packets through delivery into the program's callback. It decides
// when to wait, and asks libpcap to do the waiting. A port that is one of an aggregate's is read by
// that (aggregate.h), block by block, and only keeps its own books.
//
// A port belongs to its handle and to the thread that uses that; what others may call is in the
// handle's Break (break.h).
#pragma once

#include <csignal>
#include <cstdint>
#include <cstdlib>

#include "block_wait.h"
#include "break.h"
#include "counters.h"
#include "delivery.h"
#include "error.h"
#include "frame_ring.h"
#include "grace_period.h"
#include "intake.h"
#include "lending.h"
#include "log.h"
#include "machine.h"
#include "module.h"
#include "pace.h"
#include "pair.h"
#include "pause.h"
#include "process.h"
#include "ring.h"
#include "settings.h"
#include "source.h"

struct pcapv3_aggregate;

struct pcapv3_port {
 public:
  pcapv3_port(pcap_t* handle, pcapv3::Break& breaking, const char* device);
  ~pcapv3_port();
  pcapv3_port(const pcapv3_port&) = delete;
  pcapv3_port& operator=(const pcapv3_port&) = delete;

  // The memory is malloc's, so that the library needs nothing of a C++ run-time library.
  static void* operator new(std::size_t bytes) noexcept { return std::malloc(bytes); }
  static void operator delete(void* memory) { std::free(memory); }

  // Setting up.
  bool open();
  bool keeps_books() const { return stats_.on(); }
  /// Whether this process is the one that reads it, or else has made it; a forked one, that only
  /// has a copy, is to close that and no more. And whether nobody can have a copy.
  bool is_own() const { return read_in_ == pcapv3::process_generation(); }
  bool is_sole() const { return !maker_.is_other() && forks_before_ == pcapv3::forks_made(); }
  /// Whether immediate mode is to be V3's, and whether it is to have a ring of frames besides.
  bool takes_immediate() const;
  bool adapts() const;
  bool fans_out() const { return settings_.fanout.is_set(); }
  bool shut(int fd);
  bool join_fanout(int fd, int index, bool loopback);
  bool renew(int fd, int spare, int index, bool loopback);
  /// Begins to make a second ring, of frames, on `frames`, which is the port's from then on.
  void begin_frames(int frames, int interface, bool cooked);
  /// Whether that is made. False: it is gone.
  bool has_made_frames();
  /// Leaves it to the caller, closed or nearly.
  pcapv3::FrameRing* part_with_frames();
  int frames_socket() const { return frames_ != nullptr ? frames_->socket() : -1; }
  /// The same once packets come there.
  int second_socket() const { return pair_.is_joined() ? frames_socket() : -1; }
  int make_ring(int fd, const pcapv3_wish& wish);
  void refresh();
  void filter_set();
  void say_stock(const char* why);
  const pcapv3::Ring& ring() const { return ring_; }
  unsigned unfinished_blocks() const { return source_.handed_over() + 1; }
  const char* error() const { return error_.c_str(); }

  bool hides_descriptor() const { return settings_.hides_descriptor; }

  // Reading a handle of its own.
  int read(int count, pcap_handler callback, u_char* user);
  /// Whether the packet being delivered stays where it is until the next read: its block does if
  /// more of it is left.
  bool can_lend() const { return !source_.cursor().done(); }
  bool closed_books(pcap_stat& stats) const;
  void before_count();
  void count(unsigned packets, unsigned drops, unsigned freezes);

  // Lending blocks.
  int take(int timeout_ms, pcap_v3_block** block);
  bool has_lent() const { return lender_ != nullptr && lender_->out() != 0; }
  /// Has what lending needs made, if it was not yet. False, with a text in error().
  bool prepare_lending();
  /// Lends the next block, if there is one: 1, 0, or PCAP_ERROR with a text in error(). `place` is
  /// the port's in a list of several.
  int lend(unsigned place, pcap_v3_block** block);

  // Being read by an aggregate.
  /// From now on it is `aggregate`'s, which is told of every new plan.
  void join(pcapv3_aggregate& aggregate) {
    aggregate_ = &aggregate;
    merged_ = true;
  }
  /// Now it reads itself again.
  void leave() { aggregate_ = nullptr; }
  const pcapv3::Plan& plan() const { return plan_; }
  pcapv3::Source& source() { return source_; }
  pcapv3::Counters& counters() { return counters_; }
  const char* device() const { return device_; }
  /// The ring of frames, of a port in immediate mode; null: it has none.
  pcapv3::FrameRing* frames() const { return frames_; }
  /// Takes in what has come there, and changes over if it is time. `now_ns` as pace.h wants it.
  void take_frames(std::uint64_t now_ns);
  /// How long until time alone makes it change over, in nanoseconds; ~0: never.
  std::uint64_t until_frames(std::uint64_t now_ns) const;
  /// Has the kernel see that there is room for blocks again; to be called at each look.
  void relieve(int socket);
  /// What becomes of the two rings.
  pcapv3::Pair& pair() { return pair_; }
  /// Has packets of `socket` come by one or the other from now on, if they do not yet, and if it is
  /// time to try. False if that can't be.
  bool join_frames(int socket);
  bool is_settled() const { return settled_; }
  void clear_frames_error();
  void drop_frames();
  /// Delivers from the open block of `source`, one of the port's two.
  int deliver_from(pcapv3::Source& source, int most, pcap_handler callback, u_char* user);
  int deliver_one(pcapv3::Source& source, pcap_handler callback, u_char* user) {
    return delivery_.run(source.cursor(), 1, callback, user);
  }
  /// Tells the kernel what the first read does (intake.h).
  void begin_read();
  /// For drains, which read the kernel's open block; without it they leave that.
  void open_grace_period();
  pcapv3::GracePeriod& grace_period() { return grace_period_; }
  /// Gives back the oldest block.
  void close_block();
  /// The text of the error that the packet at `cursor` makes; the rest of its block is lost.
  const char* corrupt_block(const pcapv3::PacketCursor& cursor, unsigned block);
  /// Has the counts of pcap_stats(3PCAP) stay as they are now, until the next begin_read().
  void close_books(bool complete);

 private:
  void consider_bypass(std::uint64_t now_ns);
  int read_blocks(int most, int delivered, pcap_handler callback, u_char* user);
  bool pause();
  int wait();
  int take_until(std::uint64_t until_ns, pcap_v3_block** block);
  int wait_past_lent(std::uint64_t until_ns);
  int check();
  void tell_books();
  void leave_block();
  bool filter_program(pcapv3::Plan& plan);
  int deliver_block(int most, pcap_handler callback, u_char* user);
  void begin_drain(bool whole);
  bool drain_more(bool whole);
  int end_drain(bool complete);

  pcap_t* const handle_;
  const pcapv3::Maker maker_;
  std::uint32_t read_in_ = pcapv3::process_generation();
  const std::uint32_t forks_before_ = pcapv3::forks_made();
  pcapv3_aggregate* aggregate_ = nullptr;
  char device_[64];  // a copy: stock code may free its own first; longer names are no interface's
  volatile sig_atomic_t* const break_flag_;
  pcapv3::ErrorText error_;
  pcapv3::Settings settings_;
  pcapv3::Log debug_;
  pcapv3::Log stats_;
  pcapv3::Counters counters_;
  pcapv3::Ring ring_;
  pcapv3::Source source_{ring_};
  pcapv3::Plan plan_;
  pcapv3::Delivery delivery_;
  pcapv3::Intake intake_;
  pcapv3::Break& break_;
  pcapv3::GracePeriod grace_period_;
  pcapv3::Pause pause_;
  pcapv3::FrameRing* frames_ = nullptr;
  pcapv3::Pace pace_{pcapv3::kernel_is_at_least(6, 18)};
  std::uint64_t block_packets_ = 0;  // that came in blocks and pace_ does not know of
  std::uint64_t busy_since_ns_ = 0;  // and the blocks read by then
  std::uint64_t busy_since_block_ = 0;
  bool bypassed_ = false;    // the kernel does not ask the ring of frames
  bool has_frames_ = false;  // or had
  bool settled_ = false;
  pcapv3::Pair pair_;
  std::uint64_t joining_ns_ = 0;        // when it is time to try, by CLOCK_MONOTONIC
  bool pressed_ = false;                // the ring of blocks was half full
  bool merged_ = false;                 // its packets can have come late
  pcapv3::Lender* lender_ = nullptr;    // once a block was taken
  pcapv3::Program* program_ = nullptr;  // of the plan's filter, for blocks; null: not copied yet
  pcapv3::BlockWait block_wait_;
  bool troubled_ = false;        // the socket had an error, and nothing came since
  std::uint64_t filling_ = 0;    // as before_count() saw it
  std::uint64_t lost_from_ = 0;  // numbers of blocks that packets may be missing before
  std::uint64_t lost_to_ = 0;
  pcapv3::Geometry first_ring_;  // as that was got
  bool flow_hash_ = false;
  std::uint64_t largest_packet_ = 0;
  std::uint32_t cut_at_ = 0;  // bytes to have packets cut at in the kernel; 0: not, or done
  bool books_closed_ = false;
  std::uint64_t drained_seen_ = 0;  // packets before the drain's present round
  bool drains_whole_ = false;       // it is of blocks that are lent
  std::uint64_t closed_received_ = 0;
  int break_event_ = -1;  // libpcap's eventfd(2); -1: there is none
  bool nonblocking_ = false;
  bool active_ = false;
  bool endless_ = false;
  bool dumps_all_ = false;  // the callback dumped each of many packets to one file
  bool filtering_old_blocks_ = false;
  pcapv3::Stamp filter_set_ = 0;
};
