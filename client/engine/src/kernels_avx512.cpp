#include "kernels_impl.h"

namespace cmpool::engine {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels{"avx512", multiply, multiply_on, to_panel, exponentials, silu_multiply};

}  // namespace cmpool::engine
