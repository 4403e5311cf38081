#pragma once

#include <memory>
#include <string_view>

#include <cmpool/base/result.h>
#include <cmpool/client/context_cache.h>
#include <cmpool/engine/model.h>
#include <cmpool/engine/paged_kv.h>

namespace cmpool::engine {

/// The namespace that blocks of this model and shape live in.
[[nodiscard]] client::NamespaceSpec namespace_of(const Model& model, const BlockShape& shape);

/// What the engine's pages look like to a cache.
[[nodiscard]] client::KvPages pages_of(PagedKv& kv);

/// The cache of this model's prefixes in the pool at `uri`; nullptr for "none".
/// Errors: those of client::open_context_cache().
[[nodiscard]] Result<std::unique_ptr<client::ContextCache>> open_cache(
    std::string_view uri, const Model& model, PagedKv& kv, client::ContextCacheOptions options = {});

}  // namespace cmpool::engine
