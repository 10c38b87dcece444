// The functions that libpcap calls, each passed on to the object that does it. Nothing is decided
// here.
#include "module.h"

#include <cstdio>

#include "aggregate.h"
#include "break.h"
#include "port.h"
#include "port_list.h"
#include "process.h"

int pcapv3_is_on() { return pcapv3::switched_off() ? 0 : 1; }

void pcapv3_request_break(pcapv3_break* breaking) { pcapv3::Break::of(*breaking).request(); }
void pcapv3_wake_reader(const pcapv3_break* breaking) { pcapv3::Break::of(*breaking).wake(); }
void pcapv3_wait_for_reader(const pcapv3_break* breaking) {
  pcapv3::Break::of(*breaking).wait_for_reader();
}

pcapv3_port* pcapv3_open(pcap_t* handle, pcapv3_break* breaking, const char* device, char* error) {
  pcapv3::watch_forks();
  auto* port = new pcapv3_port(handle, pcapv3::Break::of(*breaking), device);
  if (port == nullptr) {
    std::snprintf(error, PCAP_ERRBUF_SIZE, "no memory for a port");
    return nullptr;
  }
  if (port->open()) return port;
  std::snprintf(error, PCAP_ERRBUF_SIZE, "%s", port->error());
  delete port;
  return nullptr;
}

void pcapv3_open_grace_period(pcapv3_port* port) { port->open_grace_period(); }
int pcapv3_is_own(const pcapv3_port* port) { return port->is_own() ? 1 : 0; }
int pcapv3_is_sole(const pcapv3_port* port) { return port->is_sole() ? 1 : 0; }
void pcapv3_close(pcapv3_port* port) { delete port; }
int pcapv3_keeps_books(const pcapv3_port* port) { return port->keeps_books() ? 1 : 0; }
int pcapv3_takes_immediate(const pcapv3_port* port) { return port->takes_immediate() ? 1 : 0; }
int pcapv3_adapts(const pcapv3_port* port) { return port->adapts() ? 1 : 0; }
void pcapv3_begin_frames(pcapv3_port* port, int frames, int interface, int cooked) {
  port->begin_frames(frames, interface, cooked != 0);
}
int pcapv3_made_frames(pcapv3_port* port) { return port->has_made_frames() ? 0 : -1; }
pcapv3_frames* pcapv3_close_frames(pcapv3_port* port) {
  return reinterpret_cast<pcapv3_frames*>(port->part_with_frames());
}
void pcapv3_wait_for_frames(pcapv3_frames* frames) {
  delete reinterpret_cast<pcapv3::FrameRing*>(frames);
}
void pcapv3_drop_frames(pcapv3_port* port) { port->drop_frames(); }
int pcapv3_second_socket(const pcapv3_port* port) { return port->second_socket(); }
int pcapv3_frames_socket(const pcapv3_port* port) { return port->frames_socket(); }
int pcapv3_fans_out(const pcapv3_port* port) { return port->fans_out() ? 1 : 0; }
int pcapv3_shut(pcapv3_port* port, int fd) { return port->shut(fd) ? 0 : -1; }
int pcapv3_join_fanout(pcapv3_port* port, int fd, int index, int loopback) {
  return port->join_fanout(fd, index, loopback != 0) ? 0 : -1;
}
int pcapv3_renew(pcapv3_port* port, int fd, int spare, int index, int loopback) {
  return port->renew(fd, spare, index, loopback != 0) ? 0 : -1;
}
int pcapv3_make_ring(pcapv3_port* port, int fd, const pcapv3_wish* wish) {
  return port->make_ring(fd, *wish);
}
const char* pcapv3_error(const pcapv3_port* port) { return port->error(); }
void* pcapv3_ring_base(const pcapv3_port* port) { return port->ring().base(); }
unsigned pcapv3_block_count(const pcapv3_port* port) { return port->ring().geometry().block_count; }
unsigned pcapv3_block_bytes(const pcapv3_port* port) { return port->ring().geometry().block_bytes; }
unsigned pcapv3_unfinished_blocks(const pcapv3_port* port) { return port->unfinished_blocks(); }
void pcapv3_refresh(pcapv3_port* port) { port->refresh(); }
void pcapv3_filter_set(pcapv3_port* port) { port->filter_set(); }
int pcapv3_can_lend(const pcapv3_port* port) { return port->can_lend() ? 1 : 0; }
int pcapv3_hides_descriptor(const pcapv3_port* port) { return port->hides_descriptor() ? 1 : 0; }
int pcapv3_closed_books(const pcapv3_port* port, pcap_stat* stats) {
  return port->closed_books(*stats) ? 1 : 0;
}
int pcapv3_read(pcapv3_port* port, int count, pcap_handler callback, u_char* user) {
  return port->read(count, callback, user);
}
void pcapv3_count(pcapv3_port* port, unsigned packets, unsigned drops, unsigned freezes) {
  port->count(packets, drops, freezes);
}
void pcapv3_before_count(pcapv3_port* port) { port->before_count(); }
int pcapv3_take(pcapv3_port* port, int timeout_ms, pcap_v3_block** block) {
  return port->take(timeout_ms, block);
}
int pcapv3_has_lent(const pcapv3_port* port) { return port->has_lent() ? 1 : 0; }
void pcapv3_say_stock(pcapv3_port* port, const char* why) { port->say_stock(why); }

int pcapv3_read_port_names(const char* list, pcapv3_port_names* names, char* error) {
  return pcapv3::read_port_names(list, *names, error) ? 0 : -1;
}
int pcapv3_listed_aggregate(unsigned number, pcapv3_port_names* names, char* name, std::size_t room,
                            char* error) {
  return pcapv3::find_listed(number, *names, name, room, error);
}

pcapv3_aggregate* pcapv3_aggregate_open(pcap_t* handle, volatile sig_atomic_t* break_flag,
                                        pcapv3_break* breaking, int lone, char* error) {
  pcapv3::watch_forks();
  auto* aggregate =
      new pcapv3_aggregate(handle, break_flag, pcapv3::Break::of(*breaking), lone != 0);
  if (aggregate == nullptr) {
    std::snprintf(error, PCAP_ERRBUF_SIZE, "no memory for a list of ports");
    return nullptr;
  }
  if (aggregate->open()) return aggregate;
  std::snprintf(error, PCAP_ERRBUF_SIZE, "%s", aggregate->error());
  delete aggregate;
  return nullptr;
}

void pcapv3_aggregate_close(pcapv3_aggregate* aggregate) { delete aggregate; }
const char* pcapv3_aggregate_error(const pcapv3_aggregate* aggregate) { return aggregate->error(); }
unsigned pcapv3_aggregate_most_retire_ms(const pcapv3_aggregate* aggregate) {
  return aggregate->most_retire_ms();
}
int pcapv3_aggregate_add(pcapv3_aggregate* aggregate, unsigned index, pcapv3_port* port,
                         int socket) {
  return aggregate->add(index, *port, socket) ? 1 : 0;
}
int pcapv3_aggregate_replace(pcapv3_aggregate* aggregate, unsigned count, pcapv3_port* const* ports,
                             const int* sockets) {
  return aggregate->replace(count, ports, sockets) ? 1 : 0;
}
int pcapv3_aggregate_has_read(const pcapv3_aggregate* aggregate) {
  return aggregate->has_read() ? 1 : 0;
}
void pcapv3_aggregate_remove(pcapv3_aggregate* aggregate, unsigned index) {
  aggregate->remove(index);
}
void pcapv3_aggregate_set_nonblocking(pcapv3_aggregate* aggregate, int nonblocking) {
  aggregate->set_nonblocking(nonblocking != 0);
}
void pcapv3_aggregate_set_endless(pcapv3_aggregate* aggregate, int endless) {
  aggregate->set_endless(endless != 0);
}
void pcapv3_aggregate_settle(pcapv3_aggregate* aggregate) { aggregate->settle(); }
int pcapv3_aggregate_is_alone(const pcapv3_aggregate* aggregate) {
  return aggregate->is_alone() ? 1 : 0;
}
int pcapv3_aggregate_descriptor(const pcapv3_aggregate* aggregate) {
  return aggregate->descriptor();
}
int pcapv3_aggregate_hides_descriptor(pcapv3_aggregate* aggregate, int timeout_ms) {
  return aggregate->hides_descriptor(timeout_ms) ? 1 : 0;
}
int pcapv3_aggregate_watch_descriptor(pcapv3_aggregate* aggregate) {
  return aggregate->watch_descriptor() ? 1 : 0;
}
int pcapv3_aggregate_read(pcapv3_aggregate* aggregate, int count, pcap_handler callback,
                          u_char* user) {
  return aggregate->read(count, callback, user);
}
int pcapv3_aggregate_take(pcapv3_aggregate* aggregate, int timeout_ms, pcap_v3_block** block) {
  return aggregate->take(timeout_ms, block);
}
