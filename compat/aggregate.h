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
int pcap_aggregate_is_gone(pcap_t* aggregate, unsigned index);

/* Closes the port's handle. Its counts stay in the aggregate's, and the aggregate's error text is
 * that of an interface that is gone. */
void pcap_aggregate_close_port(pcap_t* aggregate, unsigned index);

/* Opens it again, if there is an interface of its name and it is up, with all that the aggregate's
 * handle has been told, and adds it to the aggregate. -1 if it can't be. */
int pcap_aggregate_open_port(pcap_t* aggregate, unsigned index);

#ifdef __cplusplus
}
#endif

#endif
