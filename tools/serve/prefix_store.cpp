#include "prefix_store.h"

#include <cmpool/engine/pool_prefix_store.h>

namespace cmpool::serve {

Result<std::unique_ptr<engine::PrefixStore>> make_prefix_store(const std::string& uri,
                                                               const engine::Model& model,
                                                               engine::PagedKv& kv) {
    if (uri == "none") return nullptr;
    return engine::open_pool_prefix_store(uri, model, kv);
}

}  // namespace cmpool::serve
