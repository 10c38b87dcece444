// SPDX-License-Identifier: BSD-3-Clause
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "clock.h"
#include "confinement.h"
#include "setup/fanout.h"
#include "setup/host.h"

namespace {

pcapv3::LinkHeader link_header_of(const pcapv3_host_view& view) {
  if (view.cooked == 0) return pcapv3::LinkHeader::kFrame;
  return view.link_type == DLT_LINUX_SLL2 ? pcapv3::LinkHeader::kSll2 : pcapv3::LinkHeader::kSll;
}

/// Returns the length at which the kernel can truncate packets while the program still gets its
/// snapshot length; 0 if no packet is longer than that anyway.
std::uint32_t truncation_for(const pcapv3_host_view& view, std::uint64_t largest_packet) {
  const auto snapshot = static_cast<std::uint32_t>(view.snapshot);
  if (snapshot >= largest_packet) return 0;
  // An SLL header, the shorter one, takes its share of a cooked packet's snapshot length. The
  // result is never before the place of a VLAN tag, because a packet that ends before it gets none
  // (delivery.cc).
  constexpr std::uint32_t kSllBytes = 16;
  constexpr std::uint32_t kTagPlace = 14;
  const std::uint32_t header = view.cooked != 0 ? kSllBytes : 0;
  return std::max(snapshot > header ? snapshot - header : 0, kTagPlace);
}

}  // namespace

pcapv3_port::pcapv3_port(pcap_t* handle, const pcapv3_host_ops& host, const char* device)
    : handle_(handle), host_(host) {
  std::snprintf(device_, sizeof(device_), "%s", device);
  pcapv3::note_confinement();
}

pcapv3_port::~pcapv3_port() {
  write_summary();
  pcapv3::release_confinement();
  blocks_.drop_filter();
  // Blocks that another process has acquired never come back here, so the ring does not wait for
  // them.
  if (!is_own()) return;
  pcapv3::Ring* const old = growth_.old_ring();
  if (old != nullptr) blocks_.close_old(std::move(*old));
  blocks_.close(std::move(ring_));
}

void pcapv3_port::write_summary() {
  if (!active_ || !stats_.on() || !is_own()) return;
  blocks_.collect(counters_);
  // Nobody else has got what has come since for a member of a fan-out group.
  if (frozen_ && !fans_out()) counters_.received = frozen_received_;
  char text[500];
  pcapv3::summarize(counters_, device_, merged_, two_rings_, text, sizeof(text));
  const pcapv3::Geometry& ring = ring_.geometry();
  char grown[48] = "";
  if (growth_.count() != 0) {
    std::snprintf(grown, sizeof(grown), ", grown from %llu KiB",
                  static_cast<unsigned long long>(first_ring_.ring_bytes() / 1024));
  }
  stats_.line("%s, ring %u x %u KiB%s, retire timeout %u ms", text, ring.block_count,
              ring.block_bytes / 1024, grown, ring.retire_ms);
}

bool pcapv3_port::open() {
  const char* const* environment = pcapv3::trusted_environment();
  if (!settings_.read(environment, program_invocation_short_name, error_) ||
      !debug_.open("PCAPV3_DEBUG", environment, error_) ||
      !stats_.open("PCAPV3_STATS", environment, error_)) {
    return false;
  }
  while (const char* entry = debug_.on() ? pcapv3::next_unknown(environment) : nullptr) {
    debug_.line("%s: %.200s: there is no such setting; see pcap-linux-v3(7)", device_, entry);
  }
  return true;
}

bool pcapv3_port::takes_immediate() const {
  switch (settings_.immediate) {
    case pcapv3::Settings::Immediate::kV2:
      return false;
    case pcapv3::Settings::Immediate::kV3:
      return true;
    case pcapv3::Settings::Immediate::kAdaptive:
      if (adapts()) return true;
      break;
  }
  // From 6.18 on the retire timer is an hrtimer; before, it counts in jiffies, and a packet can
  // wait 4 to 8 ms for it (af_packet.c: prb_setup_retire_blk_timer).
  return pcapv3::kernel_is_at_least(6, 18);
}

bool pcapv3_port::adapts() const {
  // CBPF fan-out exists from 4.3 on; a socket can be in one group only.
  return settings_.immediate == pcapv3::Settings::Immediate::kAdaptive && !fans_out() &&
         pcapv3::kernel_is_at_least(4, 3);
}

bool pcapv3_port::attach_drop_all(int fd) {
  return pcapv3::attach_drop_all(fd) ||
         error_.set("can't attach a filter: %s", std::strerror(errno));
}

bool pcapv3_port::join_fanout(int fd, int index, bool loopback) {
  const sock_fprog none = {};
  if (!pcapv3::join_fanout(fd, settings_.fanout, index, loopback, device_, none, error_)) {
    return false;
  }
  debug_.line("%s: in fan-out group %s", device_, settings_.fanout.text);
  return true;
}

bool pcapv3_port::replace_socket(int fd, int spare, int index, bool loopback) {
  sock_filter code[BPF_MAXINSNS] = {};
  sock_fprog filter = {BPF_MAXINSNS, code};
  pcapv3::Ring ring;
  if (!pcapv3::get_filter(fd, filter) || !pcapv3::copy_options(fd, spare) ||
      !ring.create(spare, first_ring_, flow_hash_)) {
    debug_.line("%s: no other socket in its place: %s", device_, std::strerror(errno));
    return false;
  }
  if (!pcapv3::join_fanout(spare, settings_.fanout, index, loopback, device_, filter, error_)) {
    debug_.line("%s", error());
    return false;
  }
  if (dup3(spare, fd, O_CLOEXEC) < 0) return false;
  ring_.swap(ring);  // now `ring` is the old one; when it goes, so does the old socket
  // The summary does not include what is done with outstanding blocks.
  blocks_.collect(counters_);
  counters_.unwalked += blocks_.uncollected();
  counters_.outstanding = 0;
  blocks_.close(std::move(ring));  // the ring stays while they are outstanding
  position_.restart();
  lost_from_ = lost_to_ = 0;
  return true;
}

int pcapv3_port::make_ring(int fd, const pcapv3_ring_request& request) {
  pcapv3::RingRequest& w = request_;
  w.tool_bytes = request.buffer_bytes;
  w.set_bytes = settings_.buffer;
  w.set_block = settings_.block;
  w.set_retire_ms = settings_.retire_ms;
  w.timeout_ms = request.timeout_ms;
  w.immediate = request.immediate != 0;
  flow_hash_ = request.flow_hash != 0;
  w.max_retire_ms = request.max_retire_ms;
  w.free_bytes = pcapv3::free_memory();
  w.largest_packet = largest_packet_ = pcapv3::largest_packet(request.ifindex);
  w.private_bytes = request.private_size;
  w.page_bytes = static_cast<std::uint32_t>(getpagesize());
  // One in a group shares its packets with others, and with another socket would get others.
  w.grows = w.starts_small = !w.immediate && w.max_retire_ms == 0 && !fans_out() &&
                             w.set_bytes.bytes == 0 && settings_.drain;

  pcapv3::Geometry wanted;
  if (!pcapv3::choose_geometry(w, wanted, error_)) {
    errno = EINVAL;
    return -1;
  }
  if (!ring_.create(fd, wanted, flow_hash_)) {
    const int reason = errno;
    error_.set("can't create a ring of %u blocks of %u KiB: %s%s", wanted.block_count,
               wanted.block_bytes / 1024, std::strerror(reason),
               reason == ENOMEM ? "; PCAPV3_BUFFER can ask for less" : "");
    errno = reason;
    return -1;
  }
  headroom_ = request.cooked != 0 ? pcapv3::kCookedHeadroom : pcapv3::kFrameHeadroom;
  position_.set_headroom(headroom_);
  const pcapv3::Geometry& got = first_ring_ = ring_.geometry();
  debug_.line("%s: TPACKET_V3 ring, %u blocks of %u KiB%s, retire timeout %u ms%s", device_,
              got.block_count, got.block_bytes / 1024,
              got.block_count < wanted.block_count ? " (memory is short)" : "", got.retire_ms,
              request.immediate != 0 ? ", immediate mode" : "");
  if (w.grows && pcapv3::max_ring_bytes(w) > got.ring_bytes() &&
      !growth_.open(w, flow_hash_, request.cooked != 0)) {
    debug_.line("%s: the ring can't grow: %s", device_, std::strerror(errno));
  }
  return 0;
}

void pcapv3_port::refresh() {
  pcapv3_host_view view{};
  host_.look(handle_, &view);
  if (!active_) {
    active_ = true;
    socket_ = view.socket;
    promiscuous_ = view.promiscuous != 0;
    options_ = pcapv3::SocketOptions(view.socket);
    truncate_at_ = truncation_for(view, largest_packet_);
  }
  if (view.has_filter != 0) truncate_at_ = 0;
  options_.ignore_outgoing(view.direction == PCAP_D_IN ||
                           (view.ifindex > 0 && view.ifindex == view.lo_ifindex));

  pcapv3::Plan plan;
  plan.link_header = link_header_of(view);
  plan.vlan_offset = view.vlan_offset;
  plan.snapshot = static_cast<std::uint32_t>(view.snapshot);
  plan.nanoseconds = view.nanoseconds != 0;
  plan.direction = view.direction;
  plan.ifindex = view.ifindex;
  plan.lo_ifindex = view.lo_ifindex;
  if (view.filter_here != 0) {
    plan.filter.run = host_.filter;
    plan.filter.owner = handle_;
    plan.filter.is_whole = view.filter_is_whole != 0;
    if (view.filter_blocks != 0 && view.own_clock == 0) plan.filter.until = filter_set_;
  }
  blocks_.drop_filter();
  filtering_old_blocks_ = view.filter_blocks != 0;
  plan_ = plan;
  ++plan_version_;
}

void pcapv3_port::filter_set() {
  filter_set_ = pcapv3::stamp_of(pcapv3::realtime_ns());
  refresh();
}

void pcapv3_port::log_stock(const char* why) { debug_.line("%s: stock handle: %s", device_, why); }

void pcapv3_port::begin_read() {
  if (truncate_at_ != 0) {
    // This waits for the first read: a program that sets a filter has done so by now, and that
    // filter has seen the earlier packets whole.
    options_.truncate_at(truncate_at_);
    truncate_at_ = 0;
  }
  frozen_ = false;
  read_in_ = pcapv3::process_generation();
}

void pcapv3_port::release_block() {
  const tpacket_hdr_v1& block = position_.header(0);
  const std::uint32_t packets = block.num_pkts;
  const std::uint32_t bytes = used_bytes(block);
  if (!position_.close()) return;
  packets_in_blocks_ += packets;
  count_block(bytes);
}

void pcapv3_port::count_block(std::uint32_t bytes) {
  ++counters_.blocks;
  bytes_read_ += bytes;
  if (filtering_old_blocks_ && !holds_old_filter_ && host_.block_filtered(handle_) == 0) refresh();
}

const char* pcapv3_port::count_corrupt(const pcapv3::PacketCursor& cursor, unsigned block) {
  error_.set("corrupt block %u in the ring: the packet at byte %zu does not fit into it", block,
             cursor.offset());
  counters_.corrupt += cursor.left();
  return error_.c_str();
}

std::uint64_t pcapv3_port::backlog_bytes() const {
  const unsigned half = position_.block_count() / 2;
  std::uint64_t bytes = 0;
  for (unsigned ahead = 0; position_.has(half) && ahead <= half; ++ahead) {
    bytes += used_bytes(position_.header(ahead));
  }
  return bytes;
}

std::uint32_t pcapv3_port::used_bytes(const tpacket_hdr_v1& block) const {
  // The kernel sets this if it closed the block by time (af_packet.c: prb_retire_rx_blk_timer).
  const bool by_time = (pcapv3::status_of(block) & TP_STATUS_BLK_TMO) != 0;
  return by_time ? block.blk_len : position_.ring().geometry().block_bytes;
}

void pcapv3_port::ring_replaced(unsigned packets, unsigned drops) {
  blocks_.ring_replaced(*growth_.old_ring());
  host_.add_counts(handle_, packets, drops);
  host_.ring_replaced(handle_);
}

void pcapv3_port::leave_old_ring() {
  blocks_.collect(counters_);
  blocks_.close_old(std::move(*growth_.old_ring()));
}

void pcapv3_port::freeze_stats(bool complete) {
  host_.count(handle_);
  frozen_ = complete;
  // Packets in blocks that are outstanding, or were released since the last collect(), count as
  // seen.
  frozen_received_ = counters_.seen() + blocks_.uncollected();
}

bool pcapv3_port::frozen_stats(pcap_stat& stats) const {
  if (!frozen_) return false;
  stats.ps_recv = static_cast<u_int>(frozen_received_);
  stats.ps_drop = static_cast<u_int>(counters_.dropped);
  return true;
}

void pcapv3_port::before_count() {
  if (position_.block_count() != 0) filling_ = position_.filling();
}

void pcapv3_port::count(unsigned packets, unsigned drops, unsigned freezes) {
  if (drops != 0 && position_.block_count() != 0) {
    // The kernel has forgotten these drops: blocks that it closes from now on do not report them.
    // It may have closed one or more since before_count(). The numbers reported before stay until
    // they have been read.
    if (lost_to_ < position_.sequence(0)) lost_from_ = filling_;
    lost_to_ = position_.filling();
  }
  counters_.received += packets;
  counters_.dropped += drops;
  counters_.freezes += freezes;
}
