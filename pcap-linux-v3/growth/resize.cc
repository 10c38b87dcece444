// SPDX-License-Identifier: BSD-3-Clause
#include "growth/resize.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "growth/copies.h"
#include "setup/fanout.h"
#include "setup/socket_options.h"

namespace pcapv3 {
namespace {

void request_stamps(int socket, bool on) {
  const int value = on ? 1 : 0;
  (void)setsockopt(socket, SOL_SOCKET, SO_TIMESTAMPNS, &value, sizeof(value));
}

bool change_membership(int socket, int ifindex, bool add) {
  packet_mreq request{};
  request.mr_ifindex = ifindex;
  request.mr_type = PACKET_MR_PROMISC;
  return setsockopt(socket, SOL_PACKET, add ? PACKET_ADD_MEMBERSHIP : PACKET_DROP_MEMBERSHIP,
                    &request, sizeof(request)) == 0;
}

/// Adds what the socket has stored, and dropped, since it was last asked.
void add_stored(int socket, unsigned& stored, unsigned& dropped) {
  tpacket_stats_v3 stats{};
  socklen_t length = sizeof(stats);
  if (getsockopt(socket, SOL_PACKET, PACKET_STATISTICS, &stats, &length) != 0) return;
  stored += stats.tp_packets - stats.tp_drops;  // the first includes both (packet_getsockopt)
  dropped += stats.tp_drops;
}

/// Returns the number of packets before `mark` in a ring of which nothing was read.
unsigned packets_before(const RingPosition& position, const RingPosition::Mark& mark) {
  unsigned packets = mark.packets;
  for (unsigned ahead = 0; ahead < mark.blocks; ++ahead) packets += position.header(ahead).num_pkts;
  return packets;
}

/// Keeps signals away, whose handlers may use the handle, from a socket that is being exchanged.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    blocked_ = pthread_sigmask(SIG_SETMASK, &all, &before_) == 0;
  }
  ~NoSignals() {
    if (blocked_) pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_{};
  bool blocked_ = false;
};

}  // namespace

Resize::~Resize() {
  background_.finish();
  if (spare_ < 0) return;
  if (maker_.is_other()) {
    close(spare_);
  } else {
    if (state_ == State::kMaking) request_stamps(spare_, false);
    clean_up();
  }
}

bool Resize::open(SharedSockets::Type type) {
  type_ = type;
  return sockets_.open() && sockets_.open_spare(type);
}

// ---- Making the ring ----

bool Resize::begin(int socket, const Geometry& wanted, bool flow_hash) {
  background_.finish();
  spare_ = sockets_.take_spare(type_);
  if (spare_ < 0) return false;
  state_ = State::kMaking;
  made_.store(false, std::memory_order_relaxed);
  error_ = 0;
  wanted_ = wanted;
  flow_hash_ = flow_hash;
  if (!copy_options(socket, spare_)) {
    error_ = errno;
    made_.store(true, std::memory_order_release);
    return true;
  }
  request_stamps(spare_, true);
  background_.start(
      [](void* resize) -> void* {
        static_cast<Resize*>(resize)->make();
        return nullptr;
      },
      this);
  return true;
}

void Resize::make() {
  if (!ring_.create(spare_, wanted_, flow_hash_)) error_ = errno;
  made_.store(true, std::memory_order_release);
}

void Resize::give_up() {
  request_stamps(spare_, false);
  finish();
}

void Resize::finish() {
  state_ = State::kIdle;
  background_.start(
      [](void* resize) -> void* {
        static_cast<Resize*>(resize)->clean_up();
        return nullptr;
      },
      this);
}

void Resize::clean_up() {
  ring_ = Ring();
  const tpacket_req3 none{};
  // This fails if somebody still has the ring mapped. The socket then can't make another one.
  if (setsockopt(spare_, SOL_PACKET, PACKET_RX_RING, &none, sizeof(none)) != 0) {
    close(spare_);
    spare_ = -1;
  }
  sockets_.put_back(type_, spare_);
  spare_ = -1;
}

// ---- Taking over ----

/// Has the spare socket get what the handle's gets, from the next grace period on at the latest.
bool Resize::bind_spare(int socket, bool promiscuous) {
  sock_filter code[BPF_MAXINSNS];
  sock_fprog filter = {BPF_MAXINSNS, code};
  sockaddr_ll address{};
  socklen_t length = sizeof(address);
  if (!get_filter(socket, filter) || !open_filter(spare_, filter) || !copy_stamps(socket, spare_) ||
      getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return false;
  }
  copy_ignore_outgoing(socket, spare_);
  if (promiscuous && !change_membership(spare_, address.sll_ifindex, true)) return false;
  address.sll_halen = 0;
  unsigned none = 0;
  add_stored(spare_, none, none);  // an attempt that failed may have left it with counts
  return bind(spare_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

bool Resize::take_over(int socket, RingPosition& position, std::uint32_t headroom, bool promiscuous,
                       GracePeriod& grace_period, Counts& counts) {
  const NoSignals no_signals;
  const int flags = fcntl(socket, F_GETFD);
  const int old = fcntl(socket, F_DUPFD_CLOEXEC, 3);
  if (old < 0) return false;
  // Puts the same socket in its place, to see whether that is possible while there is a way back:
  // it is not if the program has lowered RLIMIT_NOFILE below the descriptor.
  const int cloexec = (flags & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0;
  if (dup3(old, socket, cloexec) < 0) {
    const int reason = errno;
    close(old);
    errno = reason;
    return false;
  }
  sockaddr_ll address{};
  socklen_t length = sizeof(address);
  (void)getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length);
  // A packet that has passed the spare socket's place before that was bound must still find the old
  // one open: hence the grace period. Blocks that were handed over by now have no copies.
  const unsigned before = position.handed_over();
  RingPosition other(ring_);
  other.set_headroom(headroom);
  unsigned had = 0;
  bool ok = bind_spare(socket, promiscuous) && grace_period.wait();
  if (ok) {
    had = packets_before(other, other.mark());
    ok = bind_to_nothing(old);
  }
  if (!ok) {
    const int reason = errno;
    (void)bind_to_nothing(spare_);
    if (promiscuous) (void)change_membership(spare_, address.sll_ifindex, false);
    close(old);
    errno = reason;
    return false;
  }
  // Binding a socket to something else has waited for all that was under way to it (af_packet.c:
  // packet_do_bind, __unregister_prot_hook). What the new ring counts now is whole after another
  // grace period.
  const RingPosition::Mark mark = other.mark();
  (void)grace_period.wait();
  other.set_end(mark);
  const RingPosition::Mark rest = position.mark();
  const unsigned blocks = rest.blocks + (rest.packets != 0 ? 1 : 0);
  const Ring& sealed = position.ring();
  if (rest.packets != 0) {
    close_block(sealed.block(position.index(rest.blocks)), sealed.geometry().block_bytes, headroom);
  }
  unsigned removed = 0;
  if (blocks > before) {
    removed = remove_copies({sealed, position.index(before), blocks - before}, other, headroom);
  }
  // While nobody reads, a ring that is full stays full: either it has dropped nothing before the
  // spare socket was bound, or everything since, which the new ring has.
  unsigned stored = 0;
  unsigned dropped = 0;
  add_stored(old, stored, dropped);
  counts.drops = dropped - std::min(dropped, had);
  counts.packets = stored - removed + counts.drops;
  position.replace(ring_, blocks);
  (void)dup3(spare_, socket, cloexec);
  close(spare_);
  spare_ = old;
  if (promiscuous) (void)change_membership(old, address.sll_ifindex, false);
  request_stamps(socket, false);
  state_ = State::kTakenOver;
  return true;
}

}  // namespace pcapv3
