#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <cmpool/base/result.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/engine/model.h>
#include <cmpool/engine/paged_kv.h>
#include <cmpool/engine/prefix_store.h>

namespace cmpool::engine {

/// The namespace that blocks of this model and shape live in.
[[nodiscard]] client::NamespaceSpec namespace_of(const Model& model, const BlockShape& shape);

/// Blocks in a cmpool: loaded before prefill, stored by a thread of its own, off the critical path.
///
///   Lifetime  `kv` outlives it
///   Limits  kStoreQueueMax chains wait for that thread; one more is dropped rather than waited for.
///           load() ends by the URI's deadline; flush() at most one deadline after its limit
///   Errors  open(): Invalid for a URI; Denied and Mismatch when the pool refuses. A pool that is not
///           there is no error, only misses
[[nodiscard]] Result<std::unique_ptr<PrefixStore>> open_pool_prefix_store(std::string_view uri,
                                                                          const Model& model, PagedKv& kv);

inline constexpr std::size_t kStoreQueueMax = 16;

}  // namespace cmpool::engine
