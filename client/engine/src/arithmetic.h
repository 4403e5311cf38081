#pragma once

#include <string_view>

namespace cmpool::engine {

/// Names the order of float operations; a change that alters one bit of a result alters it too, so
/// that blocks of the old arithmetic are not found by the new.
inline constexpr std::string_view kArithmetic = "cmpool-f32-1";

}  // namespace cmpool::engine
