// SPDX-License-Identifier: BSD-3-Clause
// The functions of module.h, which libpcap calls. Each passes its call on to the object that does
// the work; nothing is decided here.

#include <cstdio>

#include "break.h"
#include "module.h"
#include "port.h"
#include "process.h"
#include "reader.h"
#include "setup/port_list.h"

int pcapv3_is_on() { return pcapv3::switched_off() ? 0 : 1; }

// ---- Breaks ----

void pcapv3_request_break(pcapv3_break* breaking) { pcapv3::Break::of(*breaking).request(); }
void pcapv3_wake_reader(const pcapv3_break* breaking) { pcapv3::Break::of(*breaking).wake(); }
void pcapv3_wait_for_reader(const pcapv3_break* breaking) {
  pcapv3::Break::of(*breaking).wait_for_reader();
}

// ---- Ports ----

pcapv3_port* pcapv3_port_open(pcap_t* handle, const pcapv3_host_ops* host, const char* device,
                              char* error) {
  pcapv3::watch_forks();
  auto* port = new pcapv3_port(handle, *host, device);
  if (port == nullptr) {
    std::snprintf(error, PCAP_ERRBUF_SIZE, "no memory for a port");
    return nullptr;
  }
  if (port->open()) return port;
  std::snprintf(error, PCAP_ERRBUF_SIZE, "%s", port->error());
  delete port;
  return nullptr;
}
void pcapv3_port_close(pcapv3_port* port) { delete port; }
const char* pcapv3_port_error(const pcapv3_port* port) { return port->error(); }
int pcapv3_port_is_own(const pcapv3_port* port) { return port->is_own() ? 1 : 0; }
int pcapv3_port_is_sole(const pcapv3_port* port) { return port->is_sole() ? 1 : 0; }
int pcapv3_port_wants_summary(const pcapv3_port* port) { return port->wants_summary() ? 1 : 0; }
int pcapv3_port_takes_immediate(const pcapv3_port* port) { return port->takes_immediate() ? 1 : 0; }
int pcapv3_port_adapts(const pcapv3_port* port) { return port->adapts() ? 1 : 0; }
int pcapv3_port_fans_out(const pcapv3_port* port) { return port->fans_out() ? 1 : 0; }
int pcapv3_port_attach_drop_all(pcapv3_port* port, int fd) {
  return port->attach_drop_all(fd) ? 0 : -1;
}
int pcapv3_port_join_fanout(pcapv3_port* port, int fd, int index, int loopback) {
  return port->join_fanout(fd, index, loopback != 0) ? 0 : -1;
}
int pcapv3_port_replace_socket(pcapv3_port* port, int fd, int spare, int index, int loopback) {
  return port->replace_socket(fd, spare, index, loopback != 0) ? 0 : -1;
}
int pcapv3_port_make_ring(pcapv3_port* port, int fd, const pcapv3_ring_request* request) {
  return port->make_ring(fd, *request);
}
pcapv3_ring pcapv3_port_ring(const pcapv3_port* port) {
  const pcapv3::Geometry& geometry = port->ring().geometry();
  return {port->ring().base(), geometry.block_count, geometry.block_bytes};
}
unsigned pcapv3_port_unfinished_blocks(const pcapv3_port* port) {
  return port->unfinished_blocks();
}
void pcapv3_port_refresh(pcapv3_port* port) { port->refresh(); }
void pcapv3_port_filter_set(pcapv3_port* port) { port->filter_set(); }
int pcapv3_port_frozen_stats(const pcapv3_port* port, pcap_stat* stats) {
  return port->frozen_stats(*stats) ? 1 : 0;
}
void pcapv3_port_before_count(pcapv3_port* port) { port->before_count(); }
void pcapv3_port_count(pcapv3_port* port, unsigned packets, unsigned drops, unsigned freezes) {
  port->count(packets, drops, freezes);
}
int pcapv3_port_has_outstanding(const pcapv3_port* port) {
  return port->blocks().has_outstanding() ? 1 : 0;
}
void pcapv3_port_log_stock(pcapv3_port* port, const char* why) { port->log_stock(why); }

// ---- Names ----

int pcapv3_read_port_names(const char* list, pcapv3_port_names* names, char* error) {
  return pcapv3::read_port_names(list, *names, error) ? 0 : -1;
}
int pcapv3_listed_ports(unsigned number, pcapv3_port_names* names, char* name, std::size_t room,
                        char* error) {
  return pcapv3::find_listed(number, *names, name, room, error);
}

// ---- Readers ----

pcapv3_reader* pcapv3_reader_open(pcap_t* handle, const pcapv3_host_ops* host,
                                  volatile sig_atomic_t* break_flag, pcapv3_break* breaking,
                                  char* error) {
  pcapv3::watch_forks();
  auto* reader = new pcapv3_reader(handle, *host, break_flag, pcapv3::Break::of(*breaking));
  if (reader == nullptr) {
    std::snprintf(error, PCAP_ERRBUF_SIZE, "no memory for a reader");
    return nullptr;
  }
  if (reader->open()) return reader;
  std::snprintf(error, PCAP_ERRBUF_SIZE, "%s", reader->error());
  delete reader;
  return nullptr;
}
void pcapv3_reader_close(pcapv3_reader* reader) { delete reader; }
const char* pcapv3_reader_error(const pcapv3_reader* reader) { return reader->error(); }
void pcapv3_reader_set_port(pcapv3_reader* reader, pcapv3_port* port, int socket) {
  reader->set_port(*port, socket);
}
void pcapv3_reader_begin_frames(pcapv3_reader* reader, pcapv3_port* port, int frames,
                                const pcapv3_slots_request* request) {
  reader->begin_frames(*port, frames, *request);
}
int pcapv3_reader_made_frames(pcapv3_reader* reader) {
  pcapv3::TwoRings* const two = reader->two_rings();
  return two != nullptr && two->has_made_frames() ? 0 : -1;
}
int pcapv3_reader_add_frames(pcapv3_reader* reader) { return reader->add_frames() ? 0 : -1; }
void pcapv3_reader_drop_frames(pcapv3_reader* reader) { reader->drop_frames(); }
pcapv3_frames* pcapv3_reader_close_frames(pcapv3_reader* reader) {
  pcapv3::TwoRings* const two = reader->two_rings();
  return reinterpret_cast<pcapv3_frames*>(two != nullptr ? two->part_with_frames() : nullptr);
}
void pcapv3_wait_for_frames(pcapv3_frames* frames) {
  delete reinterpret_cast<pcapv3::SlotRing*>(frames);
}
int pcapv3_reader_frames_socket(const pcapv3_reader* reader) {
  const pcapv3::TwoRings* const two = reader->two_rings();
  return two != nullptr ? two->frames_socket() : -1;
}
int pcapv3_reader_second_socket(const pcapv3_reader* reader) {
  const pcapv3::TwoRings* const two = reader->two_rings();
  return two != nullptr && two->pair().is_joined() ? two->frames_socket() : -1;
}
int pcapv3_reader_open_ports(pcapv3_reader* reader) { return reader->open_ports() ? 0 : -1; }
int pcapv3_reader_set_ports(pcapv3_reader* reader, unsigned count, pcapv3_port* const* ports,
                            const int* sockets) {
  return reader->set_ports(count, ports, sockets) ? 0 : -1;
}
unsigned pcapv3_reader_max_retire_ms(const pcapv3_reader* reader) {
  return reader->max_retire_ms();
}
void pcapv3_reader_remove_ports(pcapv3_reader* reader) { reader->remove_ports(); }
int pcapv3_reader_has_read(const pcapv3_reader* reader) { return reader->has_read() ? 1 : 0; }
void pcapv3_reader_follow(pcapv3_reader* reader) { reader->follow(); }
void pcapv3_reader_set_nonblocking(pcapv3_reader* reader, int nonblocking) {
  reader->set_nonblocking(nonblocking != 0);
}
void pcapv3_reader_set_no_timeout(pcapv3_reader* reader, int no_timeout) {
  reader->set_no_timeout(no_timeout != 0);
}
int pcapv3_reader_descriptor(const pcapv3_reader* reader) { return reader->descriptor(); }
int pcapv3_reader_hides_descriptor(pcapv3_reader* reader, int timeout_ms) {
  return reader->hides_descriptor(timeout_ms) ? 1 : 0;
}
int pcapv3_reader_watch_descriptor(pcapv3_reader* reader) {
  return reader->watch_descriptor() ? 1 : 0;
}
void pcapv3_reader_keep_socket(pcapv3_reader* reader) { reader->keep_socket(); }
void pcapv3_reader_use_blocks_only(pcapv3_reader* reader) { reader->use_blocks_only(); }
int pcapv3_reader_read(pcapv3_reader* reader, int count, pcap_handler callback, u_char* user) {
  return reader->read(count, callback, user);
}
int pcapv3_reader_keeps_packet(const pcapv3_reader* reader) {
  return reader->keeps_packet() ? 1 : 0;
}
int pcapv3_reader_acquire(pcapv3_reader* reader, int timeout_ms, pcap_v3_block** block) {
  return reader->acquire(timeout_ms, block);
}
