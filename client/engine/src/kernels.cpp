#include "kernels.h"

#include <array>

namespace cmpool::engine {

extern const Kernels kPortableKernels;

#if defined(__x86_64__)

extern const Kernels kAvx512Kernels;
extern const Kernels kAvx2Kernels;

std::span<const Kernels* const> all_kernels() noexcept {
    static constexpr std::array<const Kernels*, 3> kAll{&kAvx512Kernels, &kAvx2Kernels, &kPortableKernels};
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
    return std::span(kAll).subspan(avx512 ? 0 : avx2 ? 1 : 2);
}

#else

std::span<const Kernels* const> all_kernels() noexcept {
    static constexpr std::array<const Kernels*, 1> kAll{&kPortableKernels};
    return kAll;
}

#endif

const Kernels& best_kernels() noexcept { return *all_kernels().front(); }

}  // namespace cmpool::engine
