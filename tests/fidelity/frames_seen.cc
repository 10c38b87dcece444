// SPDX-License-Identifier: BSD-3-Clause
// Scenarios: which frames come and how they look, on each kind of device: VLAN tags, sizes,
// snapshot lengths, cooked headers, raw IP, another network namespace; counts; and injecting while
// capturing.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <climits>
#include <functional>

#include "record.h"

namespace pcapv3::fidelity {
namespace {

// Devices of a scenario's own.

void run(const std::string& command) {
  CHECK(std::system(command.c_str()) == 0, "%s", command.c_str());
}

/// The kernel talks IPv6 by itself on an interface that comes up.
void disable_ipv6() {
  for (const char* which : {"all", "default"}) {
    const std::string path = std::string("/proc/sys/net/ipv6/conf/") + which + "/disable_ipv6";
    if (std::FILE* file = std::fopen(path.c_str(), "we")) {
      std::fputs("1", file);
      std::fclose(file);
    }
  }
}

/// Moves this thread into a network namespace with nothing but lo, which ends with the process: the
/// devices made there have the same numbers in every run, and nobody has to remove them.
void enter_empty_namespace(bool with_ipv6 = false) {
  CHECK(unshare(CLONE_NEWNET) == 0, "%s", std::strerror(errno));
  if (!with_ipv6) disable_ipv6();
  run("ip link set lo up");
}

/// A device whose other end is this process.
class Tun {
 public:
  Tun(const char* name, short kind) : fd_(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK)) {
    ifreq request = {};
    std::snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    request.ifr_flags = static_cast<short>(kind | IFF_NO_PI);
    if (fd_ < 0 || ioctl(fd_, TUNSETIFF, &request) != 0) give_up(name);
    run(std::string("ip link set arp off up dev ") + name);
  }
  Tun(const Tun&) = delete;
  Tun& operator=(const Tun&) = delete;
  ~Tun() { close(fd_); }

  /// A packet that comes in.
  void receive(const Bytes& bytes) const {
    if (write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
      give_up("write");
    }
  }

 private:
  int fd_;
};

/// An IP packet of so many bytes that no protocol takes, with a frame's magic and number.
Bytes ip_packet(std::uint32_t number, std::size_t size) {
  Bytes bytes = {0x45, 0};
  append16(bytes, static_cast<std::uint16_t>(size));
  append32(bytes, 0);
  append32(bytes, 0x01fd0000);  // time to live 1, protocol 253 (RFC 3692)
  append32(bytes, 0xc0000201);  // addresses for documentation (RFC 5737)
  append32(bytes, 0xc0000202);
  append32(bytes, kMagic);
  append32(bytes, number);
  while (bytes.size() < size) bytes.push_back(static_cast<std::uint8_t>(number + bytes.size()));
  return bytes;
}

void inject(pcap_t* p, const Bytes& bytes) {
  CHECK(pcap_inject(p, bytes.data(), bytes.size()) == static_cast<int>(bytes.size()), "%s",
        pcap_geterr(p));
}

// VLAN tags.

const std::vector<Frame> kTagged = {
    {.number = 0, .tags = {{.tci = 5}}},
    {.number = 1, .tags = {{.tci = 0}}},
    {.number = 2, .tags = {{.tci = 0xefff}}},
    {.number = 3, .tags = {{.tci = 5}, {.tci = 6}}},
    {.number = 4, .tags = {{.type = 0x88a8, .tci = 100}}},
    {.number = 5, .tags = {{.type = 0x88a8, .tci = 100}, {.tci = 200}}},
    {.number = 6, .tags = {{.type = 0x9100, .tci = 100}, {.tci = 200}}},
    {.number = 7, .tags = {{.tci = 1}, {.tci = 2}, {.tci = 3}}},
    {.number = 8, .size = 1514, .tags = {{.tci = 5}}},
    {.number = 9},
};

void vlan_tags() {
  const Sender in = peer();
  const Sender out = local();
  for (const char* device : {"see0", "any"}) {
    const Handle handle = open_capture({.device = device});
    pcap_t* p = handle.get();
    for (const int type : {DLT_LINUX_SLL, DLT_LINUX_SLL2, DLT_EN10MB}) {
      if (pcap_set_datalink(p, type) != 0) continue;
      note("device", "%s, link type %d", device, type);
      for (const Sender* sender : {&in, &out}) {
        for (const Frame& frame : kTagged) sender->send(frame);
        note_packets(sender == &in ? "in" : "out", p, take_count(p, kTagged.size()));
      }
    }
  }
}

void vlan_tags_cut() {
  const Sender sender = peer();
  for (const char* device : {"see0", "any"}) {
    for (const int snaplen : {1, 12, 14, 15, 16, 18, 20, 64, 102}) {
      for (const bool filtered : {false, true}) {
        const Handle handle = open_capture({.device = device, .snaplen = snaplen});
        pcap_t* p = handle.get();
        note("device", "%s, snapshot length %d%s", device, snaplen, filtered ? ", filter" : "");
        if (filtered) set_filter(p, "");
        for (const Frame& frame : kTagged) sender.send(frame);
        note_packets("frames", p, take_count(p, kTagged.size()));
      }
    }
  }
}

// Sizes.

Bytes frame_of_size(std::uint32_t number, std::size_t size) {
  Bytes bytes = bytes_of({.number = number, .size = std::max<std::size_t>(size, 22)});
  bytes.resize(size);
  return bytes;
}

void sizes() {
  const Watch watch;
  const Sender in = peer();
  const Sender out = local();
  const std::size_t all[] = {14,   15,    16,    17,    18,    20,    22,   33,
                             59,   60,    64,    1513,  1514,  1515,  1518, 4096,
                             9014, 16384, 32768, 65535, 65536, 65548, 65549};  // the MTU is 65535
  const auto send = [](const Sender& sender, std::uint32_t number, std::size_t size) {
    CHECK(sender.try_send(frame_of_size(number, size)), "%zu: %s", size, std::strerror(errno));
  };
  for (const char* device : {"see0", "any"}) {
    for (const Sender* sender : {&in, &out}) {
      note("device", "%s, %s", device, sender == &in ? "in" : "out");
      const Handle handle = open_capture({.device = device});
      for (std::uint32_t i = 0; i < std::size(all); ++i) send(*sender, i, all[i]);
      watch.until(std::size(all) - 1);
      std::size_t taken = 0;
      note_packets("frames", handle.get(), take_counted(handle.get(), taken));
      taken = 0;
      // One by one: stock code then has a slot of the snapshot length for each, and few of them.
      const Handle immediate = open_capture({.device = device, .immediate = true});
      for (std::uint32_t i = 0; i < std::size(all); ++i) {
        send(*sender, i, all[i]);
        if (all[i] < 22) continue;  // it has no number
        watch.until(i);
        note_packets("immediately", immediate.get(), take_counted(immediate.get(), taken));
      }
    }
  }
}

void snapshot_lengths() {
  const Watch watch;
  const Sender sender = peer();
  const std::size_t all[] = {14, 60, 64, 65, 96, 97, 1514, 9014, 65535, 65549};
  struct {
    const char* device;
    int type;
  } const cases[] = {{"see0", DLT_EN10MB}, {"any", DLT_LINUX_SLL}, {"any", DLT_LINUX_SLL2}};
  for (const auto& test : cases) {
    for (const int snaplen : {1, 14, 64, 96, 65535, 262144}) {
      for (const char* filter : {static_cast<const char*>(nullptr), "", "greater 60"}) {
        const Handle handle = open_capture({.device = test.device, .snaplen = snaplen});
        pcap_t* p = handle.get();
        note_status("link type", pcap_set_datalink(p, test.type), p);
        note("device", "%s, snapshot length %d, filter %s", test.device, snaplen,
             filter == nullptr ? "none" : filter);
        note("snapshot length", "%d", pcap_snapshot(p));
        if (filter != nullptr) set_filter(p, filter);
        for (std::uint32_t i = 0; i < std::size(all); ++i) {
          CHECK(sender.try_send(frame_of_size(i, all[i])), "%s", std::strerror(errno));
        }
        watch.until(std::size(all) - 1);
        std::size_t taken = 0;
        note_packets("frames", p, take_counted(p, taken));
      }
    }
  }
}

// A TCP connection, whose segments come in packets larger than the MTU (GSO).

constexpr std::uint16_t kPort = 5001;

/// Where the TCP header begins in a packet to kPort; 0 in any other packet.
std::size_t tcp_at(const Bytes& b) {
  std::size_t at = 0;
  std::uint8_t protocol = 0;
  if (b.size() > ETH_HLEN + 20 && read16(&b[12]) == ETHERTYPE_IP) {
    protocol = b[ETH_HLEN + 9];
    at = ETH_HLEN + 4 * (b[ETH_HLEN] & 0xfU);
  } else if (b.size() > ETH_HLEN + 48 && read16(&b[12]) == ETHERTYPE_IPV6) {
    protocol = b[ETH_HLEN + 6];
    at = ETH_HLEN + 40;
    if (protocol == 0) {  // hop-by-hop options: the length, where it does not fit its field
      protocol = b[at];
      at += 8;
    }
  }
  return protocol == IPPROTO_TCP && b.size() >= at + 20 && read16(&b[at + 2]) == kPort ? at : 0;
}

/// The stream that TCP packets carry, put together by their sequence numbers.
class Stream {
 public:
  explicit Stream(std::size_t bytes) : bytes_(bytes), there_(bytes) {}

  void take(const Bytes& b, std::size_t tcp) {
    const std::size_t payload = tcp + 4 * (b[tcp + 12] >> 4);
    const std::uint32_t sequence = read32(&b[tcp + 4]);
    if ((b[tcp + 13] & 2) != 0) first_ = sequence + 1;  // SYN
    for (std::size_t i = payload; i < b.size(); ++i) {
      const std::size_t at = sequence - first_ + (i - payload);
      if (at >= bytes_.size()) continue;
      bytes_[at] = b[i];
      there_[at] = true;
    }
  }
  bool whole() const { return std::find(there_.begin(), there_.end(), false) == there_.end(); }
  const Bytes& bytes() const { return bytes_; }

 private:
  std::uint32_t first_ = 0;
  Bytes bytes_;
  std::vector<bool> there_;
};

/// Sends `data` through a TCP connection and reads it at the other end.
void transfer(int listener, int fd, const sockaddr* address, socklen_t length, const Bytes& data) {
  std::thread server([&] {
    const int accepted = accept(listener, nullptr, nullptr);
    Bytes part(1 << 20);
    while (read(accepted, part.data(), part.size()) > 0) {
    }
    close(accepted);
  });
  if (connect(fd, address, length) != 0) give_up("connect");
  for (std::size_t at = 0; at < data.size();) {
    const ssize_t sent = write(fd, &data[at], data.size() - at);
    if (sent < 0) give_up("write");
    at += static_cast<std::size_t>(sent);
  }
  close(fd);
  server.join();
}

struct Offload {
  std::string near;
  std::string far;
  std::string link;  // settings of both ends
  bpf_u_int32 large;
  const sockaddr* address;
  socklen_t length;
};

void offload(const Offload& with) {
  const bool v6 = with.address->sa_family == AF_INET6;
  enter_empty_namespace(v6);
  int other = -1;
  std::thread([&] {
    enter_empty_namespace(v6);
    other = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  }).join();
  const std::string path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(other);
  run("ip link add near type veth peer name far netns " + path);
  if (std::system(("ip link set near up " + with.link).c_str()) != 0) {
    note("link", "the kernel or ip can't do that");
    return;
  }
  run("ip addr add dev near " + with.near);
  const auto tcp_socket = [&] {
    const int fd = socket(with.address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) give_up("socket");
    return fd;
  };
  Handle far;
  int listener = -1;
  in_namespace(path.c_str(), [&] {
    run("ip link set far up " + with.link + " && ip addr add dev far " + with.far);
    listener = tcp_socket();
    if (bind(listener, with.address, with.length) != 0 || listen(listener, 1) != 0) {
      give_up("listen");
    }
    far = open_capture({.device = "far", .buffer_bytes = 64 << 20});
  });
  const Handle near = open_capture({.device = "near", .buffer_bytes = 64 << 20});
  const Handle cut = open_capture({.device = "near", .snaplen = 96, .buffer_bytes = 64 << 20});

  Bytes data(8 << 20);
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<std::uint8_t>(i * 2654435761U >> 24);
  }
  transfer(listener, tcp_socket(), with.address, with.length, data);
  note("sent", "%zu bytes, hash %08x", data.size(), hash_of(data));

  const struct {
    const char* name;
    pcap_t* handle;
  } handles[] = {{"near", near.get()}, {"far", far.get()}, {"cut off", cut.get()}};
  for (const auto& [name, handle] : handles) {
    std::size_t taken = 0;
    const Packets packets = take_counted(handle, taken);
    Stream stream(data.size());
    bpf_u_int32 largest = 0;
    bpf_u_int32 most = 0;
    bool whole = true;
    std::uint64_t payload = 0;
    for (const Packet& packet : packets) {
      const std::size_t tcp = tcp_at(packet.bytes);
      if (tcp == 0) continue;
      largest = std::max(largest, packet.header.len);
      most = std::max(most, packet.header.caplen);
      whole = whole && packet.header.len == packet.header.caplen;
      payload += packet.header.len - tcp - 4 * (packet.bytes[tcp + 12] >> 4);
      stream.take(packet.bytes, tcp);
    }
    note(name, "packets larger than %u: %d, whole %d", with.large, largest > with.large, whole);
    note(name, "all of the stream: %d", payload >= data.size());  // with what was sent twice
    if (handle == cut.get()) {
      note(name, "at most %u bytes", most);
    } else {
      note(name, "stream whole %d, hash %08x", stream.whole(), hash_of(stream.bytes()));
    }
    CHECK(stats_of(handle).ps_drop == 0, "%u dropped", stats_of(handle).ps_drop);
  }
}

void tcp_offload() {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  inet_pton(AF_INET, "10.0.0.2", &address.sin_addr);
  offload({.near = "10.0.0.1/24",
           .far = "10.0.0.2/24",
           .link = "",
           .large = 60'000,
           .address = reinterpret_cast<const sockaddr*>(&address),
           .length = sizeof(address)});
}

/// With limits raised (BIG TCP, Linux 5.19) as far as the largest snapshot length holds them.
void tcp_large_offload() {
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(kPort);
  inet_pton(AF_INET6, "fd00::2", &address.sin6_addr);
  offload({.near = "fd00::1/64 nodad",
           .far = "fd00::2/64 nodad",
           .link = "gso_max_size 240000 gro_max_size 240000",
           .large = 65'549,
           .address = reinterpret_cast<const sockaddr*>(&address),
           .length = sizeof(address)});
}

// Cooked headers.

void cooked() {
  constexpr Mac kMulticast = {0x01, 0, 0x5e, 0, 0, 1};
  const Watch watch;
  const Watch watch_loop("lo");
  const Sender in = peer();
  const Sender out = local();
  const Sender loop("lo");
  const struct {
    const Sender& sender;
    Frame frame;
  } cases[] = {
      {in, {.number = 0, .destination = out.mac()}},
      {in, {.number = 1, .destination = kBroadcast}},
      {in, {.number = 2, .destination = kMulticast}},
      {in, {.number = 3}},
      {out, {.number = 4}},
      {out, {.number = 5, .destination = kBroadcast}},
      {loop, {.number = 6, .destination = {}}},
      {loop, {.number = 7}},
      {in, {.number = 8, .tags = {{.tci = 5}}}},
  };
  const auto send_all = [&] {
    for (const auto& test : cases) {
      test.sender.send(test.frame);
      (&test.sender == &loop ? watch_loop : watch).until(test.frame.number);
    }
  };
  for (const int type : {DLT_LINUX_SLL, DLT_LINUX_SLL2}) {
    const Handle handle = open_capture({.device = "any"});
    note_status("link type", pcap_set_datalink(handle.get(), type), handle.get());
    send_all();
    note_packets("frames", handle.get(), take_rest(handle.get()));
  }
  // Each packet has the type that is set when it is read.
  const Handle handle = open_capture({.device = "any"});
  pcap_t* p = handle.get();
  send_all();
  for (std::size_t i = 0; i < std::size(cases); ++i) {
    CHECK(pcap_set_datalink(p, i % 2 == 0 ? DLT_LINUX_SLL2 : DLT_LINUX_SLL) == 0, "%s",
          pcap_geterr(p));
    note_packets("frame", p, take_count(p, 1));
  }
}

// Other devices.

/// A filter for odd frame numbers, by their lowest byte.
const char* odd_on(const char* device) {
  return std::string_view(device) == "any" ? "link[23] & 1 = 1" : "link[21] & 1 = 1";
}

/// What a capture on a device says of it, and the packets that `send` lets come.
void note_device(const char* device, std::uint32_t last, const std::function<void(pcap_t*)>& send,
                 const char* filter = nullptr) {
  const Watch watch(device);
  const Handle handle = open_capture({.device = device});
  pcap_t* p = handle.get();
  note("device", "%s, filter %s", device, filter == nullptr ? "none" : filter);
  note("link type", "%d", pcap_datalink(p));
  if (filter != nullptr) set_filter(p, filter);
  send(p);
  watch.until(last);
  note_packets("packets", p, take_rest(p));
  // lo's have a scenario of their own (direction-counts).
  if (std::string_view(device) != "lo") note_stats("counts", p);
}

void raw_ip_device() {
  enter_empty_namespace();
  const Tun tun("tun0", IFF_TUN);
  const Handle other = open_capture({.device = "tun0"});
  const auto send = [&](pcap_t*) {
    for (const std::size_t size : {28, 29, 100, 1500, 9000, 65535}) {
      tun.receive(ip_packet(static_cast<std::uint32_t>(size), size));
    }
    inject(other.get(), ip_packet(1, 100));
    inject(other.get(), ip_packet(2, 1500));
  };
  for (const char* filter : {static_cast<const char*>(nullptr), "ip", "ip proto 253 and less 100",
                             "greater 1000", "tcp", "src 192.0.2.1"}) {
    note_device("tun0", 2, send, filter);
  }
  for (const int type : {DLT_LINUX_SLL, DLT_LINUX_SLL2}) {
    const Watch watch("tun0");
    const Handle any = open_capture({.device = "any"});
    note_status("link type", pcap_set_datalink(any.get(), type), any.get());
    send(nullptr);
    watch.until(2);
    note_packets("any", any.get(), take_rest(any.get()));
  }
}

void tap() {
  enter_empty_namespace();
  const Tun tap("tap0", IFF_TAP);
  const Handle other = open_capture({.device = "tap0"});
  for (const char* filter : {static_cast<const char*>(nullptr), "vlan", "not vlan"}) {
    note_device(
        "tap0", 99,
        [&](pcap_t*) {
          for (const Frame& frame : kTagged) tap.receive(bytes_of(frame));
          for (const Frame& frame : kTagged) inject(other.get(), bytes_of(frame));
          inject(other.get(), bytes_of({.number = 99}));
        },
        filter);
  }
}

void bridge() {
  enter_empty_namespace();
  // With snooping, a bridge joins a multicast group by itself.
  run("ip link add bridge0 type bridge mcast_snooping 0 && ip link set arp off up dev bridge0");
  const Tun port("tap0", IFF_TAP);
  const Tun other_port("tap1", IFF_TAP);
  for (const char* name : {"tap0", "tap1"}) {
    run(std::string("ip link set master bridge0 dev ") + name);
  }
  // A port forwards at once: the bridge has no spanning tree.
  for (const char* device : {"bridge0", "tap0", "tap1"}) {
    note_device(device, 9, [&](pcap_t*) {
      for (const Frame& frame : kTagged) {
        Frame to_all = frame;
        to_all.destination = kBroadcast;
        port.receive(bytes_of(to_all));
      }
    });
  }
  const Watch watch("bridge0");
  const Handle any = open_capture({.device = "any"});
  CHECK(pcap_set_datalink(any.get(), DLT_LINUX_SLL2) == 0, "%s", pcap_geterr(any.get()));
  port.receive(bytes_of({.number = 1, .destination = kBroadcast}));
  Sender("bridge0").send({.number = 2, .destination = kBroadcast});
  watch.until(2);
  // Without time stamps: a frame that is forwarded keeps the one it had, so they are in no order.
  for (const Packet& packet : mask_padding(any.get(), take_rest(any.get()))) {
    note_packet("any", packet);
  }
}

void ifb() {
  enter_empty_namespace();
  run("ip link add ifb0 type ifb && ip link set arp off up dev ifb0");
  const Tun tap("tap0", IFF_TAP);
  run("tc qdisc add dev tap0 ingress");
  run("tc filter add dev tap0 parent ffff: protocol all u32 match u32 0 0"
      " action mirred egress redirect dev ifb0");
  for (const char* device : {"ifb0", "tap0"}) {
    note_device(device, 9, [&](pcap_t*) {
      for (const Frame& frame : kTagged) tap.receive(bytes_of(frame));
    });
  }
}

void loopback() {
  const Sender sender("lo");
  note_device("lo", 9, [&](pcap_t*) {
    for (const Frame& frame : kTagged) sender.send(frame);
  });
  note_device("lo", 9, [&](pcap_t*) {
    std::uint32_t number = 0;
    for (const std::size_t size : {14, 22, 60, 1514, 9014, 65535, 65549}) {
      CHECK(sender.try_send(frame_of_size(number++, size)), "%zu: %s", size, std::strerror(errno));
    }
    sender.send(9, 1);
  });
}

void other_namespace() {
  const int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  const int there = open(run_arguments().peer, O_RDONLY | O_CLOEXEC);
  CHECK(here >= 0 && there >= 0, "%s", std::strerror(errno));
  const Watch watch;
  const auto enter = [](int space) {
    CHECK(setns(space, CLONE_NEWNET) == 0, "%s", std::strerror(errno));
  };
  const Sender in = peer();
  const Sender out = local();
  for (const bool back : {false, true}) {
    // Created here, activated there: the name is looked up there.
    for (const char* device : {"play0", "see0", "any"}) {
      const Handle handle = create({.device = device});
      pcap_t* p = handle.get();
      enter(there);
      note("device", "%s, back %d", device, back);
      const int status = pcap_activate(p);
      note_status("activate", status, p);
      if (back) enter(here);
      if (status >= 0) {
        out.send(0, 5);
        note_packets("frames", p, take_until(p, 4));
        set_filter(p, odd_on(device));
        out.send(10, 10);
        note_packets("filtered", p, take_until(p, 19));
        note_stats("counts", p);
      }
      enter(here);
    }
    // Opened here, read there.
    const Handle handle = open_capture();
    pcap_t* p = handle.get();
    if (!back) enter(there);
    in.send(0, 5);
    note_packets("frames", p, take_until(p, 4));
    set_filter(p, odd_on("see0"));
    CHECK(pcap_setdirection(p, PCAP_D_IN) == 0, "%s", pcap_geterr(p));
    in.send(10, 10);
    note_packets("filtered", p, take_until(p, 19));
    note_stats("counts", p);
    inject(p, bytes_of({.number = 20}));
    watch.until(20);
    enter(here);
  }
}

// Counts.

void counts() {
  const Sender sender = peer();
  const Watch watch;
  for (const char* device : {"see0", "any"}) {
    for (const bool immediate : {false, true}) {
      const Handle handle = create({.device = device, .snaplen = 2000, .immediate = immediate});
      pcap_t* p = handle.get();
      note("promiscuous", "%d", pcap_set_promisc(p, 1));
      note_status("activate", pcap_activate(p), p);
      note_stats("at first", p);
      sender.send(0, 50);
      watch.until(49);
      note_stats("not read", p);
      note_numbers("read", p, take_count(p, 20));
      note_stats("partly read", p);
      note_numbers("read", p, take_count(p, 30));
      note_stats("read", p);
      set_filter(p, odd_on(device));
      sender.send(50, 50);
      watch.until(99);
      note_stats("filtered", p);
      note_numbers("read", p, take_until(p, 99));
      note_stats("read", p);
      note_stats("again", p);
    }
  }
}

void counts_after_drops() {
  const Sender sender = peer();
  for (const bool immediate : {false, true}) {
    const Handle handle =
        open_capture({.snaplen = 2000, .immediate = immediate, .buffer_bytes = 1 << 19});
    pcap_t* p = handle.get();
    std::uint32_t sent = 0;
    std::size_t taken = 0;
    for (int round = 0; round < 3; ++round) {
      const unsigned dropped = stats_of(p).ps_drop;
      const std::uint32_t first = sent;
      while (stats_of(p).ps_drop == dropped) {
        sender.send(sent, 500, 1400);
        sent += 500;
      }
      const Watch watch;
      sender.send(sent, 1);  // when it has come, all have
      watch.until(sent++);
      const pcap_stat stats = stats_of(p);
      note("received", "%s", stats.ps_recv == sent ? "all" : "not all");
      const Packets packets = take_count(p, stats.ps_recv - stats.ps_drop - taken);
      taken += packets.size();
      bool whole = true;
      std::int64_t last = first - std::int64_t{1};
      for (const Packet& packet : packets) {
        whole = whole && number_in(packet.bytes) > last;
        last = number_in(packet.bytes);
        check_frame(packet, {.number = static_cast<std::uint32_t>(last),
                             .size = last == sent - 1 ? 100U : 1400U});
      }
      note("read", "the first %d, in order %d", number_in(packets.front().bytes) == first, whole);
      const pcap_stat after = stats_of(p);
      note("counts", "%s",
           after.ps_recv == stats.ps_recv && after.ps_drop == stats.ps_drop ? "as they were"
                                                                            : "others");
      sender.send(sent, 10);
      sent += 10;
      taken += 10;
      const Packets more = take_count(p, 10);
      note("goes on", "%d", number_in(more.back().bytes) == sent - 1);
    }
  }
}

// Injecting.

void injecting() {
  char error[PCAP_ERRBUF_SIZE] = "";
  Handle far;
  in_namespace(run_arguments().peer, [&] { far = open_capture({.device = "play0"}); });
  const Watch watch;
  const Handle beside = open_capture();
  const Handle handle = open_capture();
  pcap_t* p = handle.get();
  const Sender in = peer();
  for (std::uint32_t number = 0; number < 20; number += 2) {
    const Bytes bytes = bytes_of({.number = number});
    const auto size = static_cast<int>(bytes.size());
    if (number % 4 == 0) {
      note("inject", "%d", pcap_inject(p, bytes.data(), bytes.size()));
    } else {
      note("sendpacket", "%d", pcap_sendpacket(p, bytes.data(), size));
    }
    watch.until(number);
    in.send(number + 1, 1);
    watch.until(number + 1);
  }
  note_packets("own", p, take_rest(p));
  note_packets("beside", beside.get(), take_rest(beside.get()));
  note_packets("far", far.get(), take_rest(far.get()));
  note_stats("own", p);

  const Bytes large(70000);
  for (const std::size_t size : {0, 1, 13, 14, 15, 60, 65549, 65550, 65553, 65554, 70000}) {
    note("size", "%zu", size);
    errno = 0;  // libpcap adds its text to errors that have nothing to do with it
    const int status = pcap_inject(p, large.data(), size);
    note_status("inject", status, status < 0 ? pcap_geterr(p) : "");
    errno = 0;
    const int sent = pcap_sendpacket(p, large.data(), static_cast<int>(size));
    note_status("sendpacket", sent, sent < 0 ? pcap_geterr(p) : "");
  }
  errno = 0;
  note_status("inject more than fits an int",
              pcap_inject(p, large.data(), std::size_t{INT_MAX} + 1), p);
  note_packets("far", far.get(), take_rest(far.get()));
  CHECK(pcap_setnonblock(p, 1, error) == 0, "%s", error);
  note("inject, not blocking", "%d", pcap_inject(p, large.data(), 100));
}

void injecting_elsewhere() {
  const Bytes bytes = bytes_of({});
  for (const char* device : {"any", "lo"}) {
    const Handle handle = open_capture({.device = device});
    pcap_t* p = handle.get();
    note("device", "%s", device);
    note_status("inject", pcap_inject(p, bytes.data(), bytes.size()), p);
    note_status("sendpacket", pcap_sendpacket(p, bytes.data(), static_cast<int>(bytes.size())), p);
    note_packets("packets", p, take_rest(p));
  }
}

constexpr Scenario kTable[] = {
    {"vlan-tags", on_one_cpu<vlan_tags>},
    {"vlan-tags-cut", on_one_cpu<vlan_tags_cut>},
    {"sizes", on_one_cpu<sizes>},
    {"snapshot-lengths", on_one_cpu<snapshot_lengths>, 60},
    {"tcp-offload", tcp_offload},
    {"tcp-large-offload", tcp_large_offload},
    {"cooked", on_one_cpu<cooked>},
    {"raw-ip-device", on_one_cpu<raw_ip_device>},
    {"tap", on_one_cpu<tap>},
    {"bridge", on_one_cpu<bridge>},
    {"ifb", on_one_cpu<ifb>},
    {"loopback", on_one_cpu<loopback>},
    {"other-namespace", on_one_cpu<other_namespace>},
    {"counts", on_one_cpu<counts>},
    {"counts-after-drops", on_one_cpu<counts_after_drops>},
    {"injecting", on_one_cpu<injecting>},
    {"injecting-elsewhere", on_one_cpu<injecting_elsewhere>},
};

}  // namespace

extern const std::span<const Scenario> kFramesSeenScenarios(kTable);

}  // namespace pcapv3::fidelity
