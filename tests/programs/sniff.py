# SPDX-License-Identifier: BSD-3-Clause
# Captures COUNT packets on DEVICE with scapy, which loads libpcap by dlopen, and prints what it got
# of each: for programs.test.
import sys
import zlib

from scapy.config import conf

conf.use_pcap = True
from scapy.all import sniff  # noqa: E402 - it chooses its sockets when it is loaded


def tell(packet):
    data = bytes(packet)
    print(f"{packet.time:.6f} {len(data)} {zlib.crc32(data):08x} {packet.summary()}", flush=True)


device, count = sys.argv[1:]
sniff(
    iface=device,
    count=int(count),
    prn=tell,
    store=False,
    started_callback=lambda: print(f"listening on {device}", file=sys.stderr, flush=True),
)
