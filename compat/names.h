/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libpcap's internal names, which 1.10.5 gave a prefix. prepare-libpcap finds out which ones a
 * source has.
 */
#ifndef PCAP_LINUX_V3_COMPAT_NAMES_H
#define PCAP_LINUX_V3_COMPAT_NAMES_H

#ifdef PCAP_LINUX_V3_PCAPINT
#define CREATE_INTERFACE pcapint_create_interface
#define CREATE_COMMON pcapint_create_common
#define CLEAN_UP_COMMON pcapint_cleanup_live_common
#define FIND_DEVICES pcapint_platform_finddevs
#define FIND_DEVICE pcapint_find_dev
#define ADD_DEVICE pcapint_add_dev
#define ONESHOT pcapint_oneshot
#define INSTALL_FILTER pcapint_install_bpf_program
#define FILTER_WITH_AUX_DATA pcapint_filter_with_aux_data
#else
#define CREATE_INTERFACE pcap_create_interface
#define CREATE_COMMON pcap_create_common
#define CLEAN_UP_COMMON pcap_cleanup_live_common
#define FIND_DEVICES pcap_platform_finddevs
#define FIND_DEVICE find_dev
#define ADD_DEVICE add_dev
#define ONESHOT pcap_oneshot
#define INSTALL_FILTER install_bpf_program
#define FILTER_WITH_AUX_DATA pcap_filter_with_aux_data
#endif

#endif
