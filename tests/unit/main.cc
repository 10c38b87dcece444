// SPDX-License-Identifier: BSD-3-Clause
// Catch2 2.x needs its main() compiled here; 3.x has it in a library.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
