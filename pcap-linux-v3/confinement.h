// SPDX-License-Identifier: BSD-3-Clause
// Whether the process has put itself under seccomp(2) since a handle was activated.
//
// A program that does so allows the system calls that it knows libpcap to make; any other may kill
// it. Where the library wants a further call it asks here first. The answer costs one read(2), of
// /proc/thread-self/status, which is opened while everything is still allowed (proc(5): "Seccomp",
// and since Linux 5.9 "Seccomp_filters"). A filter that was there before, as in every container, is
// no change; but before Linux 5.9 nothing tells it from one more, and the answer is no.
//
// There is one answer for the whole process, about the thread that activated a handle last.
#pragma once

namespace pcapv3 {

/// Opens the file, unless it is open, and notes how things stand on this thread. To be called at
/// each activation, and release_confinement() once for each call; the last one closes the file.
void note_confinement();
void release_confinement();

/// Whether this thread is known to be as free as note_confinement() found it. False on any other
/// thread, and where /proc was not there. Async-signal-safe.
bool is_unconfined();

/// To be called around fork(2): a child that goes on with its parent's handles, as a daemon does,
/// is as free as the parent was.
void confinement_before_fork();
void confinement_in_parent();
void confinement_in_child();

}  // namespace pcapv3
