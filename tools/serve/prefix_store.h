#pragma once

#include <memory>
#include <string>

#include <cmpool/base/result.h>
#include <cmpool/engine/model.h>
#include <cmpool/engine/paged_kv.h>
#include <cmpool/engine/prefix_store.h>

namespace cmpool::serve {

/// The store behind `uri`, for blocks of this model in this memory; nullptr for "none".
/// Errors: those of engine::open_pool_prefix_store().
[[nodiscard]] Result<std::unique_ptr<engine::PrefixStore>> make_prefix_store(const std::string& uri,
                                                                             const engine::Model& model,
                                                                             engine::PagedKv& kv);

}  // namespace cmpool::serve
