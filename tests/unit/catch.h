// SPDX-License-Identifier: BSD-3-Clause
// Catch2 in either of the versions that distributions package: 2.13 or 3.x.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
