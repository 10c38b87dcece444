// SPDX-License-Identifier: BSD-3-Clause
// The sockets that all handles of a process share: one for grace periods and one spare one of each
// type, for each network namespace.
#include "pcap-linux-v3/shared_sockets.h"

#include <features.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "catch.h"
#include "fake_kernel.h"
#include "pcap-linux-v3/growth/resize.h"

namespace pcapv3::test {
namespace {

using Type = SharedSockets::Type;
constexpr Geometry kRing{4096, 4, 10, 0};

int open_v3() {
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  const int version = TPACKET_V3;
  REQUIRE(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) == 0);
  return fd;
}

}  // namespace

TEST_CASE("shared: two handles have one socket for grace periods") {
  FakeKernel kernel;
  GracePeriod one;
  CHECK_FALSE(one.is_open());
  CHECK_FALSE(one.wait());
  {
    GracePeriod two;
    REQUIRE(one.open());
    REQUIRE(one.open());
    REQUIRE(two.open());
    CHECK(kernel.sockets() == 1);
    CHECK(one.wait());
    CHECK(two.wait());
    CHECK(kernel.grace_periods() == 2);
  }
  CHECK(kernel.sockets() == 1);
  CHECK(one.wait());
}

TEST_CASE("shared: the last handle closes all, and the next one opens them anew") {
  FakeKernel kernel;
  for (int i = 0; i < 40; ++i) {
    SharedSockets one;
    SharedSockets two;
    REQUIRE(one.open());
    REQUIRE(one.open_spare(Type::kRaw));
    REQUIRE(two.open());
    REQUIRE(two.open_spare(Type::kRaw));
    CHECK(kernel.sockets() == 2);
    REQUIRE(two.open_spare(Type::kCooked));
    CHECK(kernel.sockets() == 3);
  }
  CHECK(kernel.sockets() == 0);
}

#if __GLIBC_PREREQ(2, 33)  // before, stat(2) is no function that can be replaced
TEST_CASE("shared: handles of another network namespace have sockets of their own") {
  FakeKernel kernel;
  SharedSockets one;
  REQUIRE(one.open());
  kernel.net_namespace = 2;
  SharedSockets two;
  REQUIRE(two.open());
  SharedSockets three;
  REQUIRE(three.open());
  CHECK(kernel.sockets() == 2);
  CHECK(one.grace_socket() != two.grace_socket());
  CHECK(three.grace_socket() == two.grace_socket());
  REQUIRE(one.open_spare(Type::kRaw));
  CHECK(two.take_spare(Type::kRaw) == -1);
  // The first one's is found again, whichever came between.
  kernel.net_namespace = 1;
  SharedSockets four;
  REQUIRE(four.open());
  CHECK(four.grace_socket() == one.grace_socket());
}

TEST_CASE("shared: with too many namespaces at once, the others have none") {
  FakeKernel kernel;
  std::vector<std::unique_ptr<SharedSockets>> handles;
  for (unsigned i = 0; i < 16; ++i) {
    kernel.net_namespace = 100 + i;
    handles.push_back(std::make_unique<SharedSockets>());
    REQUIRE(handles.back()->open());
  }
  kernel.net_namespace = 200;
  SharedSockets more;
  CHECK_FALSE(more.open());
  CHECK(errno == EMFILE);
  CHECK(kernel.sockets() == 16);
  handles.erase(handles.begin() + 5);
  CHECK(more.open());
}
#endif

TEST_CASE("shared: a spare socket is one handle's at a time") {
  FakeKernel kernel;
  SharedSockets one;
  SharedSockets two;
  CHECK(one.take_spare(Type::kRaw) == -1);
  REQUIRE(one.open());
  REQUIRE(two.open());
  CHECK(one.take_spare(Type::kRaw) == -1);
  REQUIRE(one.open_spare(Type::kRaw));
  const int spare = one.take_spare(Type::kRaw);
  CHECK(spare >= 0);
  CHECK(two.take_spare(Type::kRaw) == -1);
  CHECK(two.open_spare(Type::kRaw));  // there is one, which is taken
  CHECK(kernel.sockets() == 2);
  one.put_back(Type::kRaw, spare);
  CHECK(two.take_spare(Type::kRaw) == spare);
  two.put_back(Type::kRaw, -1);  // it was lost
  close(spare);
  CHECK(one.take_spare(Type::kRaw) == -1);
  CHECK(one.open_spare(Type::kRaw));
  CHECK(one.take_spare(Type::kCooked) == -1);
}

TEST_CASE("shared: a handle that is closed while its ring is made leaves the spare one as it was") {
  FakeKernel kernel;
  kernel.thread_ns = GENERATE(0u, 5'000'000u);
  const int own = open_v3();
  Resize stays;
  REQUIRE(stays.open(Type::kRaw));
  {
    Resize one;
    REQUIRE(one.open(Type::kRaw));
    REQUIRE(one.begin(own, kRing, false));
    CHECK(kernel.stamps_for_all());
    CHECK_FALSE(stays.begin(own, kRing, false));
  }
  CHECK_FALSE(kernel.stamps_for_all());
  CHECK(kernel.mappings() == 0);
  CHECK(kernel.sockets() == 3);
  REQUIRE(stays.begin(own, kRing, false));
  kernel.pass(10'000'000);
  CHECK(stays.is_made());
  CHECK(stays.error() == 0);
  stays.give_up();
  kernel.pass(10'000'000);
  CHECK_FALSE(kernel.stamps_for_all());
  CHECK(kernel.mappings() == 0);
  close(own);
}

TEST_CASE("shared: a forked process leaves its parent's sockets alone") {
  FakeKernel kernel;
  auto one = std::make_unique<SharedSockets>();
  REQUIRE(one->open());
  const pid_t child = fork();
  if (child == 0) {
    one.reset();
    _exit(kernel.sockets() == 0 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(kernel.sockets() == 1);
  GracePeriod two;
  REQUIRE(two.open());
  CHECK(two.wait());
}

}  // namespace pcapv3::test
