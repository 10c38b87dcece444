// What a port that lends blocks waits on: its socket, and a break.
//
// Edge-triggered, because a packet socket calls itself readable for as long as the last block that
// it handed over is not given back (af_packet.c: packet_poll), and that block may be lent.
#pragma once

namespace pcapv3 {

class BlockWait {
 public:
  BlockWait() = default;
  ~BlockWait();
  BlockWait(const BlockWait&) = delete;
  BlockWait& operator=(const BlockWait&) = delete;

  bool is_open() const { return events_ >= 0; }
  void close();
  /// Both descriptors stay their owner's; `break_event` is an eventfd(2), or -1 if there is none.
  /// False, with errno, if it can't be.
  bool open(int socket, int break_event);

  enum class Outcome { kEvent, kTrouble, kTimeout, kSignal, kError };
  /// Waits until something has happened since the last time, at most `timeout_ms`; below 0 for
  /// ever. kTrouble: the socket has an error. kError: errno tells.
  Outcome wait(int timeout_ms);

 private:
  int events_ = -1;
};

}  // namespace pcapv3
