/*
 * What the module may ask of an aggregate's handle: to look after the stock handles of its ports.
 * Implemented in aggregate.c.
 *
 * C linkage; all of these run on the thread that reads the handle. `index` is a port's place in the
 * list of names.
 */
#ifndef PCAP_LINUX_V3_COMPAT_AGGREGATE_H
#define PCAP_LINUX_V3_COMPAT_AGGREGATE_H

#include <pcap/pcap.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the port's interface is there no more, or not in this network namespace. An interface
 * that is only down is there. */
int pcapv3_aggregate_is_gone(pcap_t* aggregate, unsigned index);

/* Binds the port's socket, whose interface is gone, to one of the same name, if there is one and
 * its frames are of the same kind; 0 if so. Wants no privilege. */
int pcapv3_aggregate_bind_again(pcap_t* aggregate, unsigned index);

#ifdef __cplusplus
}
#endif

#endif
