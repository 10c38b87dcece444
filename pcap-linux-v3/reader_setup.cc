// SPDX-License-Identifier: BSD-3-Clause
// Sets up a reader: how it gets its ports, and which descriptor the program is given to wait on.

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "reader.h"

namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint32_t kWindowMs = 25;
/// The longest retire timeout of one of several ports. A port's packets come within two of these,
/// so that nothing has to wait much longer than half of the window.
constexpr std::uint32_t kMaxRetireMs = 8;
/// How far apart a busy reader's blocks are at most.
constexpr std::uint32_t kMaxApartMs = 40;

}  // namespace

pcapv3_reader::~pcapv3_reader() {
  break_.set_event(-1);
  delete two_;
  delete merged_;
}

bool pcapv3_reader::open() {
  const char* const* environment = pcapv3::trusted_environment();
  return settings_.read(environment, program_invocation_short_name, error_) &&
         debug_.open("PCAPV3_DEBUG", environment, error_);
}

/// Opens what a drain needs, which takes the privilege that capturing takes.
void pcapv3_reader::open_drain() {
  break_.allow_drain(settings_.drain);
  if (settings_.drain && !grace_period_.open()) {
    debug_.line("a break will leave what is in the kernel's blocks: %s", std::strerror(errno));
  }
}

// ---- One port ----

void pcapv3_reader::set_port(pcapv3_port& port, int socket) {
  open_drain();
  single_.set_port(port);
  delivery_.count_in(port.counters());
  ports_.ports[0] = &port;
  ports_.sockets[0] = socket;
  ports_.count = 1;
  follow();
  note_lone_ring();
}

void pcapv3_reader::note_lone_ring() {
  // If blocks are no further apart than a coalescing sleep, packets come within two of these.
  const pcapv3::Geometry& ring = ports_.ports[0]->ring().geometry();
  coalescing_.forget_rings();
  coalescing_.add(ring.ring_bytes(), ring.block_count,
                  std::min(ring.retire_ms, kMaxApartMs) * kNsPerMs * 3 / 10);
}

void pcapv3_reader::begin_frames(pcapv3_port& port, int socket,
                                 const pcapv3_slots_request& request) {
  two_ = new pcapv3::TwoRings(port);
  if (two_ == nullptr) {
    close(socket);
    return;
  }
  two_->begin(socket, request);
}

bool pcapv3_reader::add_frames() {
  if (!wait_.open({.descriptor = true}, error_) || !two_->open(ports_.sockets[0], wait_, error_)) {
    wait_.close();
    return false;
  }
  break_.set_event(wait_.break_event());
  in_set_ = true;
  kind_ = Kind::kTwoRings;
  return true;
}

void pcapv3_reader::drop_frames() {
  delete two_;
  two_ = nullptr;
}

/// Waits by the set from now on for a port that is read alone, because the program acquires its
/// blocks. Returns false, with the handle's error text, if that fails.
bool pcapv3_reader::enter_set() {
  if (!wait_.is_open()) {
    if (!wait_.open({}, error_)) {
      host_.error(handle_, error());
      return false;
    }
    break_.set_event(wait_.break_event());
  }
  // A forked process may share the set with its parent, and the socket is then still in it.
  if (!wait_.add(0, ports_.sockets[0]) && errno != EEXIST) {
    error_.set("can't wait for %s: %s", ports_.ports[0]->device(), std::strerror(errno));
    host_.error(handle_, error());
    return false;
  }
  in_set_ = true;
  return true;
}

// ---- Several ----

bool pcapv3_reader::open_ports() {
  kind_ = Kind::kMerged;
  if (!wait_.open({.descriptor = true, .links = true}, error_)) return false;
  break_.set_event(wait_.break_event());
  in_set_ = true;
  merged_ = new pcapv3::Merged;
  if (merged_ == nullptr) return error_.set("no memory to merge the ports in");
  hotplug_.set_merged(*merged_);
  open_drain();
  window_ns_ = (settings_.window_ms != 0 ? settings_.window_ms : kWindowMs) * kNsPerMs;
  merged_->merge().set_window(window_ns_);
  hotplug_.set_window(window_ns_);
  return true;
}

std::uint32_t pcapv3_reader::max_retire_ms() const {
  return std::clamp<std::uint32_t>(static_cast<std::uint32_t>(window_ns_ / kNsPerMs / 3), 1,
                                   kMaxRetireMs);
}

bool pcapv3_reader::set_ports(unsigned count, pcapv3_port* const* ports, const int* sockets) {
  // What can fail comes first. A port that takes another's place needs no more memory.
  if (ports_.count == 0) {
    for (unsigned i = 0; i < count; ++i) {
      if (!merged_->add(i, *ports[i], ports[i]->position())) {
        return error_.set("no memory to merge the ports in");
      }
    }
  }
  for (unsigned i = 0; i < count; ++i) {
    if (wait_.add(i, sockets[i])) continue;
    error_.set("can't wait for %s: %s", ports[i]->device(), std::strerror(errno));
    while (i-- > 0) wait_.remove(sockets[i]);
    return false;
  }
  for (unsigned i = 0; i < count; ++i) {
    if (ports_.count != 0) {
      wait_.remove(ports_.sockets[i]);
      merged_->remove(i);
      (void)merged_->add(i, *ports[i], ports[i]->position());
    }
    ports_.ports[i] = ports[i];
    ports_.sockets[i] = sockets[i];
    ports[i]->summarize_late(true);
    note_ring(ports[i]->ring().geometry());
  }
  ports_.count = count;
  follow();
  hotplug_.watch();
  return true;
}

/// Adapts to a port's ring, which decides how long the other ports can be kept waiting.
void pcapv3_reader::note_ring(const pcapv3::Geometry& geometry) {
  if (settings_.window_ms == 0) {
    // A ring of few blocks has a longer timeout than was requested (geometry.cc).
    window_ns_ =
        std::max(window_ns_, (2 * std::uint64_t{geometry.retire_ms} + kMaxRetireMs) * kNsPerMs);
    merged_->merge().set_window(window_ns_);
    hotplug_.set_window(window_ns_);
  }
  // A packet waits for its block, for a coalescing sleep, and for its place in the order: normally
  // less than the window in all.
  const std::uint64_t retire_ns = std::min(geometry.retire_ms, kMaxRetireMs) * kNsPerMs;
  coalescing_.add(geometry.ring_bytes(), geometry.block_count,
                  std::min(retire_ns * 15 / 8, window_ns_ * 3 / 5));
}

// A forked process may go on reading through the same descriptors. So nothing is removed from the
// set that both wait on: a descriptor that this process closes leaves the set when its last owner
// has closed it.
void pcapv3_reader::remove_ports() {
  for (unsigned i = 0; i < ports_.count && merged_ != nullptr; ++i) merged_->remove(i);
  ports_.count = 0;
}

/// Delivers as the ports' plans say. The plans have everything in common except the userland
/// filter, which each port may have; and on lo each packet comes twice.
void pcapv3_reader::follow() {
  pcapv3::Plan common;
  pcapv3::UserlandFilter filter;
  bool loopback = false;
  followed_ = 0;
  for (unsigned i = 0; i < ports_.count; ++i) {
    const pcapv3::Plan& plan = ports_.ports[i]->plan();
    followed_ += ports_.ports[i]->plan_version();
    common = plan;
    // Any filter will do here: the ports' own are run.
    if (plan.filter.run != nullptr) filter = plan.filter;
    loopback |= plan.ifindex == plan.lo_ifindex;
  }
  if (!is_lone()) {
    common.filter = filter;
    if (loopback) common.ifindex = 0;
  }
  delivery_.follow(common);
}

// ---- The descriptor ----

bool pcapv3_reader::hides_descriptor(int timeout_ms) {
  const bool hides = settings_.hides_descriptor;
  if (hides && timeout_ms > 0) timeout_ns_ = static_cast<std::uint64_t>(timeout_ms) * kNsPerMs;
  return hides;
}

/// The program has been given the descriptor: from now on it reports packets that may go because
/// time has passed, which costs two system calls a read.
bool pcapv3_reader::watch_descriptor() {
  if (two_ != nullptr ? !two_->pair().watch() : merged_ == nullptr) return false;
  if (watched_.exchange(true) || !has_read()) return true;
  if (maker_.is_other()) return true;  // the timer and the rest belong to another process, too
  // Events that have already been taken will not come again.
  if (!is_reader()) {
    break_.wake();
  } else if (has_more()) {
    wait_.stay_awake();
  }
  return true;
}

void pcapv3_reader::keep_socket() {
  if (is_lone() && ports_.count != 0) ports_.ports[0]->growth().stop();
}

void pcapv3_reader::use_blocks_only() {
  if (two_ != nullptr) two_->use_blocks_only(is_reader());
}
