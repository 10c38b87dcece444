// SPDX-License-Identifier: BSD-3-Clause
// Detects whether the process has put itself under seccomp(2) since a handle was activated.
//
// A program that does so allows the system calls that it knows libpcap to make; any other may kill
// it. Before the library makes a further call, it asks here. The answer costs one read(2) of
// /proc/thread-self/status, which is opened while everything is still allowed (proc(5): "Seccomp",
// and since Linux 5.9 "Seccomp_filters"). A filter that was there before, as in every container, is
// no change; but before Linux 5.9 nothing distinguishes it from an additional one, and the answer
// is then no.
//
// There is one answer for the whole process, about the thread that last activated a handle.
#pragma once

namespace pcapv3 {

/// note_confinement() opens the file, unless it is open, and notes this thread's state. It must be
/// called at each activation, and release_confinement() once for each such call; the last one
/// closes the file.
void note_confinement();
void release_confinement();

/// Returns whether this thread is known to be as free as note_confinement() found it. Returns false
/// on any other thread, and where /proc was unavailable. Async-signal-safe.
bool is_unconfined();

/// Does the same for a thread that need not be that one: returns whether the thread that
/// note_confinement() found last, if it still exists, is as free as it was. A thread that has
/// confined itself alone, after activation, is not noticed.
bool is_process_unconfined();

/// These must be called around fork(2): a child that continues with its parent's handles, as a
/// daemon does, is as free as the parent was.
void confinement_before_fork();
void confinement_in_parent();
void confinement_in_child();

}  // namespace pcapv3
