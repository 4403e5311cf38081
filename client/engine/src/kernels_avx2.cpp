#include "kernels_impl.h"

namespace cmpool::engine {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels{"avx2", multiply, multiply_on, to_panel, exponentials, silu_multiply};

}  // namespace cmpool::engine
