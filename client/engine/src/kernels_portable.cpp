#include "kernels_impl.h"

namespace cmpool::engine {

extern const Kernels kPortableKernels;
const Kernels kPortableKernels{"portable", multiply, multiply_on, to_panel, exponentials, silu_multiply};

}  // namespace cmpool::engine
