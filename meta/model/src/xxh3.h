#pragma once

// The streaming state is a member of ours, so its size must be known.
#define XXH_STATIC_LINKING_ONLY

// XXH3 as this processor does it best: the library picks its vectors at run time, where it can.
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif
