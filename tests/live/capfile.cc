// SPDX-License-Identifier: BSD-3-Clause
// Reads, writes and compares capture files for the live tests. It owns what "the same packets"
// means: which files can be played onto a veth pair as they are, and what tcpdump must have
// captured after they were. Capturing and playing are left to the scripts.

#include <pcap/pcap.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using Bytes = std::span<const uint8_t>;

constexpr size_t kAddresses = 12;  // destination and source
constexpr size_t kEthernetHeader = 14;
constexpr size_t kTag = 4;
constexpr size_t kLargestFrame = 65535;  // what tcpreplay takes
constexpr uint16_t kSmallestType = 0x0600;
constexpr uint16_t k8021Q = 0x8100;
constexpr uint16_t k8021AD = 0x88a8;
constexpr uint16_t kLocalExperiment = 0x88b5;

constexpr const char* kUsage =
    "usage: capfile playable FILE...\n"
    "       capfile count FILE...\n"
    "       capfile compare [--cooked sll|sll2] [--snaplen N] CAPTURED PLAYED...\n"
    "       capfile compare --same-headers CAPTURED OTHER\n"
    "       capfile holds CAPTURED WITNESS UNTIL-NS\n"
    "       capfile merged CAPTURED LATE COUNT SIZE...\n"
    "       capfile craft-vlan OUT\n"
    "       capfile craft-sizes OUT\n"
    "       capfile craft-end OUT TEXT\n";

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

uint16_t read16(Bytes bytes, size_t offset) {
  return static_cast<uint16_t>(bytes[offset] << 8 | bytes[offset + 1]);
}

void write16(std::vector<uint8_t>& bytes, size_t offset, uint16_t value) {
  bytes[offset] = static_cast<uint8_t>(value >> 8);
  bytes[offset + 1] = static_cast<uint8_t>(value);
}

// The types for which the kernel moves the tag out of a received packet (eth_type_vlan()).
bool is_tag(uint16_t type) { return type == k8021Q || type == k8021AD; }

struct Packet {
  pcap_pkthdr header;
  Bytes bytes;  // valid until the next packet is read
};

class Reader {
 public:
  explicit Reader(std::string path) : path_(std::move(path)) {
    std::array<char, PCAP_ERRBUF_SIZE> text{};
    pcap_.reset(pcap_open_offline_with_tstamp_precision(path_.c_str(), PCAP_TSTAMP_PRECISION_NANO,
                                                        text.data()));
    if (!pcap_) throw Error(path_ + ": " + text.data());
  }

  std::optional<Packet> next() {
    pcap_pkthdr* header = nullptr;
    const u_char* bytes = nullptr;
    const int status = pcap_next_ex(pcap_.get(), &header, &bytes);
    if (status == PCAP_ERROR_BREAK) return std::nullopt;
    if (status != 1) throw Error(path_ + ": " + pcap_geterr(pcap_.get()));
    ++number_;
    return Packet{*header, Bytes(bytes, header->caplen)};
  }

  [[nodiscard]] int link_type() const { return pcap_datalink(pcap_.get()); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] size_t number() const { return number_; }  // of the packet last read, from 1

 private:
  struct Close {
    void operator()(pcap_t* pcap) const { pcap_close(pcap); }
  };
  std::string path_;
  std::unique_ptr<pcap_t, Close> pcap_;
  size_t number_ = 0;
};

// Several files read as one.
class Sequence {
 public:
  explicit Sequence(std::span<char*> paths) : paths_(paths) {}

  std::optional<Packet> next() {
    for (;;) {
      if (reader_) {
        if (auto packet = reader_->next()) return packet;
        reader_.reset();
      }
      if (paths_.empty()) return std::nullopt;
      reader_.emplace(paths_.front());
      paths_ = paths_.subspan(1);
      if (reader_->link_type() != DLT_EN10MB) throw Error(reader_->path() + ": is not Ethernet");
    }
  }

  [[nodiscard]] std::string where() const {
    return reader_->path() + " packet " + std::to_string(reader_->number());
  }

 private:
  std::span<char*> paths_;
  std::optional<Reader> reader_;
};

// ---- playable, count

// A packet that was not captured whole can't be played, and skb_vlan_untag() drops a packet with
// a tag but no type after it.
bool is_playable(const Packet& packet) {
  const size_t size = packet.bytes.size();
  if (size != packet.header.len || size < kEthernetHeader || size > kLargestFrame) return false;
  return !is_tag(read16(packet.bytes, kAddresses)) || size >= kEthernetHeader + kTag + 2;
}

bool is_playable(const char* path) {
  try {
    Reader reader(path);
    if (reader.link_type() != DLT_EN10MB) return false;
    while (const auto packet = reader.next()) {
      if (!is_playable(*packet)) return false;
    }
    return reader.number() > 0;
  } catch (const Error&) {
    return false;  // some of tcpdump's captures are broken on purpose
  }
}

int playable(std::span<char*> paths) {
  for (const char* path : paths) {
    if (is_playable(path)) std::puts(path);
  }
  return 0;
}

int count(std::span<char*> paths) {
  size_t packets = 0;
  size_t bytes = 0;
  for (const char* path : paths) {
    Reader reader(path);
    while (const auto packet = reader.next()) bytes += packet->bytes.size();
    packets += reader.number();
  }
  std::printf("%zu packets, %zu bytes\n", packets, bytes);
  return 0;
}

// ---- compare

// What the kernel says a packet's protocol is (eth_type_trans(), vlan_set_encap_proto()): the
// type, or for a length which of two ways to read what follows it.
uint16_t kernel_protocol(uint16_t type, Bytes rest) {
  constexpr uint16_t kEthP8023 = 1;
  constexpr uint16_t kEthP8022 = 4;
  if (type >= kSmallestType) return type;
  return rest.size() >= 2 && read16(rest, 0) == 0xffff ? kEthP8023 : kEthP8022;
}

// What a cooked packet's protocol is. Kernels from 6.11 on (and the stable ones that took over
// vlan_get_protocol_dgram()) look behind all tags that are in the packet, earlier ones at none.
// Either is the kernel's word, so the captured one decides between the two.
uint16_t cooked_protocol(uint16_t type, Bytes rest, uint16_t captured) {
  uint16_t innermost = type;
  for (Bytes at = rest; is_tag(innermost) && at.size() >= kTag; at = at.subspan(kTag)) {
    innermost = read16(at, 2);
  }
  return is_tag(type) && captured == innermost ? innermost : kernel_protocol(type, rest);
}

// How a link type keeps an Ethernet frame: its header's length and the offsets in it. Of the
// address, which is the source's in a field of 8 bytes, the length's last byte.
struct Cooked {
  const char* name;
  int link_type;
  size_t header;
  size_t protocol;
  size_t address_length;
  size_t address;
  bool keeps_tag;  // libpcap puts it back for SLL only, whose header ends with the protocol
};
constexpr std::array<Cooked, 2> kCooked{
    {{"sll", DLT_LINUX_SLL, 16, 14, 5, 6, true}, {"sll2", DLT_LINUX_SLL2, 20, 0, 11, 12, false}}};

// The frame as the `any` device must show it. The fields that no frame holds (interface, kind
// of packet, hardware type, length of address) are taken over from what was captured.
std::vector<uint8_t> cook(const Cooked& cooked, Bytes frame, Bytes captured) {
  if (captured.size() < cooked.header) throw Error("a packet shorter than its cooked header");
  std::vector<uint8_t> out(captured.begin(), captured.begin() + static_cast<long>(cooked.header));
  std::copy_n(frame.begin() + 6, 6, out.begin() + static_cast<long>(cooked.address));

  uint16_t type = read16(frame, kAddresses);
  frame = frame.subspan(kEthernetHeader);
  if (is_tag(type)) {
    const Bytes rest = frame.subspan(kTag);
    // libpcap asks whether the place for the tag is in the packet, but leaves out the header.
    const bool keeps_tag = cooked.keeps_tag && rest.size() >= cooked.protocol;
    const size_t seen = cooked.protocol + (keeps_tag ? kTag : 0);
    const uint16_t inner = cooked_protocol(read16(frame, 2), rest,
                                           captured.size() < seen + 2 ? 0 : read16(captured, seen));
    if (keeps_tag) {
      out.insert(out.end(), frame.begin(), frame.begin() + kTag);
      write16(out, out.size() - 2, inner);
    } else {
      type = inner;
    }
    frame = rest;
  } else {
    type = kernel_protocol(type, frame);
  }
  write16(out, cooked.protocol, type);
  out.insert(out.end(), frame.begin(), frame.end());
  return out;
}

std::string hex(Bytes bytes, size_t offset) {
  std::string text;
  for (size_t i = offset; i < std::min(bytes.size(), offset + 16); ++i) {
    std::array<char, 4> two{};
    std::snprintf(two.data(), two.size(), " %02x", bytes[i]);
    text += two.data();
  }
  return text;
}

// Empty when they are the same.
std::string difference(const Packet& captured, uint32_t length, Bytes expected) {
  if (captured.header.len != length) {
    return "length is " + std::to_string(captured.header.len) + ", not " + std::to_string(length);
  }
  if (captured.bytes.size() != expected.size()) {
    return "captured length is " + std::to_string(captured.bytes.size()) + ", not " +
           std::to_string(expected.size());
  }
  const auto at = std::ranges::mismatch(captured.bytes, expected).in1 - captured.bytes.begin();
  const auto offset = static_cast<size_t>(at);
  if (offset == expected.size()) return {};
  return "from byte " + std::to_string(offset) + " on it is" + hex(captured.bytes, offset) +
         ", not" + hex(expected, offset);
}

int equal(size_t packets, size_t bytes) {
  std::printf("equal: %zu packets, %zu bytes\n", packets, bytes);
  return 0;
}

int different(const std::string& text) {
  std::puts(text.c_str());
  return 1;
}

int compare_with_played(const Cooked* cooked, size_t snaplen, const char* path,
                        std::span<char*> played) {
  Reader reader(path);
  const int link_type = cooked ? cooked->link_type : DLT_EN10MB;
  if (reader.link_type() != link_type) {
    return different(std::string(path) + ": link type is " + std::to_string(reader.link_type()) +
                     ", not " + std::to_string(link_type));
  }
  Sequence sequence(played);
  size_t bytes = 0;
  while (const auto expected = sequence.next()) {
    const auto captured = reader.next();
    if (!captured) {
      return different(sequence.where() + " and all after it are missing: captured are " +
                       std::to_string(reader.number()) + " packets");
    }
    std::vector<uint8_t> changed;
    Bytes frame = expected->bytes;
    if (cooked) frame = changed = cook(*cooked, frame, captured->bytes);
    const auto length = static_cast<uint32_t>(frame.size());
    const auto text = difference(*captured, length, frame.first(std::min(snaplen, frame.size())));
    if (!text.empty()) {
      return different(sequence.where() + ", captured as packet " +
                       std::to_string(reader.number()) + ": " + text);
    }
    bytes += captured->bytes.size();
  }
  if (const auto extra = reader.next()) {
    return different("packet " + std::to_string(reader.number()) +
                     " was not played: it begins with" + hex(extra->bytes, 0));
  }
  return equal(reader.number(), bytes);
}

constexpr int64_t kStampsApart = 100'000'000;

int64_t nanoseconds(const pcap_pkthdr& header) {  // the reader asks for nanoseconds
  return int64_t{header.ts.tv_sec} * 1'000'000'000 + header.ts.tv_usec;
}

// Magic number with the time stamps' precision, version, snapshot length, link type.
std::array<char, 24> file_header(const char* path) {
  std::array<char, 24> header{};
  if (!std::ifstream(path).read(header.data(), header.size())) {
    throw Error(std::string(path) + ": has no file header");
  }
  return header;
}

// A cooked header without the bytes that the address leaves free in its field: the kernel does not
// write them, so they hold what was in the ring before.
std::vector<uint8_t> without_padding(const Packet& packet, int link_type) {
  std::vector<uint8_t> out(packet.bytes.begin(), packet.bytes.end());
  const auto cooked = std::ranges::find(kCooked, link_type, &Cooked::link_type);
  if (cooked != kCooked.end() && out.size() >= cooked->header) {
    const size_t used = std::min<size_t>(out[cooked->address_length], 8);
    std::fill_n(out.begin() + static_cast<long>(cooked->address + used), 8 - used, uint8_t{0});
  }
  return out;
}

int compare_with_other(const char* path, const char* other_path) {
  Reader reader(path);
  Reader other(other_path);
  if (file_header(path) != file_header(other_path)) return different("the file headers differ");
  size_t bytes = 0;
  while (const auto expected = other.next()) {
    auto captured = reader.next();
    const std::string where = "packet " + std::to_string(other.number());
    if (!captured) return different(where + " and all after it are missing");
    const auto bytes_expected = without_padding(*expected, other.link_type());
    const auto bytes_captured = without_padding(*captured, reader.link_type());
    captured->bytes = bytes_captured;
    const auto text = difference(*captured, expected->header.len, bytes_expected);
    if (!text.empty()) return different(where + ": " + text);
    // Where the packet has no time stamp yet, each socket reads the clock for itself.
    if (std::abs(nanoseconds(captured->header) - nanoseconds(expected->header)) > kStampsApart) {
      return different(where + ": time stamps are more than 0.1 s apart");
    }
    bytes += bytes_captured.size();
  }
  if (reader.next()) {
    return different("packet " + std::to_string(reader.number()) + " is not in the other");
  }
  return equal(reader.number(), bytes);
}

int compare(std::span<char*> arguments) {
  const Cooked* cooked = nullptr;
  size_t snaplen = SIZE_MAX;
  bool same_headers = false;
  const auto take = [&arguments] {
    if (arguments.empty()) throw Error(kUsage);
    const std::string_view first = arguments.front();
    arguments = arguments.subspan(1);
    return first;
  };
  while (!arguments.empty() && std::string_view(arguments.front()).starts_with("--")) {
    const auto option = take();
    if (option == "--same-headers") {
      same_headers = true;
    } else if (option == "--snaplen") {
      snaplen = std::strtoul(take().data(), nullptr, 10);
    } else if (option == "--cooked") {
      cooked = std::ranges::find(kCooked, take(), &Cooked::name);
      if (cooked == kCooked.end()) throw Error(kUsage);
    } else {
      throw Error(kUsage);
    }
  }
  if (arguments.size() < 2) throw Error(kUsage);
  if (same_headers) return compare_with_other(arguments[0], arguments[1]);
  return compare_with_played(cooked, snaplen, arguments[0], arguments.subspan(1));
}

// ---- holds

// Whether CAPTURED holds every packet of WITNESS from its own first one on that was stamped up to
// UNTIL; no two packets may be equal. It may hold more, but those must be the next ones.
int holds(const char* path, const char* witness_path, int64_t until) {
  Reader reader(path);
  Reader witness(witness_path);
  auto captured = reader.next();
  if (!captured) return different("nothing was captured");
  auto expected = witness.next();
  while (expected && !std::ranges::equal(expected->bytes, captured->bytes)) {
    expected = witness.next();
  }
  if (!expected) return different("the first packet is not in " + witness.path());
  size_t later = 0;
  for (; expected; expected = witness.next(), captured = reader.next()) {
    const bool wanted = nanoseconds(expected->header) <= until;
    if (!captured && wanted) {
      return different("after packet " + std::to_string(reader.number()) + ", packets stamped " +
                       std::to_string((until - nanoseconds(expected->header)) / 1000) +
                       " us before the end are missing");
    }
    if (!captured) break;
    if (!std::ranges::equal(expected->bytes, captured->bytes)) {
      return different("packet " + std::to_string(reader.number()) + " is not the next one");
    }
    later += wanted ? 0 : 1;
  }
  std::printf("holds: %zu packets, %zu of them later\n", reader.number(), later);
  return 0;
}

// ---- merged

// Whether CAPTURED is what senders of numbered frames (frames.h), one a port and told by the SIZE
// of their frames, have sent: each frame 0 to COUNT - 1 of each once, those of one size in their
// order, and all by time but for LATE ones.
int merged(const char* path, size_t late, uint32_t count, std::span<char*> sizes) {
  std::vector<std::pair<size_t, uint32_t>> due;  // of each size, the next number
  for (const char* size : sizes) due.emplace_back(std::strtoul(size, nullptr, 10), 0);
  Reader reader(path);
  const size_t header = reader.link_type() == DLT_LINUX_SLL2 ? 20 : kEthernetHeader;
  int64_t newest = 0;
  size_t inversions = 0;
  while (const auto packet = reader.next()) {
    const size_t size = packet->header.len - header + kEthernetHeader;
    const auto sender = std::ranges::find(due, size, &std::pair<size_t, uint32_t>::first);
    if (sender == due.end() || packet->bytes.size() < header + 8) {
      return different("packet " + std::to_string(reader.number()) + " is nobody's");
    }
    const uint32_t number =
        uint32_t{read16(packet->bytes, header + 4)} << 16 | read16(packet->bytes, header + 6);
    if (number != sender->second++) {
      return different("frame " + std::to_string(number) + " of " + std::to_string(size) +
                       " bytes came where " + std::to_string(sender->second - 1) + " was due");
    }
    const int64_t stamp = nanoseconds(packet->header);
    inversions += stamp < newest ? 1 : 0;
    newest = std::max(newest, stamp);
  }
  for (const auto& [size, number] : due) {
    if (number != count) return different(std::to_string(number) + " of " + std::to_string(size));
  }
  if (inversions > late) return different(std::to_string(inversions) + " out of order");
  return 0;
}

// ---- craft

class Writer {
 public:
  explicit Writer(const char* path)
      : pcap_(pcap_open_dead(DLT_EN10MB, 262144)), dumper_(pcap_dump_open(pcap_, path)) {
    if (!dumper_) throw Error(pcap_geterr(pcap_));
  }
  ~Writer() {
    if (dumper_) pcap_dump_close(dumper_);
    pcap_close(pcap_);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // A frame from one locally administered address to another. No protocol handler takes it: the
  // destination is nobody's. The words are what stands between the addresses and the payload.
  void frame(std::initializer_list<uint16_t> words, std::string_view payload) {
    std::vector<uint8_t> bytes{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
    for (const uint16_t word : words) {
      bytes.resize(bytes.size() + 2);
      write16(bytes, bytes.size() - 2, word);
    }
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    const auto size = static_cast<bpf_u_int32>(bytes.size());
    const pcap_pkthdr header{{++seconds_, 0}, size, size};
    pcap_dump(reinterpret_cast<u_char*>(dumper_), &header, bytes.data());
  }

 private:
  pcap_t* pcap_;
  pcap_dumper_t* dumper_;
  long seconds_ = 0;
};

// Bytes of which no two neighbouring blocks are alike, so that a shift shows.
std::string pattern(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i % 251);
  return text;
}

int craft_vlan(const char* path) {
  constexpr uint16_t kIPv4 = 0x0800;
  constexpr uint16_t kIPv6 = 0x86dd;
  constexpr uint16_t kOldQinQ = 0x9100;  // no tag to the kernel
  constexpr uint16_t kPriority5 = 5 << 13;
  constexpr uint16_t kDropEligible = 1 << 12;
  const std::string_view ipv4("\x45\0\0\x14\0\0\0\0\x40\xfd\0\0\xc0\0\2\1\xc0\0\2\2", 20);
  const std::string_view spanning_tree("\x42\x42\x03\0\0\0\0\0", 8);
  const std::string_view novell("\xff\xff\0\x1e\0\0", 6);

  Writer writer(path);
  writer.frame({k8021Q, 7, kIPv4}, ipv4);
  writer.frame({k8021Q, 0, kIPv4}, ipv4);
  writer.frame({k8021Q, kPriority5, kIPv4}, ipv4);
  writer.frame({k8021Q, kPriority5 | kDropEligible | 4095, kIPv6}, pattern(60));
  writer.frame({k8021AD, 100, k8021Q, 7, kIPv4}, ipv4);
  writer.frame({k8021AD, 0, k8021Q, 0, kIPv4}, ipv4);
  writer.frame({k8021AD, 100, kIPv4}, ipv4);
  writer.frame({k8021Q, 8, k8021Q, 9, kIPv4}, ipv4);
  writer.frame({k8021Q, kPriority5, k8021Q, 9, kIPv4}, ipv4);
  writer.frame({k8021AD, 1, k8021AD, 2, k8021Q, 3, kIPv4}, ipv4);
  writer.frame({kOldQinQ, 100, k8021Q, 7, kIPv4}, ipv4);
  writer.frame({k8021Q, 7, 8}, spanning_tree);
  writer.frame({k8021Q, 7, 6}, novell);
  writer.frame({8}, spanning_tree);
  writer.frame({6}, novell);
  writer.frame({k8021Q, 7, kLocalExperiment}, "ab");
  writer.frame({k8021Q, 7, kLocalExperiment}, pattern(1500));
  writer.frame({k8021AD, 100, k8021Q, 7, kLocalExperiment}, pattern(9000));
  writer.frame({kLocalExperiment}, "after the tags");
  return 0;
}

int craft_sizes(const char* path) {
  Writer writer(path);
  for (const size_t size : {14, 15, 60, 61, 1514, 9014, 65534, 65535}) {
    writer.frame({kLocalExperiment}, pattern(size - kEthernetHeader));
  }
  return 0;
}

// One frame of 60 bytes that ends a test's traffic. It is known by its last bytes.
int craft_end(const char* path, std::string text) {
  text.insert(0, 60 - kEthernetHeader - std::min<size_t>(text.size(), 46), '.');
  Writer(path).frame({kLocalExperiment}, text);
  return 0;
}

int run(std::span<char*> arguments) {
  if (arguments.size() < 3) throw Error(kUsage);
  const std::string_view command = arguments[1];
  const auto rest = arguments.subspan(2);
  if (command == "playable") return playable(rest);
  if (command == "count") return count(rest);
  if (command == "compare") return compare(rest);
  if (command == "holds" && rest.size() == 3) {
    return holds(rest[0], rest[1], std::strtoll(rest[2], nullptr, 10));
  }
  if (command == "merged" && rest.size() >= 4) {
    return merged(rest[0], std::strtoul(rest[1], nullptr, 10),
                  static_cast<uint32_t>(std::strtoul(rest[2], nullptr, 10)), rest.subspan(3));
  }
  if (command == "craft-vlan" && rest.size() == 1) return craft_vlan(rest[0]);
  if (command == "craft-sizes" && rest.size() == 1) return craft_sizes(rest[0]);
  if (command == "craft-end" && rest.size() == 2) return craft_end(rest[0], rest[1]);
  throw Error(kUsage);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(std::span(argv, static_cast<size_t>(argc)));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "capfile: %s\n", error.what());
    return 2;
  }
}
