# SPDX-License-Identifier: BSD-3-Clause
# Captures COUNT packets on DEVICE with Net::Pcap's pcap_next_ex, and prints what it got of each:
# for programs.test.
use strict;
use warnings;
use Net::Pcap;

$| = 1;
my ($device, $count) = @ARGV;
my $error;
my $pcap = Net::Pcap::pcap_open_live($device, 65535, 1, 100, \$error) or die "$error\n";
print STDERR "listening on $device\n";
while ($count > 0) {
  my (%header, $bytes);
  my $status = Net::Pcap::pcap_next_ex($pcap, \%header, \$bytes);
  die Net::Pcap::pcap_geterr($pcap) . "\n" if $status < 0;
  next if $status == 0;
  printf "%d.%06d %d %d %s\n", @header{qw(tv_sec tv_usec caplen len)}, unpack 'H*', $bytes;
  --$count;
}
Net::Pcap::pcap_close($pcap);
